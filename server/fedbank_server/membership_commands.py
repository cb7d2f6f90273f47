"""The coordinator's commands around membership: init, invite, admit, members, revoke, renew, ..."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from fedbank.certificates import Authority
from fedbank.command_line import add_folder, add_json, now, plain_console, print_json, say
from fedbank.durable import write_atomic
from fedbank.errors import ConfigError
from fedbank.membership.folders import read_document, utc
from fedbank.membership.health import report
from fedbank.membership.names import BANK, BANK_MEANING
from fedbank.passphrases import add_passphrase, read_passphrase
from fedbank.sealing.roster import COORDINATOR, Roster
from fedbank_server.arguments import refuse_file
from fedbank_server.authority import DEFAULT_HOSTS, DEFAULT_PORT, create_consortium, load_authority, renew_server
from fedbank_server.backup import back_up, restore
from fedbank_server.consortium import Files, find_folder
from fedbank_server.doctor import examine
from fedbank_server.invitations import invite, read_invitations
from fedbank_server.members import accept_notice, active_members, admit, expiry_of, renew, revoke


def init_command(words: Sequence[str]) -> int:
    """``fedbank server init DIR --name NAME``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server init",
        description="Make the folder of a new consortium: authority, certificates, keys, an empty roster, and "
        "consortium.yaml to edit.",
        epilog="A passphrase encrypts the authority's key, which only fedbank server admit needs. Draw it at random.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder that does not exist yet")
    parser.add_argument("--name", required=True, help="the consortium's name")
    parser.add_argument(
        "--host", action="append", help="where banks reach the server, name or IP; several (default: this machine only)"
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"for banks (default: {DEFAULT_PORT})")
    add_passphrase(parser)
    chosen = parser.parse_args(list(words))
    hosts = tuple(dict.fromkeys(chosen.host or DEFAULT_HOSTS))
    create_consortium(
        chosen.folder, chosen.name, now(), hosts=hosts, port=chosen.port, passphrase=read_passphrase(chosen, new=True)
    )
    say(
        f"Made the consortium {chosen.name} in {chosen.folder}, reached at {', '.join(hosts)}, port {chosen.port}.\n"
        f"The coordinator's key is {Files(chosen.folder).public_key().hex()}\n"
        f"Tell it to every bank over a second channel. Next: edit {Files(chosen.folder).settings}, then\n"
        f"  fedbank server invite --dir {chosen.folder} --bank BANK -o FILE"
    )
    return 0


def invite_command(words: Sequence[str]) -> int:
    """``fedbank server invite --bank NAME -o FILE``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server invite",
        description="Write a one-time invitation for a bank. Whoever has the file can join in that bank's name: send "
        "it in confidence.",
    )
    add_folder(parser)
    parser.add_argument("--bank", required=True, help=BANK_MEANING)
    parser.add_argument("--valid-hours", type=float, default=24.0, metavar="H", help="default: 24")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the invitation's file")
    chosen = parser.parse_args(list(words))
    folder = find_folder(chosen.dir)
    bank = _bank(chosen.bank)
    if not 0 < chosen.valid_hours <= 24 * 30:
        raise ConfigError(f"Expected --valid-hours above 0 and at most 720, got {chosen.valid_hours}. 24 is usual.")
    refuse_file(chosen.output)
    invitation, content = invite(folder, bank, now(), valid=timedelta(hours=chosen.valid_hours))
    write_atomic(chosen.output, content, mode=0o600)
    say(
        f"Wrote the invitation for {bank} to {chosen.output}, valid until {utc(invitation.expires)}. Send it in "
        "confidence.\n"
        f"The bank must see this coordinator key, compared over a second channel:\n  {invitation.coordinator_key.hex()}"
    )
    return 0


def admit_command(words: Sequence[str]) -> int:
    """``fedbank server admit REQUEST``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server admit",
        description="Check a bank's join request, issue its certificate, add it to the roster and write the join "
        "package to send back. The same request again writes the same membership again.",
    )
    parser.add_argument("request", type=Path, metavar="REQUEST", help="the bank's request.json")
    add_folder(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="PACKAGE", help="default: BANK.package.json")
    add_passphrase(parser)
    chosen = parser.parse_args(list(words))
    folder = find_folder(chosen.dir)
    content = read_document(chosen.request)
    if chosen.output is not None:
        refuse_file(chosen.output)
    request, package = admit(folder, content, partial(_authority, folder, chosen), now())
    output = chosen.output or Path(f"{request.bank}.package.json")
    write_atomic(output, package)
    say(
        f"{request.bank} is a member. Wrote its join package to {output}: send it back.\n"
        f"Compare the bank's signing key with it over a second channel:\n  {request.signing_key.hex()}"
    )
    return 0


def members_command(words: Sequence[str]) -> int:
    """``fedbank server members``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server members", description="Members, revoked members and open invitations."
    )
    add_folder(parser)
    add_json(parser)
    chosen = parser.parse_args(list(words))
    folder = find_folder(chosen.dir)
    shown = _statement(Files(folder), active_members(folder), now())
    if chosen.json:
        print_json(shown)
        return 0
    table = Table(title=f"{shown['consortium']}, roster {shown['sequence']}")
    for column in ("bank", "state", "since", "certificate until", "signing key"):
        table.add_column(column, overflow="fold")
    for row in shown["members"]:
        since, expires = row["revoked"] or row["joined"], row["certificate_expires"] or ""
        table.add_row(row["bank"], row["state"], since[:16], expires[:10], row["signing_key"][:16])
    for row in shown["invitations"]:
        table.add_row(row["bank"], "invited", row["issued"][:16], f"to join: {row['expires'][:16]}", "")
    plain_console().print(table)
    return 0


def revoke_command(words: Sequence[str]) -> int:
    """``fedbank server revoke BANK``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server revoke",
        description="End a bank's membership at once: listeners refuse it within seconds, running campaigns included.",
    )
    parser.add_argument("bank", metavar="BANK")
    add_folder(parser)
    why = parser.add_mutually_exclusive_group()
    why.add_argument("--reason", default="", help="goes into the evidence")
    why.add_argument("--notice", type=Path, metavar="FILE", help="the leave notice that the bank signed")
    chosen = parser.parse_args(list(words))
    folder = find_folder(chosen.dir)
    if chosen.notice is None:
        member = revoke(folder, chosen.bank, now(), reason=chosen.reason)
    else:
        member = accept_notice(folder, read_document(chosen.notice), chosen.bank, now())
    say(f"{member.bank} is no member since {member.revoked}. Roster {active_members(folder).sequence}.")
    return 0


def renew_command(words: Sequence[str]) -> int:
    """``fedbank server renew``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server renew",
        description="A new certificate for the server (for the hosts in consortium.yaml; restart it then), or with "
        "--bank for a member's same key: write the package for it to join with again.",
    )
    add_folder(parser)
    parser.add_argument("--bank", metavar="BANK", help="a member; until it has joined again it is refused")
    parser.add_argument("-o", "--output", type=Path, metavar="PACKAGE", help="default: BANK.package.json")
    add_passphrase(parser)
    chosen = parser.parse_args(list(words))
    folder = find_folder(chosen.dir)
    authority = partial(_authority, folder, chosen)
    if chosen.bank is None:
        hosts = renew_server(folder, authority(), now())
        say(f"Made a new certificate for {', '.join(hosts)}. Restart the server.")
        return 0
    bank = _bank(chosen.bank)
    output = chosen.output or Path(f"{bank}.package.json")
    refuse_file(output)
    write_atomic(output, renew(folder, bank, authority, now()))
    say(f"Wrote the new join package of {bank} to {output}: send it, to be joined with again.")
    return 0


def backup_command(words: Sequence[str]) -> int:
    """``fedbank server backup FILE``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server backup",
        description="Write the whole folder into one file, with checksums. It holds every key: give a passphrase, or "
        "keep it as safe as the folder. The server may run meanwhile.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a new file")
    add_folder(parser)
    add_passphrase(parser)
    chosen = parser.parse_args(list(words))
    made = back_up(find_folder(chosen.dir), chosen.file, read_passphrase(chosen, new=True))
    say(f"Wrote {made.files} files, {made.size / 1e6:.1f} MB, to {chosen.file}.")
    if made.left_out:
        say(f"Left out links and special files: {', '.join(made.left_out)}.")
    return 0


def restore_command(words: Sequence[str]) -> int:
    """``fedbank server restore FILE DIR``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server restore", description="Make a new folder from a backup, once every checksum is right."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="from fedbank server backup")
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder that does not exist yet")
    add_passphrase(parser)
    chosen = parser.parse_args(list(words))
    made = restore(chosen.file, chosen.folder, read_passphrase(chosen))
    say(
        f"Made {chosen.folder} from {made.files} files. What changed after the backup is lost: revoke again whoever "
        "was revoked since, and compare\n"
        f"  fedbank server members --dir {chosen.folder}"
    )
    return 0


def doctor_command(words: Sequence[str]) -> int:
    """``fedbank server doctor``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server doctor", description="Check the coordinator's folder; exits with 2 if something fails."
    )
    add_folder(parser)
    add_json(parser)
    chosen = parser.parse_args(list(words))
    return report(examine(find_folder(chosen.dir), now()), as_json=chosen.json)


def _authority(folder: Path, chosen: argparse.Namespace) -> Authority:
    return load_authority(Files(folder), read_passphrase(chosen))


def _statement(files: Files, roster: Roster, moment: datetime) -> dict[str, Any]:
    members = []
    for member in roster.members.values():
        expires = expiry_of(files, member.bank)
        members.append(
            {
                "bank": member.bank,
                "state": "active" if member.revoked is None else "revoked",
                "joined": member.joined,
                "revoked": member.revoked,
                "signing_key": member.signing_key.hex(),
                "certificate_sha256": member.certificate_sha256,
                "certificate_expires": None if expires is None else utc(expires),
            }
        )
    still_open = [
        {name: value for name, value in asdict(given).items() if name in ("bank", "issued", "expires")}
        for given in read_invitations(files)
        if given.used is None and given.withdrawn is None and datetime.fromisoformat(given.expires) > moment
    ]
    return {
        "consortium": roster.consortium,
        "sequence": roster.sequence,
        "roster": roster.digest(),
        "coordinator_key": roster.coordinator_key.hex(),
        "members": members,
        "invitations": still_open,
    }


def _bank(name: str) -> str:
    if not re.fullmatch(BANK, name) or name == COORDINATOR:
        raise ConfigError(f"Expected {BANK_MEANING}, got {name!r:.80}. Choose another.")
    return name
