"""``fedbank client COMMAND``"""

from collections.abc import Sequence

from fedbank.cli import dispatch

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("fedbank_client.membership_commands:init_command", "make a bank's folder and keys from an invitation"),
    "join": ("fedbank_client.membership_commands:join_command", "keep the coordinator's join package"),
    "start": ("fedbank_client.start:start_command", "run this bank's side until stopped"),
    "status": ("fedbank_client.start:status_command", "how this bank's process is"),
    "budget": (
        "fedbank_client.budget_command:budget_command",
        "privacy that customers have spent; budget verify DIR checks the ledger",
    ),
    "policy": ("fedbank_client.membership_commands:policy_command", "what this bank agrees to: show, check"),
    "model": ("fedbank_client.start:model_command", "the digest of a base model, for policy.yaml"),
    "release": ("fedbank_client.release_commands:release_command", "this bank's part in releases: key, review, sign"),
    "sync": ("fedbank_client.adoption_commands:sync_command", "fetch, verify and adopt the members' newest release"),
    "releases": ("fedbank_client.adoption_commands:releases_command", "releases that are here, and the adopted one"),
    "rollback": ("fedbank_client.adoption_commands:rollback_command", "adopt the release before, at once"),
    "serve": ("fedbank_client.serving.commands:serve_command", "answer customers with the adopted release; plan"),
    "token": ("fedbank_client.serving.commands:token_command", "a token for a first run of serve on this machine"),
    "records": (
        "fedbank_client.serving.records_command:records_command",
        "what customers asked: feedback for training, erase one, purge",
    ),
    "doctor": ("fedbank_client.membership_commands:doctor_command", "what may be wrong, and what to do"),
    "leave": ("fedbank_client.membership_commands:leave_command", "leave the consortium"),
}
"""Every command with where it lives and what it does."""


def client_command(words: Sequence[str]) -> int:
    """Run the command that ``words`` name; the exit code."""
    return dispatch("fedbank client", COMMANDS, words)
