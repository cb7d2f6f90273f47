"""How a page says things: numbers with their units, and the headline in words.

A claim is made only where the figures carry it: "private" needs an epsilon for every bank, "better" needs
more than chance, and a figure that is missing or not finite is an em dash.
"""

from __future__ import annotations

import math
import re
from decimal import ROUND_CEILING, Decimal
from typing import TypeGuard

from fedbank_simulations.report.estimates import wilson_interval
from fedbank_simulations.report.load import Evaluation, Run

NOTHING = "—"
_NBSP = "\u202f"
_NOTABLE_LOSS = 0.01
_OPPONENTS = {"base": "the base model", "local_only": "the average bank alone"}


def decimal(value: float | None, digits: int = 3) -> str:
    """``0.9213`` → ``0.921``."""
    return f"{value:.{digits}f}" if _known(value) else NOTHING


def signed(value: float | None, digits: int = 3) -> str:
    """``-0.887`` → ``−0.887``, ``0.2`` → ``+0.200``; what rounds to nothing has a plus."""
    return f"{value:+z.{digits}f}".replace("-", "−") if _known(value) else NOTHING


def points(share: float | None) -> str:
    """A difference of shares in percentage points: ``0.302`` → ``+30.2 pp``."""
    return f"{signed(100 * share, 1)}{_NBSP}pp" if _known(share) else NOTHING


def significant(value: float | None) -> str:
    """At most four significant digits: ``1e-6``, ``0.0125``, ``8``."""
    return re.sub(r"e([+-])0+", r"e\1", f"{value:.4g}") if _known(value) else NOTHING


def at_most(value: float | None) -> str:
    """Three significant digits rounded up, for a bound: ``3.971`` → ``3.98``, ``1e-05`` → ``1e-5``."""
    if not _known(value):
        return NOTHING
    exact = Decimal(repr(value))
    step = Decimal(1).scaleb(exact.adjusted() - 2)
    return significant(float(exact.quantize(step, rounding=ROUND_CEILING)))


def percent(share: float | None, digits: int = 1) -> str:
    """``0.6123`` → ``61.2 %``."""
    return f"{100 * share:.{digits}f}{_NBSP}%" if _known(share) else NOTHING


def whole(value: float | None) -> str:
    """``12345`` → ``12 345``."""
    return f"{value:,.0f}".replace(",", _NBSP) if _known(value) else NOTHING


def size(count: float | None) -> str:
    """A number of bytes in the decimal unit that fits: ``3.4 MB``."""
    if not _known(count):
        return NOTHING
    units = ["B", "kB", "MB", "GB", "TB"]
    power = min(len(units) - 1, max(0, int(math.log10(max(1.0, count))) // 3))
    return f"{count / 1000**power:.{1 if power else 0}f}{_NBSP}{units[power]}"


def duration(seconds: float) -> str:
    """``3725`` → ``1 h 2 min``; below two minutes in seconds."""
    if not _known(seconds):
        return NOTHING
    if seconds < 120:
        return f"{seconds:.1f}{_NBSP}s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours}{_NBSP}h {rest}{_NBSP}min" if hours else f"{minutes}{_NBSP}min"


def is_private(run: Run) -> bool:
    """Whether the run may be called private: it says so, and every bank has a finite epsilon."""
    promised = [one.epsilon for one in run.privacy.values()]
    complete = bool(promised) and set(run.banks) <= set(run.privacy) and all(_known(one) for one in promised)
    return run.private and complete and run.setting("privacy.enabled") is not False


def worst_epsilon(run: Run) -> float | None:
    """The epsilon of the bank that spent most; None when the run is not private."""
    return max(one.epsilon or 0.0 for one in run.privacy.values()) if is_private(run) else None


def target_epsilon(run: Run) -> float | None:
    """The epsilon that was asked for; None when the settings name none or the run is not private."""
    target = run.setting("privacy.epsilon")
    return float(target) if isinstance(target, (int, float)) and is_private(run) else None


def verdict(run: Run) -> str:
    """The headline: how the federated adapter compares with its two opponents."""
    ours = run.evaluation.get("federated")
    if ours is None:
        return "The federated adapter was not evaluated."
    parts = [
        _compare(ours, theirs, name)
        for key, name in _OPPONENTS.items()
        if (theirs := run.evaluation.get(key)) is not None
    ]
    subject = "The federated adapter" if is_private(run) else "The federated adapter, trained without privacy,"
    return f"{subject} is {' and '.join(parts)}." if parts else "Nothing to compare with."


def summary(run: Run) -> str:
    """The sentence below the headline: the figures, and what privacy they were paid with."""
    names = {"federated": "the federated adapter"} | _OPPONENTS
    found = [(names[key], run.evaluation[key]) for key in names if key in run.evaluation]
    if not found:
        return ""
    exact = ", ".join(f"{percent(one.exact_match)} for {name}" for name, one in found)
    losses = ", ".join(f"{decimal(one.nll)} for {name}" for name, one in found)
    return f"Exact match on held-out questions: {exact}. Loss (nats per answer token): {losses}."


def promise(run: Run) -> str:
    """The sentence on privacy of a private run: the worst bank's figures."""
    delta = max((one.delta or 0.0 for one in run.privacy.values()), default=0.0)
    units = " or ".join(sorted({one.unit for one in run.privacy.values()}))
    return (
        f"Differentially private per {units}: ε ≤ {at_most(worst_epsilon(run))} at δ = "
        f"{at_most(delta)} after {run.round_count} rounds, at every one of {len(run.privacy)} banks."
    )


def _compare(ours: Evaluation, theirs: Evaluation, name: str) -> str:
    exact, loss = ours.exact_match - theirs.exact_match, theirs.nll - ours.nll
    if not (math.isfinite(exact) and math.isfinite(loss)):
        return f"not comparable with {name}"
    # A difference that another draw of questions could undo is none.
    low, high = wilson_interval(theirs.exact_match, theirs.n)
    exact = 0.0 if low <= ours.exact_match <= high else exact
    loss = 0.0 if abs(loss) < _NOTABLE_LOSS * abs(theirs.nll) else loss
    if exact == loss == 0:
        return f"level with {name}"
    if exact >= 0 and loss >= 0:
        return f"better than {name}"
    if exact <= 0 and loss <= 0:
        return f"worse than {name}"
    mixed = "more exact answers, higher loss" if exact > 0 else "fewer exact answers, lower loss"
    return f"mixed against {name} ({mixed})"


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
