"""How long a round may take, from how long the rounds before took. No clock: times come in as seconds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from fedbank.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DeadlineRule:
    """``factor`` times what the quorum needed lately, within [``floor_s``, ``ceiling_s``]; ``window`` rounds count."""

    factor: float = 3.0
    floor_s: float = 60.0
    ceiling_s: float = 4 * 3600.0
    window: int = 5

    def __post_init__(self) -> None:
        sound = self.factor >= 1 and 0 < self.floor_s <= self.ceiling_s < math.inf and self.window >= 1
        if not sound:
            raise ConfigError(
                "Expected a deadline with a factor of at least 1, 0 < floor_s <= ceiling_s and a window of at least 1, "
                f"got factor {self.factor}, floor_s {self.floor_s}, ceiling_s {self.ceiling_s}, window {self.window}."
            )


def time_allowed(rule: DeadlineRule, seconds: Mapping[str, Sequence[float]], needed: int, retries: int = 0) -> float:
    """Seconds that a round may collect updates.

    ``seconds`` are each bank's times from the start of a round to its update, oldest first. Every bank stands for the
    median of its last ``window``; what counts is the ``needed``-th fastest bank, the one that completes a quorum. So
    neither one slow round, nor fewer than ``needed`` banks that hurry, nor any number of slow banks beyond the quorum
    can move it. While fewer than ``needed`` banks were ever measured it is the ceiling. Every retry of a round doubles
    it, up to the ceiling: a whole consortium that became slower is not shut out for ever.
    """
    typical = sorted(median(times[-rule.window :]) for times in seconds.values() if times)
    if len(typical) < needed:
        return rule.ceiling_s
    allowed = max(rule.floor_s, rule.factor * typical[needed - 1])
    return float(min(rule.ceiling_s, allowed * 2.0 ** min(retries, 60)))
