"""A bank's cumulative epsilon over time as one self-contained page: an inline SVG, no script, nothing loaded."""

import math
from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path

from fedbank.durable import write_atomic
from fedbank.privacy.budget import Budget, Moment

_WIDTH, _HEIGHT = 720, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 24, 56
_INK, _GRID, _SPENT, _LIMIT = "#33383f", "#e4e7ea", "#0072b2", "#b3261e"
_MOST_TICKS = 6


def write_page(path: Path, bank: str, budget: Budget, moments: Sequence[Moment]) -> None:
    """Write the page of ``bank``; ``moments`` are in the order of time."""
    title = f"Privacy spent by {bank}"
    content = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f"<style>body{{font-family:system-ui,sans-serif;color:{_INK};max-width:46rem;margin:2rem auto;padding:0 1rem}}"
        "svg{width:100%;height:auto}</style></head><body>\n"
        f"<h1>{escape(title)}</h1>\n<p>Epsilon of everything executed in all campaigns together, at delta = "
        f"{budget.delta:g}. Each dot is a round just charged; of a long history, evenly chosen ones are drawn. "
        "Times are UTC.</p>\n"
        f"{draw(moments, budget.max_epsilon_total)}\n</body></html>\n"
    )
    write_atomic(path, content.encode())


def draw(moments: Sequence[Moment], limit: float | None) -> str:
    """Epsilon as steps over time, with the limit as a dashed line, as one ``<svg>`` element."""
    shown = [moment for moment in moments if math.isfinite(moment.epsilon)]
    if not shown:
        return "<p>Nothing has been charged yet.</p>"
    times = [datetime.fromisoformat(moment.time).timestamp() for moment in shown]
    top = 1.08 * max(limit or 0.0, *(moment.epsilon for moment in shown), 1e-6)
    span = max(times[-1] - times[0], 1.0)

    def x(at: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (at - times[0]) / span

    def y(epsilon: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * epsilon / top

    parts = [_rule(y(value), f"{value:g}") for value in _ticks(top)]
    parts += [
        f'<text x="{x(at):.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="{anchor}">{escape(moment.time[:16])}</text>'
        for at, moment, anchor in ((times[0], shown[0], "start"), (times[-1], shown[-1], "end"))
    ]
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 12}">Privacy spent, ε (cumulative), over time</text>')
    path = f"M{x(times[0]):.1f},{y(0):.1f}"
    for at, moment in zip(times, shown, strict=True):
        path += f"H{x(at):.1f}V{y(moment.epsilon):.1f}"
    parts.append(f'<path d="{path}" fill="none" stroke="{_SPENT}" stroke-width="2.5"/>')
    for at, moment in zip(times, shown, strict=True):
        words = escape(f"{moment.time}, {moment.campaign}: ε = {moment.epsilon:.4f}")
        parts.append(
            f'<circle cx="{x(at):.1f}" cy="{y(moment.epsilon):.1f}" r="3.5" fill="{_SPENT}">'
            f"<title>{words}</title></circle>"
        )
    if limit is not None:
        height = y(limit)
        parts.append(
            f'<path d="M{_LEFT},{height:.1f}H{_WIDTH - _RIGHT}" stroke="{_LIMIT}" stroke-width="2" '
            f'stroke-dasharray="7 5"/><text x="{_LEFT + 6}" y="{height - 6:.1f}" fill="{_LIMIT}">'
            f"limit ε = {limit:g}</text>"
        )
    label = "Cumulative epsilon over time" + ("" if limit is None else f", and the limit {limit:g}")
    head = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}" font-size="13" fill="{_INK}">'
    return head + "".join(parts) + "</svg>"


def _rule(height: float, label: str) -> str:
    return (
        f'<path d="M{_LEFT},{height:.1f}H{_WIDTH - _RIGHT}" stroke="{_GRID}"/>'
        f'<text x="{_LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{label}</text>'
    )


def _ticks(top: float) -> list[float]:
    """Round numbers from 0 to ``top``, at most ``_MOST_TICKS``."""
    unit = 10.0 ** math.floor(math.log10(top / _MOST_TICKS))
    step = next(unit * factor for factor in (1, 2, 5, 10) if top / (unit * factor) <= _MOST_TICKS)
    return [round(number * step, 10) for number in range(int(top / step) + 1)]
