"""A bank's commands about releases that were published: sync, what is here, rollback."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from fedbank.cli import EXIT_OK
from fedbank.command_line import add_folder, add_json, now, plain_console, print_json, say
from fedbank.release.contents import CHANNELS
from fedbank_client.home import Home, find_home
from fedbank_client.own_customers import ask, is_somebody_here, keep, kept_sentence, look
from fedbank_client.policy import read_policy
from fedbank_client.release_commands import YES_HELP, open_evidence, say_if_made_up
from fedbank_client.release_home import ReleaseHome

if TYPE_CHECKING:
    from fedbank.evidence.log import EvidenceLog
    from fedbank_client.adoption import Adoption, Arrived, Synced


def sync_command(words: Sequence[str]) -> int:
    """``fedbank client sync``"""
    parser = argparse.ArgumentParser(
        prog="fedbank client sync",
        description="Fetch what the channel names, verify it down to the last byte, check it against policy.yaml, load "
        "it in a throw-away process. Then show how it does on this bank's held-out customers, and ask whether to adopt "
        "it. Without a terminal it waits until a person has decided. A step that fails leaves the adopted release "
        "where it is.",
    )
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="as of fedbank client start")
    add_folder(parser)
    parser.add_argument("--channel", choices=CHANNELS, default=CHANNELS[1])
    parser.add_argument("--again", action="store_true", help="also what a rollback here has set aside")
    parser.add_argument("--yes", action="store_true", help=YES_HELP)
    add_json(parser)
    chosen = parser.parse_intermixed_args(list(words))
    home = find_home(chosen.dir)
    synced, own = _fetched(home, chosen), None
    if synced.arrived is not None:
        own = _own(home, synced.arrived, chosen)
        synced = _decided(home, synced, chosen)
    if chosen.json:
        release = synced.adopted.release if synced.adopted else None
        waits = synced.arrived.release if synced.arrived else None
        shown = {"waits": waits, "own_customers": own}
        print_json({"release": release, "changed": synced.changed, "said": synced.said, **shown})
    else:
        say(synced.said)
    return EXIT_OK


def _fetched(home: Home, chosen: argparse.Namespace) -> "Synced":
    """All that the coordinator sees of a sync: it ends here, before anybody looks at a customer."""
    from fedbank_client.repository_client import RepositoryFetcher

    fetcher = RepositoryFetcher(home.tls_context(), home.addresses)
    try:
        with open_evidence(home) as evidence:
            adoption = _adoption(home, evidence, chosen.overrides)
            take = adoption.sync if chosen.yes else adoption.bring
            return take(fetcher, fetcher.url, chosen.channel, now(), again=chosen.again)
    finally:
        fetcher.close()


def _own(home: Home, arrived: "Arrived", chosen: argparse.Namespace) -> str:
    """How it does on own customers; where nobody is there to be shown anew, what was found before."""
    kept = kept_sentence(home.folder, arrived.release)
    if kept is None or is_somebody_here():
        found = look(ReleaseHome(home).of(arrived.release) / "adapter", chosen.overrides)
        keep(home.folder, arrived.release, found)
        kept = found.sentence()
    if not chosen.json:
        say(f"look own customers: {kept}. This line decides nothing; you do.")
    say_if_made_up(chosen.overrides)
    return kept


def _decided(home: Home, synced: "Synced", chosen: argparse.Namespace) -> "Synced":
    arrived = synced.arrived
    if arrived is None or not is_somebody_here():
        how = "At a terminal fedbank client sync asks you; in a script --yes says that you have decided."
        return replace(synced, said=f"{synced.said} {how}")
    if not ask(f"Adopt {arrived.release}?"):
        return replace(synced, said=f"{arrived.release} was not adopted, as you decided. It waits.")
    with open_evidence(home) as evidence:
        return _adoption(home, evidence, chosen.overrides).adopt(arrived, now())


def _adoption(home: Home, evidence: "EvidenceLog", overrides: Sequence[str]) -> "Adoption":
    from fedbank_client.adoption import Adoption, load_apart

    def note(action: str, about: str, result: str) -> None:
        evidence.append(action, about, result, home.bank)

    return Adoption(ReleaseHome(home), read_policy(home.policy), partial(load_apart, overrides=overrides), note)


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

    with open_evidence(home) as evidence:
        back = _adoption(home, evidence, ()).roll_back(chosen.release, now())
    say(f"{back.release} is adopted again, instead of {back.previous}.")
    return EXIT_OK
