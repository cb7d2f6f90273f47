"""``fedbank server COMMAND``"""

from collections.abc import Sequence

from fedbank.cli import dispatch

_MEMBERSHIP = "fedbank_server.membership_commands"
COMMANDS: dict[str, tuple[str, str]] = {
    "init": (f"{_MEMBERSHIP}:init_command", "make the folder of a new consortium"),
    "invite": (f"{_MEMBERSHIP}:invite_command", "write a one-time invitation for a bank"),
    "admit": (f"{_MEMBERSHIP}:admit_command", "admit a bank that answered its invitation"),
    "members": (f"{_MEMBERSHIP}:members_command", "who is a member, and until when"),
    "revoke": (f"{_MEMBERSHIP}:revoke_command", "end a bank's membership at once"),
    "renew": (f"{_MEMBERSHIP}:renew_command", "certificates for another year"),
    "start": ("fedbank_server.start:start_command", "serve the banks until stopped"),
    "run": ("fedbank_server.start:run_command", "run one campaign, or continue it"),
    "status": ("fedbank_server.status_command:status_command", "the campaign, the banks, the last error"),
    "release": ("fedbank_server.release_commands:release_command", "releases that the members sign: draft, publish"),
    "stop": ("fedbank_server.start:stop_command", "stop serving"),
    "doctor": (f"{_MEMBERSHIP}:doctor_command", "what may be wrong, and what to do"),
    "backup": (f"{_MEMBERSHIP}:backup_command", "write the whole folder into one file"),
    "restore": (f"{_MEMBERSHIP}:restore_command", "make a folder from such a file"),
}
"""Every command with where it lives and what it does."""


def server_command(words: Sequence[str]) -> int:
    """Run the command that ``words`` name; the exit code."""
    return dispatch("fedbank server", COMMANDS, words)
