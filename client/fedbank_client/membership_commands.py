"""A bank's commands around membership: init, join, leave, policy show and check, doctor."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from fedbank.command_line import add_folder, add_json, now, print_json, say
from fedbank.errors import ConfigError
from fedbank.membership.documents import Invitation
from fedbank.membership.folders import read_document
from fedbank.membership.health import report
from fedbank.membership.names import BANK, BANK_MEANING
from fedbank_client.doctor import examine
from fedbank_client.enrolment import enrol, join, leave
from fedbank_client.home import find_home
from fedbank_client.policy import CampaignOffer, PolicyError, read_policy


def init_command(words: Sequence[str]) -> int:
    """``fedbank client init DIR --bank NAME --invitation FILE``"""
    parser = argparse.ArgumentParser(
        prog="fedbank client init",
        description="Make a bank's folder: its own keys, which never leave it, a careful policy.yaml to edit, and "
        "request.json to send to the coordinator.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder that does not exist yet")
    parser.add_argument("--bank", required=True, help="this bank's name, as in the invitation")
    parser.add_argument("--invitation", type=Path, required=True, metavar="FILE", help="from the coordinator")
    parser.add_argument(
        "--continue",
        dest="earlier",
        type=Path,
        metavar="OLD",
        help="this bank's folder of an earlier membership that it has left: its ledger and policy go on in DIR",
    )
    chosen = parser.parse_args(list(words))
    if not re.fullmatch(BANK, chosen.bank):
        raise ConfigError(f"Expected {BANK_MEANING}, got {chosen.bank!r:.80}. See the invitation's letter.")
    invitation = Invitation.read(read_document(chosen.invitation))
    earlier = None if chosen.earlier is None else find_home(chosen.earlier)
    home, request = enrol(chosen.folder, chosen.bank, invitation, now(), earlier=earlier)
    say(
        f"Made the folder of {home.bank} in {home.folder}. Compare with the coordinator over a second channel:\n"
        f"  its key              {home.coordinator_key.hex()}\n"
        f"  your signing key     {request.signing_key.hex()}\n"
        f"Next: send {home.request} to the coordinator, edit {home.policy}, and delete the invitation. With the\n"
        f"package that comes back: fedbank client join --dir {home.folder} PACKAGE"
    )
    return 0


def join_command(words: Sequence[str]) -> int:
    """``fedbank client join PACKAGE``"""
    parser = argparse.ArgumentParser(
        prog="fedbank client join",
        description="Check the coordinator's join package against the invitation and this bank's own keys; keep it.",
    )
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="from the coordinator")
    add_folder(parser)
    chosen = parser.parse_args(list(words))
    home = find_home(chosen.dir)
    join(home, read_document(chosen.package), now())
    say(f"{home.bank} is a member of {home.consortium}, with {', '.join(home.read_roster().active())}.")
    return 0


def leave_command(words: Sequence[str]) -> int:
    """``fedbank client leave``"""
    parser = argparse.ArgumentParser(
        prog="fedbank client leave",
        description="Leave the consortium: write a signed notice for the coordinator and remove what this bank "
        "connects with. Ledger, evidence and policy stay.",
    )
    add_folder(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    chosen = parser.parse_args(list(words))
    home = find_home(chosen.dir)
    if not chosen.yes:
        sys.stdout.write(f"{home.bank} leaves {home.consortium}: its TLS and node keys are removed. Type its name: ")
        sys.stdout.flush()
        if sys.stdin.readline().strip() != home.bank:
            say("Nothing was changed.")
            return 2
    notice = leave(home, now())
    say(
        f"{home.bank} has left. Send {notice} to the coordinator, who then runs:\n"
        f"  fedbank server revoke {home.bank} --notice {notice.name}"
    )
    return 0


def policy_command(words: Sequence[str]) -> int:
    """``fedbank client policy show|check``"""
    parser = argparse.ArgumentParser(
        prog="fedbank client policy",
        description="Show what this bank agrees to, or check the file and, with --offer, whether a campaign fits.",
    )
    parser.add_argument("action", choices=("show", "check"))
    add_folder(parser)
    parser.add_argument("--offer", type=Path, metavar="FILE.json", help="check: a campaign's offer")
    add_json(parser)
    chosen = parser.parse_args(list(words))
    if chosen.offer is not None and chosen.action == "show":
        parser.error("--offer belongs to check")
    home = find_home(chosen.dir)
    policy = read_policy(home.policy)
    refusal = None
    if chosen.offer is not None:
        try:
            policy.check(CampaignOffer.from_json(read_document(chosen.offer)), now())
        except PolicyError as error:
            refusal = str(error)
    if chosen.json:
        print_json({"policy": policy.to_dict(), "warnings": policy.warnings(), "refusal": refusal})
    elif chosen.action == "show":
        say("\n".join(f"{name}: {_plain(value)}" for name, value in policy.to_dict().items()))
    else:
        for warning in policy.warnings():
            say(f"warn  {warning}")
        fits = "" if chosen.offer is None else " The campaign fits." if refusal is None else f"\nfail  {refusal}"
        say(f"ok    {home.policy} is understood.{fits}")
    return 0 if refusal is None else 2


def doctor_command(words: Sequence[str]) -> int:
    """``fedbank client doctor``"""
    parser = argparse.ArgumentParser(
        prog="fedbank client doctor",
        description="Check this bank's folder, its machine and the way to the coordinator; exits with 2 if something "
        "fails.",
    )
    add_folder(parser)
    parser.add_argument("--offline", action="store_true", help="do not connect to the coordinator")
    add_json(parser)
    chosen = parser.parse_args(list(words))
    return report(examine(find_home(chosen.dir), now, reach=not chosen.offline), as_json=chosen.json)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
