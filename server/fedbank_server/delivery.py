"""After the last round: every bank gets the shared adapter, signed, and says which one it received."""

from collections.abc import Callable

from flwr.serverapp import Grid

from fedbank.adapter.state import digest
from fedbank.adapter.update import COORDINATOR
from fedbank.errors import UpdateError
from fedbank.result import RECEIPT, RECEIPT_BYTES, RESULT, Receipt, Result
from fedbank.sealing.envelope import open_sealed, seal
from fedbank_server.asking import ask_all
from fedbank_server.nodes import CoordinatorKeys

MESSAGE_TYPE = "query.result"


def deliver(
    grid: Grid,
    result: Result,
    context: dict[str, str],
    keys: CoordinatorKeys,
    banks: set[str],
    patience_s: float,
    stop: Callable[[], bool],
) -> set[str]:
    """The banks that have the adapter, by their signed receipts; those that are away for longer go without."""
    received: set[str] = set()
    expected = Receipt(digest(result.adapter)).to_bytes()

    def take(content: bytes | None, refusal: str, who: str) -> bool:
        try:
            opened = open_sealed(content or b"", RECEIPT, keys.find_key, context, RECEIPT_BYTES)
        except UpdateError:
            return False
        if bytes(opened.payload) == expected:
            received.add(opened.signer)
        return banks <= received

    message = seal(RESULT, COORDINATOR, context, result.to_bytes(), keys.own)
    ask_all(grid, MESSAGE_TYPE, message, take, patience_s, stop)
    return received
