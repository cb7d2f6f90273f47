"""From a matplotlib figure to an inline SVG that is the same bytes every time.

Text stays text: it can be selected, it scales with the page, and the page's fonts draw Chinese names. It is
never read as mathematics, so a ``$`` in a bank's name is a dollar sign. No global state: no pyplot.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

_INK = "#33383f"
_STYLE: dict[str, object] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#9aa1a9",
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 11.0,
    "grid.color": "#e4e7ea",
    "grid.linewidth": 0.8,
    "legend.fontsize": 10.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "svg.fonttype": "none",
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


@dataclass(frozen=True, slots=True)
class Look:
    """How one condition is drawn, the same in every plot: never by colour alone."""

    label: str
    color: str
    dashes: str | tuple[int, tuple[int, ...]]
    marker: str


# Okabe and Ito's palette (distinct under the common kinds of colour blindness), each at least 3:1 on white.
CONDITIONS = {
    "base": Look("Base model", "#5f666e", "dotted", ""),
    "local_only": Look("Bank alone", "#d55e00", "dashed", "s"),
    "federated": Look("Federated", "#0072b2", "solid", "o"),
    "federated_nonprivate": Look("Federated, no privacy", "#009e73", "dashdot", "^"),
    "centralized": Look("Centralized", "#b8609a", (0, (5, 1, 1, 1, 1, 1)), "D"),
}


@contextmanager
def canvas(height: float = 3.5) -> Iterator[tuple[Figure, Axes]]:
    """One figure with one pair of axes, 5.4 inches wide, in the house style; ``height`` in inches."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.4, height), layout="constrained")
        yield figure, figure.add_subplot()


def whole_rounds(axes: Axes) -> None:
    """Label the x axis as rounds, whole numbers only."""
    axes.set_xlabel("Round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def as_percent(axis: Axis) -> None:
    """Label shares in [0, 1] on ``axis`` as percentages."""
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g} %"))


def to_svg(figure: Figure, title: str) -> str:
    """The figure as one ``<svg>`` element without prologue, dates, style sheets or repeated ids.

    ``title`` says in words what the drawing shows; it is escaped. Call it inside the ``canvas`` block.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": f"fedbank {title}"}):
        # The page's fonts draw the text, so a glyph that the measuring font lacks is no matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    return _inline(buffer.getvalue(), title)


def _inline(document: str, title: str) -> str:
    body = document[document.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[A-Za-z0-9.]+_[0-9]+">', "<g>", body)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    view_box = re.search(r'viewBox="[^"]*"', body)
    name = escape(title)
    head = f'<svg {view_box.group() if view_box else ""} role="img" aria-label="{name}"><title>{name}</title>'
    return head + body[body.index(">") + 1 :].strip()
