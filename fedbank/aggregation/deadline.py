"""How long a round may take, from how long the rounds before took. No clock: times come in as seconds."""

from collections.abc import Mapping, Sequence
from statistics import median

from fedbank.membership.terms import DeadlineRule

WINDOW = 5
"""So many of a bank's last rounds count."""


def time_allowed(rule: DeadlineRule, seconds: Mapping[str, Sequence[float]], needed: int, retries: int = 0) -> float:
    """Seconds that a round may collect updates.

    ``seconds`` are each bank's times from the start of a round to its update, oldest first. Every bank stands for the
    median of its last ``WINDOW``; what counts is the ``needed``-th fastest bank, the one that completes a quorum. So
    neither one slow round, nor fewer than ``needed`` banks that hurry, nor any number of slow banks beyond the quorum
    can move it. While fewer than ``needed`` banks were ever measured it is the ceiling. Every retry of a round doubles
    it, up to the ceiling: a whole consortium that became slower is not shut out for ever.
    """
    typical = sorted(median(times[-WINDOW:]) for times in seconds.values() if times)
    if len(typical) < needed:
        return rule.ceiling_s
    allowed = max(rule.floor_s, rule.factor * typical[needed - 1])
    return float(min(rule.ceiling_s, allowed * 2.0 ** min(retries, 60)))
