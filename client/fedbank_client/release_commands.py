"""A bank's commands before a release is there: its key, where trust begins, review and sign."""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedbank.cli import EXIT_OK, EXIT_USER_ERROR, dispatch
from fedbank.command_line import add_folder, add_json, print_json, say
from fedbank.durable import write_atomic
from fedbank.errors import RunError
from fedbank.evidence.log import EVIDENCE, EvidenceLog
from fedbank.evidence.origin import origin
from fedbank.membership.folders import read_document
from fedbank.passphrases import add_passphrase, read_passphrase
from fedbank.release.change import Published
from fedbank.release.drafts import DraftFolder, sign_draft
from fedbank.release.errors import ReleaseError
from fedbank.release.keys import NAMED, write_release_key
from fedbank.sealing.keys import SigningKey
from fedbank_client.home import Home, find_home
from fedbank_client.own_customers import ask, is_somebody_here, keep
from fedbank_client.policy import read_policy
from fedbank_client.release_home import ReleaseHome

if TYPE_CHECKING:
    from fedbank_client.release_review import Review

YES_HELP = "a person has decided: do not ask, and do not look at this bank's own customers"
_HERE = "fedbank_client.release_commands"
COMMANDS: dict[str, tuple[str, str]] = {
    "key": (f"{_HERE}:key_command", "make this bank's release key and the file that names it"),
    "trust": (f"{_HERE}:trust_command", "begin with the members' first root"),
    "review": (f"{_HERE}:review_command", "look at a draft: what it changes, against this bank's own books"),
    "sign": (f"{_HERE}:sign_command", "review a draft and sign it"),
}
"""Every command with where it lives and what it does."""


def release_command(words: Sequence[str]) -> int:
    """``fedbank client release COMMAND``"""
    return dispatch("fedbank client release", COMMANDS, words)


def key_command(words: Sequence[str]) -> int:
    """``fedbank client release key``"""
    parser = argparse.ArgumentParser(
        prog="fedbank client release key",
        description="Make a new release key and release-key.json, which names it to the coordinator. The key may be "
        "taken to another machine: sign there with --key FILE.",
    )
    add_folder(parser)
    add_passphrase(parser)
    chosen = parser.parse_args(list(words))
    home = find_home(chosen.dir)
    if home.release_key.exists():
        raise RunError(
            f"Expected no release key yet, got {home.release_key}. To replace it, move it away first, make the new "
            "one, and have the members sign the change: fedbank server release keys --add FILE"
        )
    key = SigningKey.generate()
    key.save(home.release_key, read_passphrase(chosen, new=True))
    named = home.folder / NAMED
    write_atomic(named, write_release_key(home.bank, home.consortium, key.public, home.load_signing_key()))
    say(
        f"Made {home.release_key}. Send {named} to the coordinator and compare over a second channel:\n"
        f"  {key.public.hex()}"
    )
    return EXIT_OK


def trust_command(words: Sequence[str]) -> int:
    """``fedbank client release trust FILE``"""
    parser = argparse.ArgumentParser(
        prog="fedbank client release trust",
        description="Begin with the members' first root. Whoever gives you the file, compare its SHA-256 with another "
        "member: all trust in releases follows from it, and it is taken once.",
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    add_folder(parser)
    chosen = parser.parse_args(list(words))
    releases, content = ReleaseHome(find_home(chosen.dir)), read_document(chosen.file)
    with releases.exclusive():
        releases.pin(content)
    say(f"Trust begins with the root whose SHA-256 is\n  {hashlib.sha256(content).hexdigest()}")
    return EXIT_OK


def review_command(words: Sequence[str]) -> int:
    """``fedbank client release review DRAFT``"""
    return _review("review", words)


def sign_command(words: Sequence[str]) -> int:
    """``fedbank client release sign DRAFT``"""
    return _review("sign", words)


def _review(action: str, words: Sequence[str]) -> int:
    chosen = _parser(action).parse_intermixed_args(list(words))
    home = find_home(chosen.dir)
    releases, drafted = ReleaseHome(home), DraftFolder(chosen.draft)
    key = _release_key(home, chosen) if action == "sign" else None

    from fedbank_client.release_review import review

    _refresh(home, releases)
    asks = key is not None and _asks(releases, drafted, chosen)
    found = review(
        releases,
        drafted,
        read_policy(home.policy),
        key.public if key else None,
        chosen.overrides,
        suite=chosen.suite,
        evaluate=not chosen.no_evaluation,
        own=key is None or asks,
    )
    _show(home, found, chosen)
    if not found.passed:
        sys.stderr.write("Expected everything in order, got the lines above. Nothing was signed.\n")
        return EXIT_USER_ERROR
    if asks and not ask(f"Sign this: {found.change.sentence()}?"):
        sys.stderr.write("Nothing was signed, as you decided.\n")
        return EXIT_USER_ERROR
    if key is not None:
        output = chosen.output or Path(f"{home.bank}-{chosen.draft.resolve().name}.signature.json")
        with open_evidence(home) as evidence:
            evidence.append("change-signed", found.change.about, found.change.sentence(), home.bank)
        write_atomic(output, sign_draft(found.draft, home.bank, key))
        say(f"Signed. Send {output} to the coordinator.")
    return EXIT_OK


def _parser(action: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"fedbank client release {action}",
        description="Look at a draft: exactly what it changes as against what this bank trusts, its files, and, for a "
        "release, its figures against this bank's ledger and evidence. How it does on this bank's own customers is "
        "shown to a person, who decides: no program goes by it."
        + (" If everything is in order, write the signature file to send back." if action == "sign" else ""),
    )
    parser.add_argument("draft", type=Path, metavar="DRAFT", help="the folder that the coordinator sent")
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="as of fedbank client start")
    add_folder(parser)
    parser.add_argument("--suite", type=Path, metavar="FILE", help="the public suite, to compute its scores again")
    parser.add_argument("--no-evaluation", action="store_true", help="leave out what needs the base model")
    add_json(parser)
    if action == "sign":
        parser.add_argument("--key", type=Path, metavar="FILE", help="the release key, if it is kept elsewhere")
        parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: BANK-DRAFT.signature.json")
        parser.add_argument("--yes", action="store_true", help=YES_HELP)
        add_passphrase(parser)
    return parser


def _asks(releases: ReleaseHome, drafted: DraftFolder, chosen: argparse.Namespace) -> bool:
    """Whether a person is to decide here: about a new adapter, unless one has decided already."""
    if (
        chosen.yes
        or chosen.no_evaluation
        or not isinstance(drafted.change(releases.trusted(), drafted.read()), Published)
    ):
        return False
    if is_somebody_here():
        return True
    raise RunError(
        "Expected a person at a terminal to decide whether to sign this release, got none. Look at it with: fedbank "
        "client release review; then sign it with --yes. Nothing was signed."
    )


def _show(home: Home, found: "Review", chosen: argparse.Namespace) -> None:
    """What the checks say; and, for a person, how the release does on this bank's own customers."""
    own = found.own
    if own is not None and isinstance(found.change, Published):
        keep(home.folder, found.change.release, own)
    if chosen.json:
        checks = [{"check": check.name, "passed": check.passed, "said": check.said} for check in found.checks]
        shown = {"own_customers": own.sentence() if own is not None else None}
        print_json({"change": found.change.sentence(), "passed": found.passed, "checks": checks, **shown})
    else:
        for check in found.checks:
            say(f"{'ok  ' if check.passed else 'NOT '} {check.name}: {check.said}")
        if own is not None:
            say(f"look own customers: {own.sentence()}. This line decides nothing; you do.")
    if own is not None:
        say_if_made_up(chosen.overrides)


def say_if_made_up(overrides: Sequence[str]) -> None:
    """Tell a person who named no data that the scores are on the default: made-up customers."""
    if not any(word.startswith("data=") for word in overrides):
        sys.stderr.write(
            "These customers were made up. Name your own, as for fedbank client start: data=csv data.path=FILE\n"
        )


def _refresh(home: Home, releases: ReleaseHome) -> None:
    """Fetch the newest metadata before a change is compared with it; otherwise what was verified last counts."""
    if not releases.root.exists() or not home.joined:
        return
    from fedbank.release.mirror import Mirror
    from fedbank_client.repository_client import RepositoryFetcher

    fetcher = RepositoryFetcher(home.tls_context(), home.addresses)
    try:
        with releases.exclusive():
            Mirror(releases.trust, releases.pinned_root(), fetcher, fetcher.url).look()
    except ReleaseError as error:  # the banks must be able to sign their way out of a repository that is broken
        sys.stderr.write(
            f"{str(error).removesuffix(' Nothing was adopted.')}\nCompared with what this bank verified last.\n"
        )
    finally:
        fetcher.close()


def _release_key(home: Home, chosen: argparse.Namespace) -> SigningKey:
    return SigningKey.load(chosen.key or home.release_key, read_passphrase(chosen))


def open_evidence(home: Home) -> EvidenceLog:
    """The bank's evidence. It may be handed over: no entry holds a figure about customers."""
    return EvidenceLog(home.folder / EVIDENCE, origin(home.consortium, home.bank), home.load_signing_key())
