"""Privacy-utility curves: what a model can do against the privacy that it was trained with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from fedbank_simulations.report.canvas import CONDITIONS, as_percent, canvas, to_svg
from fedbank_simulations.report.estimates import Estimate

_LABELS = {"nll": "Loss (nats per answer token)", "exact_match": "Exact match"}
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#b8609a", "#7d6200", "#3f4fa3", "#8c2d2d", "#26707a")
_MARKERS = "osD^vPX*"
_NO_PRIVACY = ", no privacy"
_SAME = 1e-3


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One point of a line; ``epsilon`` is None for training without privacy, ``base`` the model before it."""

    line: str
    epsilon: float | None
    value: Estimate
    base: float


def utility_plot(points: Sequence[CurvePoint], metric: str) -> str:
    """``metric`` (``nll`` or ``exact_match``) against epsilon, as inline SVG; a level where there is none."""
    lines = list(dict.fromkeys(point.line for point in points))
    with canvas(height=3.7 + 0.2 * len(lines)) as (figure, axes):
        private = sorted({point.epsilon for point in points if point.epsilon})
        if private:
            _scale(axes, private)
        for index, line in enumerate(lines):
            # A nudge of two per cent, so that bars at the same epsilon do not hide one another.
            nudge = 1.02 ** (index - (len(lines) - 1) / 2)
            _draw_line(axes, index, [point for point in points if point.line == line], nudge)
        _draw_bases(axes, lines, points)
        axes.set_xlabel("Privacy spent, ε of the worst bank (log scale)")
        axes.set_ylabel(_LABELS[metric])
        if metric == "exact_match":
            as_percent(axes.yaxis)
        _legend(figure, axes)
        return to_svg(figure, f"{_LABELS[metric]} against epsilon")


def _scale(axes: Axes, epsilons: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(epsilons[0] / 1.25, epsilons[-1] * 1.25)
    ticks = [epsilons[0]]
    for epsilon in epsilons[1:]:
        if math.log(epsilon / ticks[-1]) > 0.06 * math.log(1.6 * epsilons[-1] / epsilons[0]):
            ticks.append(epsilon)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter("{x:.3g}")
    axes.xaxis.set_minor_locator(NullLocator())


def _legend(figure: Figure, axes: Axes) -> None:
    """Private lines first and those without privacy last, so that two columns set them side by side."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda index: _place(labels[index]))
    figure.legend(
        [handles[index] for index in order],
        [labels[index] for index in order],
        loc="outside lower center",
        ncols=2,
    )


def _place(label: str) -> int:
    return 2 if label.endswith(_NO_PRIVACY) else int(label == CONDITIONS["base"].label)


def _draw_line(axes: Axes, index: int, points: Sequence[CurvePoint], nudge: float) -> None:
    color, marker = _COLORS[index % len(_COLORS)], _MARKERS[index % len(_MARKERS)]
    private = [point for point in points if point.epsilon is not None]
    if private:
        axes.errorbar(
            [point.epsilon * nudge for point in private if point.epsilon is not None],
            [point.value.mean for point in private],
            yerr=list(zip(*(_reach(point.value) for point in private), strict=True)),
            color=color,
            marker=marker,
            markersize=6,
            linewidth=2,
            elinewidth=1.5,
            capsize=4,
            label=private[0].line,
        )
    for point in points:
        if point.epsilon is None:
            label = point.line + _NO_PRIVACY
            axes.axhline(point.value.mean, color=color, linestyle="dashed", linewidth=1.7, label=label)


def _reach(value: Estimate) -> tuple[float, float]:
    """How far its interval goes down and up: not equally far where it ends at a bound."""
    if value.low is None or value.high is None:
        return 0.0, 0.0
    return value.mean - value.low, value.high - value.mean


def _draw_bases(axes: Axes, lines: Sequence[str], points: Sequence[CurvePoint]) -> None:
    """One level for the model before training, or one for each line where they differ."""
    look = CONDITIONS["base"]
    levels = [_mean([point.base for point in points if point.line == line]) for line in lines]
    if max(levels) - min(levels) <= _SAME:
        axes.axhline(_mean(levels), color=look.color, linestyle=look.dashes, linewidth=2, label=look.label)
        return
    for index, (line, level) in enumerate(zip(lines, levels, strict=True)):
        color = _COLORS[index % len(_COLORS)]
        axes.axhline(level, color=color, linestyle=look.dashes, label=f"{line}, {look.label.lower()}")


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
