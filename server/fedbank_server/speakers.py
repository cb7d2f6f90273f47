"""Who says something at a node: an error has no signature, but the node's key is that of one member."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from flwr.app import Error
from flwr.serverapp import Grid

from fedbank.foreign import printable

_MAX_REASON = 200


@runtime_checkable
class Directory(Protocol):
    """A grid that knows its nodes by name, as ``CoordinatorGrid`` does."""

    def banks(self) -> Mapping[str, int]:
        """The banks that are online and their nodes. The SuperLink takes a node's key from the roster."""


class Speakers:
    """Names for nodes; a node that was online once keeps its name."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._names: dict[int, str] = {}

    def bank(self, node: int) -> str:
        """The bank whose node key ``node`` has; empty where nobody can tell."""
        if node not in self._names and isinstance(self._grid, Directory):
            self._names |= {number: bank for bank, number in self._grid.banks().items()}
        return self._names.get(node, "")

    def describe(self, node: int) -> str:
        """``node 12 (bank-2)``, or the number alone."""
        bank = self.bank(node)
        return f"node {node} ({bank})" if bank else f"node {node}"


def reason_of(error: Error) -> str:
    """What came with an error of Flower, which may be nothing, anything and any length: one printable line."""
    return printable(error.reason or "no reason was given", _MAX_REASON)
