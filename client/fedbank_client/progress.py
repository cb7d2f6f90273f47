"""How far the bank's training is, for the bank's own eyes.

Nothing of it leaves the bank (docs/adr/0010-progress-stays-in-the-bank.md): how long a step takes follows from how many
customers were sampled for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Progress:
    """A round at work: ``step`` of its ``num_steps`` are done. ``expected_end`` is ``None`` before the first one."""

    campaign: str
    round: int
    step: int
    num_steps: int
    began: datetime
    expected_end: datetime | None

    def as_json(self) -> dict[str, object]:
        """Plain values; times are UTC (ISO 8601)."""
        return {
            "campaign": self.campaign,
            "round": self.round,
            "step": self.step,
            "num_steps": self.num_steps,
            "began": self.began.isoformat(timespec="seconds"),
            "expected_end": None if self.expected_end is None else self.expected_end.isoformat(timespec="seconds"),
        }


class ProgressWatch:
    """Follows a training thread; any thread may look.

    The end is expected as if all steps took as long as those done did on average.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._current: Progress | None = None

    def stepped(self, campaign: str, round_number: int, step: int, num_steps: int) -> None:
        """``step`` steps of a round are done; 0 begins it."""
        now, before = self._now(), self._current
        began = now if step == 0 or before is None else before.began
        end = began + (now - began) * (num_steps / step) if step else None
        self._current = Progress(campaign, round_number, step, num_steps, began, end)

    def ended(self) -> None:
        """Nothing is trained any more."""
        self._current = None

    def current(self) -> Progress | None:
        """The round at work, if one is."""
        return self._current
