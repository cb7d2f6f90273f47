"""The drawings of one run's page, each an inline SVG string, or "" where the run has nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes

from fedbank_simulations.report.canvas import CONDITIONS, as_percent, canvas, to_svg, whole_rounds
from fedbank_simulations.report.load import Round, Run
from fedbank_simulations.report.words import signed

_METRICS = {"nll": "Loss (nats per answer token)", "exact_match": "Exact match"}
_MAX_LINES = 8
_BANK_MARKERS = "osD^vP*X"

Points = list[tuple[int, float]]


def rounds_plot(run: Run, metric: str) -> str:
    """``metric`` (``nll`` or ``exact_match``) after every round, for every condition that was run."""
    curves = {"federated": _points(run.rounds, metric)}
    curves |= {name: _points(run.comparisons[name], metric) for name in CONDITIONS if name in run.comparisons}
    alone = [rounds for rounds in run.local_only.values() if _points(rounds, metric)]
    if not alone and not any(curves.values()):
        return ""
    with canvas() as (figure, axes):
        _draw_base(axes, run, metric)
        _draw_alone(axes, alone, metric)
        for name, points in curves.items():
            _draw_curve(axes, name, points)
        whole_rounds(axes)
        axes.set_ylabel(_METRICS[metric])
        if metric == "exact_match":
            as_percent(axes.yaxis)
        figure.legend(loc="outside lower center", ncols=2)
        return to_svg(figure, f"{_METRICS[metric]} on held-out questions, by round")


def epsilon_plot(run: Run) -> str:
    """The privacy that each bank's customers have spent after every round, and the target."""
    spent = _spent(run.rounds)
    if not spent:
        return ""
    with canvas() as (figure, axes):
        if len(spent) <= _MAX_LINES:
            _draw_banks(axes, spent)
        else:
            _draw_crowd(axes, spent)
        target = run.setting("privacy.epsilon")
        if isinstance(target, (int, float)):
            axes.axhline(target, color="#b3261e", linestyle="dashed", label=f"Target ε = {target:g}")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("Privacy spent, ε (cumulative)")
        whole_rounds(axes)
        figure.legend(loc="outside lower center", ncols=3)
        return to_svg(figure, "Cumulative epsilon of each bank, by round")


def bank_exact_match_plot(run: Run) -> str:
    """Exact match on each bank's own held-out questions: base, alone, federated."""
    bars = _per_bank(run, "exact_match", ("base", "local_only", "federated"))
    return _bank_bars(bars, "Exact match on the bank's own questions", percent=True)


def bank_loss_gain_plot(run: Run) -> str:
    """By how much training lowered the loss on each bank's own held-out questions: alone, federated."""
    losses = _per_bank(run, "nll", ("base", "local_only", "federated"))
    gains = {
        bank: {name: loss["base"] - loss[name] for name in loss if name != "base"}
        for bank, loss in losses.items()
        if "base" in loss
    }
    return _bank_bars(gains, "Loss below the base model's (more is better)", percent=False)


def _points(rounds: Sequence[Round], metric: str) -> Points:
    scored = [(one.number, one.evaluation) for one in rounds if one.evaluation and one.evaluation.n]
    return [(number, _finite(getattr(evaluation, metric))) for number, evaluation in scored]


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _draw_base(axes: Axes, run: Run, metric: str) -> None:
    # Round 0 is measured on the same questions as the curves; the final table may use more of them.
    start = [value for number, value in _points(run.rounds, metric) if number == 0]
    final = run.evaluation.get("base")
    if start or final:
        value = start[0] if start else _finite(getattr(final, metric))
        look = CONDITIONS["base"]
        axes.axhline(value, color=look.color, linestyle=look.dashes, linewidth=2, label=look.label)


def _draw_curve(axes: Axes, name: str, points: Points, suffix: str = "") -> None:
    if points:
        look = CONDITIONS[name]
        axes.plot(
            [number for number, _ in points],
            [value for _, value in points],
            color=look.color,
            linestyle=look.dashes,
            linewidth=2.4 if name == "federated" else 1.7,
            marker=look.marker,
            markersize=4.5,
            markevery=max(1, len(points) // 12),
            label=look.label + suffix,
            zorder=4 if name == "federated" else 3,
        )


def _draw_alone(axes: Axes, alone: Sequence[Sequence[Round]], metric: str) -> None:
    values = [dict(_points(rounds, metric)) for rounds in alone]
    # A round that some bank never reached would move the mean for another reason than learning.
    common = sorted(set.intersection(*(set(one) for one in values))) if values else []
    if not common:
        return
    # Over questions, as the other curves and the table: banks may be scored on different numbers of them.
    weights = [next(one.evaluation.n for one in rounds if one.evaluation and one.evaluation.n) for rounds in alone]
    means = [(number, _weighted([one[number] for one in values], weights)) for number in common]
    # Banks' own questions differ in difficulty: the range is over what each bank learns, from a common start.
    starts = [one[common[0]] - means[0][1] for one in values]
    shifted = [[one[number] - start for one, start in zip(values, starts, strict=True)] for number in common]
    low, high = [min(banks) for banks in shifted], [max(banks) for banks in shifted]
    axes.fill_between(common, low, high, color=CONDITIONS["local_only"].color, alpha=0.16, linewidth=0)
    _draw_curve(axes, "local_only", means, suffix=", mean and range")


def _weighted(values: Sequence[float], weights: Sequence[int]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def _spent(rounds: Sequence[Round]) -> dict[str, Points]:
    spent: dict[str, Points] = {}
    for one in rounds:
        for bank, epsilon in one.epsilon.items():
            spent.setdefault(bank, []).append((one.number, _finite(epsilon)))
    return spent


def _draw_banks(axes: Axes, spent: Mapping[str, Points]) -> None:
    colors = matplotlib.colormaps["cividis"].resampled(len(spent))
    for index, (bank, points) in enumerate(spent.items()):
        axes.plot(
            [number for number, _ in points],
            [epsilon for _, epsilon in points],
            color=colors(index),
            # Banks with the same plan spend the same: later lines are thinner, so that none hides another.
            linewidth=5.0 - 3.6 * index / max(1, len(spent) - 1),
            marker=_BANK_MARKERS[index],
            markersize=7.0 - 3.5 * index / max(1, len(spent) - 1),
            markevery=(index % 3, max(1, len(points) // 8)),
            label=bank,
        )


def _draw_crowd(axes: Axes, spent: Mapping[str, Points]) -> None:
    by_round: dict[int, list[float]] = {}
    for points in spent.values():
        for number, epsilon in points:
            by_round.setdefault(number, []).append(epsilon)
    rounds = sorted(by_round)
    low, high = [min(by_round[number]) for number in rounds], [max(by_round[number]) for number in rounds]
    axes.fill_between(rounds, low, high, color="#7c7b78", alpha=0.35, label=f"Range of {len(spent)} banks")
    axes.plot(rounds, high, color="#00224e", linewidth=2, label="Highest bank")


def _per_bank(run: Run, metric: str, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Bank → condition → finite value; banks without any of the conditions are left out."""
    found = {
        bank: {
            name: getattr(evaluations[name], metric)
            for name in names
            if name in evaluations and math.isfinite(getattr(evaluations[name], metric))
        }
        for bank, evaluations in run.per_bank.items()
    }
    return {bank: values for bank, values in found.items() if values}


def _bank_bars(bars: Mapping[str, Mapping[str, float]], title: str, percent: bool) -> str:
    names = [name for name in CONDITIONS if any(name in values for values in bars.values())]
    if not names:
        return ""
    thickness = 0.8 / len(names)
    largest = max(abs(value) for values in bars.values() for value in values.values())
    digits = None if percent else 2 if largest >= 0.1 else 4
    with canvas(height=1.3 + 0.23 * len(names) * len(bars)) as (figure, axes):
        for place, name in enumerate(names):
            rows = [row + (place - (len(names) - 1) / 2) * thickness for row in range(len(bars))]
            widths = [values.get(name, math.nan) for values in bars.values()]
            look = CONDITIONS[name]
            drawn = axes.barh(rows, widths, height=thickness * 0.9, color=look.color, label=look.label)
            texts = [_bar_text(width, digits) for width in widths]
            axes.bar_label(drawn, labels=texts, padding=3, fontsize=9.5)
        axes.set_yticks(range(len(bars)), labels=list(bars))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.16)
        axes.axvline(0, color="#5f666e", linewidth=1)
        axes.set_xlabel(title)
        if percent:
            as_percent(axes.xaxis)
        figure.legend(loc="outside lower center", ncols=3)
        return to_svg(figure, f"{title}, by bank")


def _bar_text(width: float, digits: int | None) -> str:
    if math.isnan(width):
        return ""
    return f"{100 * width:.1f} %" if digits is None else signed(width, digits)
