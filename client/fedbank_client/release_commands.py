"""A bank's commands about releases: its key, review and sign, sync, what is here, rollback."""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fedbank.cli import EXIT_OK, EXIT_USER_ERROR, dispatch
from fedbank.command_line import add_folder, add_json, now, plain_console, print_json, say
from fedbank.durable import write_atomic
from fedbank.errors import RunError
from fedbank.evidence.log import EVIDENCE, EvidenceLog
from fedbank.evidence.origin import origin
from fedbank.membership.folders import read_document
from fedbank.passphrases import add_passphrase, read_passphrase
from fedbank.release.contents import CHANNELS
from fedbank.release.drafts import DraftFolder, sign_draft
from fedbank.release.errors import ReleaseError
from fedbank.release.keys import NAMED, write_release_key
from fedbank.sealing.keys import SigningKey
from fedbank_client.home import Home, find_home
from fedbank_client.policy import read_policy
from fedbank_client.release_home import ReleaseHome

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


def sync_command(words: Sequence[str]) -> int:
    """``fedbank client sync``"""
    parser = argparse.ArgumentParser(
        prog="fedbank client sync",
        description="Fetch what the channel names, verify it down to the last byte, check it against policy.yaml, load "
        "it in a throw-away process, score it on this bank's held-out customers, adopt it. A step that fails leaves "
        "the adopted release where it is.",
    )
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="as of fedbank client start")
    add_folder(parser)
    parser.add_argument("--channel", choices=CHANNELS, default=CHANNELS[1])
    parser.add_argument("--again", action="store_true", help="also what a rollback here has set aside")
    add_json(parser)
    chosen = parser.parse_intermixed_args(list(words))
    home = find_home(chosen.dir)

    from fedbank.release.build import Scores
    from fedbank_client.adoption import Adoption, score_apart
    from fedbank_client.repository_client import RepositoryFetcher

    def score(adapter: Path) -> Scores:
        say_if_made_up(chosen.overrides)
        return score_apart(adapter, chosen.overrides)

    fetcher = RepositoryFetcher(home.tls_context(), home.addresses)
    try:
        with _evidence(home) as evidence:
            adoption = Adoption(
                ReleaseHome(home),
                read_policy(home.policy),
                score,
                lambda action, about, result: _note(evidence, home, action, about, result),
            )
            synced = adoption.sync(fetcher, fetcher.url, chosen.channel, now(), again=chosen.again)
    finally:
        fetcher.close()
    if chosen.json:
        release = synced.adopted.release if synced.adopted else None
        print_json({"release": release, "changed": synced.changed, "said": synced.said})
    else:
        say(synced.said)
    return EXIT_OK


def releases_command(words: Sequence[str]) -> int:
    """``fedbank client releases``"""
    parser = argparse.ArgumentParser(prog="fedbank client releases", description="Releases that are here.")
    add_folder(parser)
    add_json(parser)
    chosen = parser.parse_args(list(words))
    releases = ReleaseHome(find_home(chosen.dir))
    adopted, stored = releases.adopted(), releases.stored()
    if chosen.json:
        print_json(
            {
                "adopted": adopted.release if adopted else None,
                "channel": adopted.channel if adopted else None,
                "since": adopted.since if adopted else None,
                "previous": adopted.previous if adopted else None,
                "stored": stored,
            }
        )
        return EXIT_OK
    from rich.table import Table

    table = Table(title="Releases here")
    for column in ("release", "", "folder that PEFT loads"):
        table.add_column(column, overflow="fold")
    for release in stored:
        is_adopted = adopted is not None and adopted.release == release
        state = f"adopted since {adopted.since[:16]}" if adopted is not None and is_adopted else ""
        table.add_row(release, state, str(releases.of(release) / "adapter"))
    plain_console().print(table)
    return EXIT_OK


def rollback_command(words: Sequence[str]) -> int:
    """``fedbank client rollback``"""
    parser = argparse.ArgumentParser(
        prog="fedbank client rollback",
        description="Adopt the release before again, at once and here alone. What the channel names is set aside until "
        "the channel changes.",
    )
    parser.add_argument("release", nargs="?", metavar="RELEASE", help="default: the one before")
    add_folder(parser)
    chosen = parser.parse_args(list(words))
    home = find_home(chosen.dir)

    from fedbank_client.adoption import Adoption, score_apart

    with _evidence(home) as evidence:
        adoption = Adoption(
            ReleaseHome(home),
            read_policy(home.policy),
            partial(score_apart, overrides=()),
            lambda action, about, result: _note(evidence, home, action, about, result),
        )
        back = adoption.roll_back(chosen.release, now())
    say(f"{back.release} is adopted again, instead of {back.previous}.")
    return EXIT_OK


def _review(action: str, words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=f"fedbank client release {action}",
        description="Look at a draft: exactly what it changes as against what this bank trusts, its files, and, for a "
        "release, its figures against this bank's ledger, evidence and customers."
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
        add_passphrase(parser)
    chosen = parser.parse_intermixed_args(list(words))
    home = find_home(chosen.dir)
    releases, drafted = ReleaseHome(home), DraftFolder(chosen.draft)
    key = _release_key(home, chosen) if action == "sign" else None

    from fedbank_client.release_review import review

    _refresh(home, releases)
    found = review(
        releases,
        drafted,
        read_policy(home.policy),
        key.public if key else None,
        chosen.overrides,
        suite=chosen.suite,
        evaluate=not chosen.no_evaluation,
    )
    if chosen.json:
        checks = [{"check": check.name, "passed": check.passed, "said": check.said} for check in found.checks]
        print_json({"change": found.change.sentence(), "passed": found.passed, "checks": checks})
    else:
        for check in found.checks:
            say(f"{'ok  ' if check.passed else 'NOT '} {check.name}: {check.said}")
    if any(check.name == "own customers" for check in found.checks):
        say_if_made_up(chosen.overrides)
    if not found.passed:
        sys.stderr.write("Expected everything in order, got the lines above. Nothing was signed.\n")
        return EXIT_USER_ERROR
    if key is not None:
        output = chosen.output or Path(f"{home.bank}-{chosen.draft.resolve().name}.signature.json")
        with _evidence(home) as evidence:
            _note(evidence, home, "change-signed", found.change.about, found.change.sentence())
        write_atomic(output, sign_draft(found.draft, home.bank, key))
        say(f"Signed. Send {output} to the coordinator.")
    return EXIT_OK


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


def _evidence(home: Home) -> EvidenceLog:
    return EvidenceLog(home.folder / EVIDENCE, origin(home.consortium, home.bank), home.load_signing_key())


def _note(evidence: EvidenceLog, home: Home, action: str, about: str, result: str) -> None:
    evidence.append(action, about, result, home.bank)
