"""``fedbank client budget``: what a bank's ledger says, for people, for programs and as a drawing."""

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from fedbank.command_line import add_json, plain_console, print_json, say
from fedbank.errors import PrivacyError, RunError
from fedbank.privacy.ledger import LEDGER, Book, read_ledger
from fedbank.proposal import shown_campaign
from fedbank_client.home import BANK_FILE, TRAINING, Home, find_home
from fedbank_client.policy import read_policy

_DEFAULT_DELTA = 1e-5
_PLOT_POINTS = 60
_UNLIMITED = "no limit"


def budget_command(words: Sequence[str]) -> int:
    """``fedbank client budget [DIR]`` and ``fedbank client budget verify [DIR]``"""
    if words and words[0] == "verify":
        return _verify(words[1:])
    return _budget(words)


def _verify(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="fedbank client budget verify",
        description="Checks the hash chain of a bank's ledger and its head; exits with 2 and says where it breaks.",
        epilog="Write the printed hash down elsewhere now and then: a ledger that was replaced together with its head "
        "by an older copy, or made up as a whole, verifies too. --contains HASH checks that a hash written down "
        "earlier is part of this ledger.",
    )
    _add_folder(parser)
    parser.add_argument("--contains", type=_line_hash, metavar="HASH", help="a hash that an earlier verify printed")
    chosen = parser.parse_args(list(words))
    book = _open(*_place(chosen))
    if chosen.contains is not None and chosen.contains not in book.hashes:
        raise RunError(
            f"Expected the ledger of {book.bank} to go on from a line with hash {chosen.contains:.80}, got none. It "
            "was replaced since: put back the newest copy and take no part in rounds until then."
        )
    if chosen.json:
        print_json({**_about(book), "intact": True})
    else:
        say(f"The ledger of {book.bank} is intact: {len(book.charges)} charges, last hash {book.head or 'none'}.")
    return 0


def _budget(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="fedbank client budget",
        description="Privacy that a bank's customers have spent: the epsilon of everything executed in all campaigns "
        "together, from the bank's own ledger, which is verified first. Epsilons of campaigns do not add up to the "
        "total: compositions cost less than their sum. Limits and delta are those of the bank's policy.yaml, if its "
        "folder has one; options show others.",
        epilog="fedbank client budget verify DIR only checks the ledger.",
    )
    _add_folder(parser)
    parser.add_argument("--delta", type=float, help="delta of every epsilon (default: the policy's, else 1e-5)")
    parser.add_argument("--max-epsilon", type=float, metavar="E", help="limit over all campaigns, to show what is left")
    parser.add_argument("--max-epsilon-per-campaign", type=float, metavar="E", help="limit for each campaign")
    parser.add_argument("--plot", type=_page, metavar="FILE.html", help="draw epsilon over time into a page")
    chosen = parser.parse_args(list(words))
    folder, home = _place(chosen)
    book = _open(folder, home)
    budget = _limits(chosen, home)
    statement = _statement(book, budget)
    moments = budget.over_time(book.charges, _PLOT_POINTS) if chosen.json or chosen.plot is not None else []
    if chosen.plot is not None:
        from fedbank_client.plot import write_page

        write_page(chosen.plot, book.bank, budget, moments)
    if chosen.json:
        over_time = [{"time": m.time, "campaign": m.campaign, "epsilon": _up(m.epsilon)} for m in moments]
        print_json({**statement, "over_time": over_time})
    else:
        _print_table(statement, chosen.plot)
    return 0


def _add_folder(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "folder",
        type=Path,
        nargs="?",
        metavar="DIR",
        help="of a simulation, RUN/banks/BANK; default: the bank's folder, FEDBANK_HOME or the current one",
    )
    where.add_argument("--dir", type=Path, metavar="DIR", help="the same, as other commands take it")
    add_json(parser)


def _line_hash(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise RunError(
            f"Expected --contains with the 64 hex digits that an earlier verify printed, got {text!r:.80}. Copy them "
            "whole; the ledger was not looked at."
        )
    return text.lower()


def _page(text: str) -> Path:
    """A place for a page, looked at before the accountant begins."""
    path = Path(text)
    if path.is_dir():
        raise RunError(f"Expected --plot with the name of a file, got the folder {path}. Add a name to it.")
    if not path.parent.is_dir():
        raise RunError(f"Expected --plot in a folder that exists, got {path}. Make the folder, or name another.")
    return path


def _limits(chosen: argparse.Namespace, home: Home | None) -> Any:
    """What the bank's policy allows, unless options say otherwise; without a policy there are no limits."""
    from fedbank.privacy.budget import Budget  # the accountant takes a second to load

    own = Budget(None, None, _DEFAULT_DELTA) if home is None else read_policy(home.policy).budget()
    named = {
        "max_epsilon_total": chosen.max_epsilon,
        "max_epsilon_per_campaign": chosen.max_epsilon_per_campaign,
        "delta": chosen.delta,
    }
    return replace(own, **{name: value for name, value in named.items() if value is not None})


def _place(chosen: argparse.Namespace) -> tuple[Path, Home | None]:
    """The folder of the ledger, and the deployed bank's folder that it is a part of."""
    given: Path | None = chosen.dir or chosen.folder
    if given is not None and not (given / BANK_FILE).exists():
        return given, None
    home = find_home(given)
    return home.folder / TRAINING, home


def _open(folder: Path, home: Home | None) -> Book:
    path = folder / LEDGER
    if not path.exists():
        raise _missing(folder)
    book = read_ledger(path)
    if home is not None and book.bank and book.bank != home.bank:
        raise PrivacyError(
            f"Expected the ledger of {home.bank}, whose folder {home.folder} is, got that of {book.bank}. Put back "
            f"{home.bank}'s own ledger and take part in no round until then."
        )
    return book


def _missing(folder: Path) -> PrivacyError | RunError:
    """A head is only ever written after its ledger: alone, it tells of charges that were made."""
    path = folder / LEDGER
    if path.with_suffix(".head").exists():
        return PrivacyError(
            f"Expected the ledger {path}, got only its head: the ledger is lost, and with it what the customers have "
            "spent. Restore its newest copy from the backup and take part in no round until then."
        )
    inside = sorted(found.parent for found in folder.glob(f"banks/*/{LEDGER}"))
    hint = f" It holds the banks of a simulation: give {inside[0]}, for example." if inside else ""
    return RunError(f"Expected a bank's folder with {LEDGER}, got {folder} without one.{hint}")


def _about(book: Book) -> dict[str, Any]:
    return {
        "bank": book.bank,
        "ledger": book.identity,
        "lines": book.lines,
        "charges": len(book.charges),
        "hash": book.head,
    }


def _statement(book: Book, budget: Any) -> dict[str, Any]:
    campaigns = list(dict.fromkeys(charge.campaign for charge in book.charges))
    return {
        **_about(book),
        "unit": book.charges[0].unit if book.charges else None,
        "delta": budget.delta,
        "max_epsilon": budget.max_epsilon_total,
        "max_epsilon_per_campaign": budget.max_epsilon_per_campaign,
        "campaigns": [{"campaign": campaign, **_account(book, budget, campaign)} for campaign in campaigns],
        "total": _account(book, budget, None),
    }


def _account(book: Book, budget: Any, campaign: str | None) -> dict[str, Any]:
    """Epsilons rounded against the bank: spent up, left down."""
    spent, left = budget.spent(book.charges, campaign), budget.left(book.charges, campaign)
    return {
        "rounds": spent.rounds,
        "charges": spent.charges,
        "steps": spent.steps,
        "epsilon": _up(spent.epsilon),
        "epsilon_left": None if left.epsilon is None else math.floor(left.epsilon * 1e4) / 1e4,
        "steps_left": left.steps,
    }


def _up(epsilon: float) -> float | None:
    from fedbank.privacy.accounting import round_up

    return round_up(epsilon, 4) if math.isfinite(epsilon) else None


def _print_table(statement: dict[str, Any], plot: Path | None) -> None:
    console = plain_console()
    who = f"every {statement['unit']} of " if statement["unit"] else ""
    table = Table(title=f"Privacy spent by {who}{statement['bank']}, delta = {statement['delta']:g}")
    table.add_column("campaign", overflow="fold")
    for name in ("rounds", "steps", "epsilon spent", "epsilon left", "steps left"):
        table.add_column(name, justify="right")
    for row in statement["campaigns"]:
        table.add_row(*_cells(shown_campaign(row["campaign"]), row))
    table.add_section()
    table.add_row(*_cells("all together", statement["total"]), style="bold")
    console.print(table)
    repeated = statement["total"]["charges"] - statement["total"]["rounds"]
    if repeated:
        console.print(f"{repeated} rounds were executed again after a crash or on another adapter, and count again.")
    if plot is not None:
        console.print(f"Wrote {plot}", soft_wrap=True)


def _cells(name: str, row: dict[str, Any]) -> list[str]:
    return [
        name,
        str(row["rounds"]),
        str(row["steps"]),
        "infinite" if row["epsilon"] is None else f"{row['epsilon']:.4f}",
        _UNLIMITED if row["epsilon_left"] is None else f"{row['epsilon_left']:.4f}",
        "" if row["steps_left"] is None else str(row["steps_left"]),
    ]
