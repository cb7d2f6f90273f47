"""``fedbank server status``: the consortium's state, for people and for programs."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedbank.certificates import read_private
from fedbank.command_line import add_folder, add_json, now, plain_console, print_json, say
from fedbank.foreign import printable
from fedbank.proposal import shown_campaign
from fedbank_server.consortium import Files, find_folder, read_consortium
from fedbank_server.overview import BankView, Overview, read_overview

_STYLES = {
    "sent": "green",
    "training": "blue",
    "waiting": "yellow",
    "late": "yellow",
    "offline": "yellow",
    "refused": "red",
    "left-out": "red",
    "revoked": "red",
    "excluded": "red",
}


def status_command(words: Sequence[str]) -> int:
    """``fedbank server status [--watch] [--json] [--url]``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server status",
        description="The round, each bank's state, what banks disclosed of their privacy, the next deadline, the last "
        "error. States: idle, training (has the request), waiting (for its hours), sent, late, refused, left-out (much "
        "longer than the others' updates), offline, revoked, excluded (what it accepted is not what was proposed; the "
        "note says why). Steps and ends are expected, from the times of earlier rounds: how far a bank really is, only "
        "it knows. Epsilon: what the bank's ledger has spent in this campaign, of what it agreed to; in brackets over "
        "all campaigns; each if its policy tells it.",
    )
    add_folder(parser)
    add_json(parser)
    parser.add_argument("--watch", action="store_true", help="show it until Ctrl-C")
    parser.add_argument("--url", action="store_true", help="print the address of the live page; it holds the token")
    chosen = parser.parse_args(list(words))
    folder = find_folder(chosen.dir)
    if chosen.url:
        say(page_address(folder))
    elif chosen.json:
        print_json(_read(folder).as_json())
    elif chosen.watch:
        _watch(folder)
    else:
        plain_console().print(render(_read(folder)))
    return 0


def page_address(folder: Path) -> str:
    """Where the live page is, for a browser on the coordinator's machine."""
    token = read_private(Files(folder).operator_token).decode().strip()
    return f"https://{read_consortium(folder).private}/?token={token}"


def render(overview: Overview) -> RenderableType:
    """The overview as a person reads it."""
    head = Text(f"{overview.consortium}: {_members(overview)}, roster {overview.roster}\n", style="bold")
    parts: list[RenderableType] = [head]
    campaign = overview.campaign
    if campaign is None:
        parts.append(Text("No campaign has begun. Begin one with: fedbank server run\n"))
    else:
        attempt = f", attempt {campaign.attempt}" if campaign.attempt > 1 else ""
        deadline = f", deadline {campaign.deadline[:19]} UTC" if campaign.deadline else ""
        where = f"round {campaign.round} of {campaign.num_rounds} {campaign.phase}{attempt}"
        rest = f"{campaign.committed} committed, quorum {campaign.needed}{deadline}"
        parts.append(Text(f"Campaign {shown_campaign(campaign.campaign)}: {where}, {rest}\n"))
    parts.append(_banks(overview.banks))
    for trouble in (overview.problem, campaign.last_error if campaign is not None else ""):
        if trouble:
            parts.append(Text(printable(trouble), style="red"))
    return Group(*parts)


def _members(overview: Overview) -> str:
    count = sum(bank.revoked is None for bank in overview.banks)
    return f"{count} member{'' if count == 1 else 's'}"


def _banks(banks: Sequence[BankView]) -> Table:
    table = Table("bank", "state", "since (UTC)", "this round")
    for heading in ("rounds", "epsilon"):
        table.add_column(heading, justify="right")
    table.add_column("note")
    for bank in banks:
        state = Text(bank.state or "no campaign", style=_STYLES.get(bank.state, ""))
        cells = bank.since[:19], _progress(bank), str(bank.rounds), _epsilon(bank)
        table.add_row(bank.bank, state, *cells, printable(bank.reason))
    return table


def _progress(bank: BankView) -> str:
    if bank.elapsed_s is None:
        return ""
    if bank.expected is None:
        return f"{bank.elapsed_s:.0f} s"
    expected = bank.expected
    return f"about step {expected.step} of {expected.num_steps}, end expected {expected.end[11:19]}"


def _epsilon(bank: BankView) -> str:
    if bank.epsilon is None:
        return ""
    nothing = "not told," if bank.rounds else "none yet,"
    spent = nothing if bank.epsilon_spent is None else f"{bank.epsilon_spent:.2f}"
    total = "" if bank.epsilon_total is None else f" ({bank.epsilon_total:.2f})"
    return f"{spent} of {bank.epsilon:.2f}{total}"


def _read(folder: Path) -> Overview:
    return read_overview(folder, now())


def _watch(folder: Path) -> None:
    with Live(render(_read(folder)), console=plain_console(), auto_refresh=False, screen=False) as live:
        while True:
            time.sleep(1.0)
            live.update(render(_read(folder)), refresh=True)
