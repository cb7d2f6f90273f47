"""What an audit leaves behind: ``audit.json`` and the page ``audit.html``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fedbank.audit.finding import Finding
from fedbank.durable import write_atomic
from fedbank_simulations.audit.plots import bounds_plot, roc_plot
from fedbank_simulations.report.render import render
from fedbank_simulations.strict_json import to_json

PAGE, FIGURES = "audit.html", "audit.json"

_HOW = {
    "mechanism": "The code that samples, clips, sums, adds noise and rounds was run again and again on gradients that "
    "an adversary would choose, with and without one customer.",
    "gradient": "One training run with made-up customers whose gradients point in directions of their own; each took "
    "part or not by a coin. The adversary sees every released step and knows all other customers.",
    "canary": "Made-up customers with one random fact each were put among a bank's customers or left out, by a coin. "
    "The adversary sees the final adapter only, and judges by the loss of each fact.",
    "mia": "Real customers of a bank were in the training data or not. The adversary sees the final adapter only, and "
    "judges by each customer's loss.",
}


@dataclass(frozen=True, slots=True, eq=False)
class Audit:
    """One audit: its level, findings (the first leads), and the seconds that it took."""

    level: str
    findings: Sequence[Finding]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every claim stands."""
        return all(finding.ok for finding in self.findings)

    def leading(self) -> Finding:
        """The first finding that refutes its claim, or the first of all."""
        return next((finding for finding in self.findings if not finding.ok), self.findings[0])

    def as_json(self) -> dict[str, Any]:
        """The leading finding's figures, the verdict over all, and every finding."""
        return {
            "level": self.level,
            **self.leading().as_json(),
            "ok": self.ok,
            "seconds": round(self.seconds, 2),
            "findings": [finding.as_json() for finding in self.findings],
        }


def write_page(audit: Audit, folder: Path) -> Path:
    """Write ``audit.json`` and ``audit.html`` into ``folder``; returns the page's path."""
    values = {
        "level": audit.level,
        "how": _HOW[audit.level],
        "ok": audit.ok,
        "verdict": audit.leading().verdict(),
        "findings": [(finding, finding.attack()) for finding in audit.findings],
        # Markup: matplotlib escapes the text inside, canvas.to_svg escapes the title.
        "roc": Markup(roc_plot(audit.findings)),
        "bounds": Markup(bounds_plot(audit.findings)),
        "seconds": audit.seconds,
    }
    write_atomic(folder / FIGURES, to_json(audit.as_json(), indent=2).encode())
    write_atomic(folder / PAGE, render("audit.html.j2", values).encode())
    return folder / PAGE
