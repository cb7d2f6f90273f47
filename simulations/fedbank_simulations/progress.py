"""Progress for people: a live view on a terminal, plain lines otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from fedbank.privacy.accounting import round_up


def describe_round(campaign: str, line: dict[str, Any], rounds: int) -> str:
    """One round in one line."""
    epsilon = max(line["epsilon"].values(), default=None)
    spent = "no privacy" if epsilon is None else f"epsilon {round_up(epsilon):.2f}"
    scores = line["evaluation"]
    return (
        f"{campaign}: round {line['round']}/{rounds}  nll {scores['nll']:.4f}  "
        f"exact match {100 * scores['exact_match']:.1f} %  {spent}  {line['seconds']:.1f} s"
    )


class PlainProgress:
    """One line a round."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rounds = 0

    def campaign_started(self, campaign: str, banks: int, rounds: int, done: int) -> None:
        """Say who trains, and from where."""
        self._rounds = rounds
        resumed = f", {done} done before" if done else ""
        self._console.print(f"{campaign}: {banks} bank{'s' * (banks > 1)}, {rounds} rounds{resumed}", highlight=False)

    def bank_done(self, campaign: str, round_number: int, bank: str) -> None:
        """Nothing: a line a round is enough."""

    def round_done(self, campaign: str, line: dict[str, Any]) -> None:
        """The round's line."""
        self._console.print(describe_round(campaign, line, self._rounds), highlight=False, soft_wrap=True)


class LiveProgress:
    """A bar for the whole run, in updates of banks, with the time left; finished rounds scroll by above it."""

    def __init__(self, console: Console, bar: RichProgress, total_updates: int) -> None:
        self._console = console
        self._bar = bar
        self._task = bar.add_task("preparing", total=total_updates)
        self._rounds = 0

    def campaign_started(self, campaign: str, banks: int, rounds: int, done: int) -> None:
        """Name the campaign; updates of an earlier session count as done."""
        self._rounds = rounds
        self._bar.update(self._task, description=campaign, advance=done * banks)

    def bank_done(self, campaign: str, round_number: int, bank: str) -> None:
        """One more update."""
        self._bar.update(self._task, description=f"{campaign}  round {round_number}/{self._rounds}  {bank}", advance=1)

    def round_done(self, campaign: str, line: dict[str, Any]) -> None:
        """The round's line, above the bar."""
        self._console.print(describe_round(campaign, line, self._rounds), highlight=False)


@contextmanager
def shown(console: Console, total_updates: int) -> Iterator[PlainProgress | LiveProgress]:
    """The display that fits ``console``; ``total_updates`` of banks are expected in all campaigns together."""
    if not console.is_terminal:
        yield PlainProgress(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=console, transient=True) as bar:
        yield LiveProgress(console, bar, total_updates)
