"""The drawings of an audit's page: ROC curves, and bounds beside the claims they were set against."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from fedbank.audit.finding import Finding
from fedbank.audit.roc import curve
from fedbank_simulations.report.canvas import as_percent, canvas, to_svg

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#b8609a")
_DASHES = ("solid", "dashed", "dashdot", (0, (5, 1, 1, 1)))
_CLAIM, _OTHER = "#b3261e", "#a8b4bf"
_LONGEST = 3.0
"""A bound more than this many times the largest claim is drawn as going on beyond the edge."""


def roc_plot(findings: Sequence[Finding]) -> str:
    """True against false positives of every finding's attack, as inline SVG."""
    with canvas(height=3.9 + 0.2 * len(findings)) as (figure, axes):
        axes.plot([0, 1], [0, 1], color="#5f666e", linestyle="dotted", label="guessing")
        for number, finding in enumerate(findings):
            false, true = curve(finding.scores_I, finding.scores_O)
            look = number % len(_COLORS)
            label = f"{finding.name}, area {finding.attack().auc:.3f}"
            # Steps, not straight lines: between two thresholds nobody gains.
            axes.step(false, true, where="post", color=_COLORS[look], linestyle=_DASHES[look], linewidth=2, label=label)
        axes.set_aspect("equal")
        for axis, name in ((axes.xaxis, "False positives"), (axes.yaxis, "True positives")):
            as_percent(axis)
            axis.set_label_text(name)
        figure.legend(loc="outside lower center", ncols=1)
        return to_svg(figure, "ROC curves: true against false positives")


def bounds_plot(findings: Sequence[Finding]) -> str:
    """Every lower bound as a bar and every claim as a line across the bars of its finding, as inline SVG."""
    rows = [(finding, number) for finding in findings for number in range(len(finding.bounds))]
    claims = [finding.epsilon_claimed for finding in findings if finding.epsilon_claimed is not None]
    longest = max(finding.bounds[number].epsilon for finding, number in rows)
    limit = 1.15 * max([min(longest, _LONGEST * max(claims)) if claims else longest, *claims, 0.1])
    with canvas(height=1.5 + 0.36 * len(rows) + 0.5 * len(findings)) as (figure, axes):
        place, ticks = 0.0, []
        for finding in findings:
            title = axes.annotate(
                finding.name, (0, place), (4, 0), textcoords="offset points", va="center", fontsize=10
            )
            title.set_in_layout(False)  # a long name must not squeeze the bars
            first = place + 1
            for number, bound in enumerate(finding.bounds):
                place += 1
                _draw_bound(axes, place, bound.epsilon, limit, _COLORS[0] if number == 0 else _OTHER)
                ticks.append((place, bound.method))
            _draw_claim(axes, finding, first - 0.5, place + 0.5)
            place += 1.3
        axes.set_yticks([position for position, _ in ticks], labels=[name for _, name in ticks])
        axes.set_ylim(place - 0.6, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, limit)
        axes.set_xlabel("ε: lower bound, and claim")
        figure.legend(handles=_keys(bool(claims)), loc="outside lower center", ncols=3)
        return to_svg(figure, "Lower bounds on epsilon beside the claim")


def _draw_bound(axes: Axes, place: float, epsilon: float, limit: float, color: str) -> None:
    """A bar with its figure inside where there is room, so that the claim's line does not cross it."""
    length = min(epsilon, limit)
    axes.barh(place, length, height=0.74, color=color)
    inside = length > 0.25 * limit
    axes.annotate(
        f"{epsilon:.2f}",
        (length, place),
        (-4 if inside else 4, 0),
        textcoords="offset points",
        va="center",
        ha="right" if inside else "left",
        color="white" if inside and color == _COLORS[0] else "black",
    )


def _draw_claim(axes: Axes, finding: Finding, top: float, bottom: float) -> None:
    if finding.epsilon_claimed is not None:
        axes.plot([finding.epsilon_claimed] * 2, [top, bottom], color=_CLAIM, linestyle="dashed", linewidth=2)


def _keys(claimed: bool) -> list[Patch | Line2D]:
    keys: list[Patch | Line2D] = [
        Patch(color=_COLORS[0], label="deciding bound"),
        Patch(color=_OTHER, label="other bounds"),
    ]
    return [*keys, Line2D([], [], color=_CLAIM, linestyle="dashed", linewidth=2, label="claim")] if claimed else keys
