"""A whole consortium by its commands alone, as the benchmarks start one too, for tests."""

from pathlib import Path

from simulations.benchmarks.commanded import Commanded, wait_for
from simulations.benchmarks.commanded import children as _children
from simulations.benchmarks.commanded import command as _command

__all__ = ["Alliance", "_children", "_command", "wait_round"]


class Alliance(Commanded):
    """Three banks unless told otherwise."""

    def __init__(self, folder: Path, banks: tuple[str, ...] = ("bank-a", "bank-b", "bank-c"), quorum: int = 3) -> None:
        super().__init__(folder, banks, quorum)


def wait_round(alliance: Commanded, committed: int, seconds: float = 120) -> float:
    """Until that many rounds are committed."""
    return wait_for(lambda: alliance.snapshot()["committed"] >= committed, seconds, alliance.logs)
