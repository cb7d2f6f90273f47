"""Who is answered next: a bounded queue with priorities, and batches that others join and leave between two steps.

Pure: it knows requests by their key only, and the time as an argument (seconds of any monotonic clock). What is
promised:

- Order. Every request has a due time, its arrival plus ``patience_s`` times its priority, and the earliest due goes
  first. So a background request is overtaken only by what arrives within ``patience_s`` after it: nothing starves.
- Batches by window and size. Whoever waits joins when the free slots can be filled, or the first of them has waited
  ``window_s``.
- Memory. A padded batch costs its number of requests times its longest; that stays within ``max_tokens``. Nobody
  smaller goes past a large request that must wait for room.
- Room for people. Background requests take at most half of the slots and half of the queue.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from fedbank.errors import FedBankError
from fedbank.serving.engines.interface import BACKGROUND, BusyError, RequestError

_FIRST_GUESS_S = 1.0
_SMOOTHING = 0.2
_RETRY_S = (1.0, 60.0)


@dataclass(frozen=True, slots=True)
class Limits:
    """``max_running`` requests at once, padded to ``max_tokens`` in all; ``max_waiting`` in the queue.

    ``window_s``: how long the first of a batch waits for others; ``patience_s``: how much later than an interactive
    request of the same moment a background one is due; ``max_wait_s``: the longest that anybody stays in the queue.
    """

    max_running: int = 8
    max_waiting: int = 64
    max_tokens: int = 65_536
    window_s: float = 0.002
    patience_s: float = 10.0
    max_wait_s: float = 30.0

    def __post_init__(self) -> None:
        whole = {name: getattr(self, name) for name in ("max_running", "max_waiting", "max_tokens")}
        wrong = [f"{name}={value}" for name, value in whole.items() if value < 1]
        seconds = {name: getattr(self, name) for name in ("window_s", "patience_s", "max_wait_s")}
        wrong += [f"{name}={value}" for name, value in seconds.items() if not 0 <= value < float("inf")]
        if wrong:
            raise FedBankError(
                f"Expected limits of at least 1 and times of at least 0 seconds, got {', '.join(wrong)}. "
                "Change the engine's settings."
            )


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request in the queue: ``size``: prompt and answer at most, in tokens."""

    key: str
    priority: int
    size: int
    arrived: float
    due: float


class Scheduler:
    """The queue and the running batch. Not for several threads at once: its owner holds a lock."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._waiting: dict[str, Ticket] = {}
        self._running: dict[str, tuple[Ticket, float]] = {}
        self._typical_s = _FIRST_GUESS_S

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many slots are taken."""
        return len(self._running)

    def offer(self, key: str, priority: int, size: int, now: float) -> None:
        """Queue a request.

        Raises:
            BusyError: the queue is full, or the half of it that is for requests of this priority.
            RequestError: it would not fit alone.
        """
        if key in self._waiting or key in self._running:
            raise ValueError(f"{key} is here already")
        if size > self.limits.max_tokens:
            raise RequestError(
                f"Expected a request of at most {self.limits.max_tokens} tokens, question and answer, got {size}. "
                "Ask for less."
            )
        like_this = sum(one.priority >= BACKGROUND for one in self._waiting.values())
        full_for_it = priority >= BACKGROUND and like_this >= _half(self.limits.max_waiting)
        if full_for_it or len(self._waiting) >= self.limits.max_waiting:
            raise BusyError(
                f"Expected room in the queue of {self.limits.max_waiting}, got none. Try again later.",
                self.retry_after_s(),
            )
        self._waiting[key] = Ticket(key, priority, size, now, now + self.limits.patience_s * priority)

    def take(self, now: float) -> list[str]:
        """Who joins the batch now, first due first; they run from here on."""
        if self.next_event(now) > now:
            return []
        chosen = self._next_joiners()
        for one in chosen:
            del self._waiting[one.key]
            self._running[one.key] = (one, now)
        return [one.key for one in chosen]

    def next_event(self, now: float) -> float:
        """When ``take`` could give somebody: ``now``, the end of the window, or infinity until somebody leaves."""
        joiners = self._next_joiners()
        if not joiners:
            return float("inf")
        if len(joiners) >= self.limits.max_running - len(self._running) or len(joiners) < len(self._waiting):
            return now  # no later arrival could join with them
        return max(now, min(one.arrived for one in joiners) + self.limits.window_s)

    def leave(self, key: str, now: float) -> None:
        """It is answered, cancelled or given up, waiting or running; unknown keys are none's business."""
        self._waiting.pop(key, None)
        ran = self._running.pop(key, None)
        if ran is not None:
            self._typical_s += _SMOOTHING * (now - ran[1] - self._typical_s)

    def overdue(self, now: float) -> list[str]:
        """Who has waited ``max_wait_s``; they are no longer in the queue."""
        late = [key for key, one in self._waiting.items() if now - one.arrived >= self.limits.max_wait_s]
        for key in late:
            del self._waiting[key]
        return late

    def first_overdue(self) -> float:
        """When ``overdue`` will give somebody; infinity if nobody waits."""
        return min((one.arrived for one in self._waiting.values()), default=float("inf")) + self.limits.max_wait_s

    def retry_after_s(self) -> float:
        """When a slot is likely to be free for a newcomer, from 1 to 60 seconds: by how long answers took lately."""
        turns = (len(self._waiting) + len(self._running)) / self.limits.max_running
        return min(max(_RETRY_S[0], turns * self._typical_s), _RETRY_S[1])

    def _next_joiners(self) -> list[Ticket]:
        chosen: list[Ticket] = []
        running = [one for one, _ in self._running.values()]
        background = sum(one.priority >= BACKGROUND for one in running)
        for one in sorted(self._waiting.values(), key=lambda one: one.due):
            if len(running) >= self.limits.max_running:
                break
            if one.priority >= BACKGROUND and background >= _half(self.limits.max_running):
                continue
            if not self._fits([*running, one]):
                break
            background += one.priority >= BACKGROUND
            running.append(one)
            chosen.append(one)
        return chosen

    def _fits(self, batch: Iterable[Ticket]) -> bool:
        sizes = [one.size for one in batch]
        return len(sizes) * max(sizes) <= self.limits.max_tokens


def _half(number: int) -> int:
    return max(1, number // 2)
