"""How much of the coordinator one bank can take up: sizes, rates, how many requests at once."""

from dataclasses import dataclass

from fedbank.wire import MAX_SMALL_BYTES

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the public listener; per bank unless it says otherwise.

    ``max_object_bytes`` is that of an update's message; everything else that a bank says fits ``max_call_bytes``.
    """

    max_object_bytes: int = 32 * MIB
    max_call_bytes: int = 64 * 1024
    body_timeout_s: float = 120.0
    header_timeout_s: float = 10.0
    requests_per_s: float = 100.0
    burst: int = 300
    requests_at_once: int = 8
    connections: int = 8
    connections_in_all: int = 1024
    wait_s: float = 20.0

    def body_bytes(self, *, is_object: bool) -> int:
        """The most that a request's body may have."""
        return self.max_object_bytes + MAX_SMALL_BYTES if is_object else self.max_call_bytes
