"""The page of one run: ``report.html`` in the run's folder.

Its figures are a researcher's: they are measured on held-out customers and are outside the privacy guarantee
that covers the adapter. The page says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from fedbank.durable import write_atomic
from fedbank_simulations.report import plots, words
from fedbank_simulations.report.canvas import CONDITIONS
from fedbank_simulations.report.estimates import wilson_interval
from fedbank_simulations.report.load import Bank, Evaluation, Example, Run, load_run
from fedbank_simulations.report.render import render

# One blue-to-yellow scale (cividis): readable in grey, and no colour of a condition.
_MIX_COLORS = ("#12355f", "#4a5a78", "#777a85", "#a39a76", "#cdb95f", "#f0dc5a")
_REST_COLOR = "#dfe2e6"
_REST = "other"


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table of evaluations; changes are against the base model."""

    label: str
    color: str
    evaluation: Evaluation
    low: float
    high: float
    exact_match_change: float | None
    nll_change: float | None


@dataclass(frozen=True, slots=True)
class Slice:
    """One product's part of a bank's records: ``start`` and ``share`` in [0, 1]."""

    name: str
    color: str
    start: float
    share: float


@dataclass(frozen=True, slots=True)
class Reply:
    """One model's answer to an example question, and whether it is the reference."""

    when: str
    text: str
    correct: bool


def write_run_report(run_dir: Path) -> Path:
    """Write ``report.html`` into the folder of a finished run and return its path.

    Raises:
        RunError: ``run_dir`` is not the folder of a finished run.
    """
    page = run_dir / "report.html"
    write_atomic(page, render("run.html.j2", _values(load_run(run_dir))).encode())
    return page


def _values(run: Run) -> dict[str, object]:
    private = words.is_private(run)
    colors = _mix_colors(run.banks)
    return {
        "run": run,
        "name": run.folder.resolve().name,
        "private": private,
        "verdict": words.verdict(run),
        "summary": words.summary(run),
        "promise": words.promise(run) if private else "",
        "epsilon": words.worst_epsilon(run),
        "target": words.target_epsilon(run),
        "results": _results(run.evaluation),
        "plots": _plots(run),
        "mix_colors": colors,
        "mixes": {name: _mix(bank, colors) for name, bank in run.banks.items()},
        "guarantees": _guarantees(run),
        "examples": [(example, _replies(example)) for example in run.examples],
        "base_model": _base_model(run),
    }


def _results(evaluations: Mapping[str, Evaluation]) -> list[Result]:
    base = evaluations.get("base")
    return [
        _result(look.label, look.color, evaluations[name], None if name == "base" else base)
        for name, look in CONDITIONS.items()
        if name in evaluations
    ]


def _result(label: str, color: str, evaluation: Evaluation, base: Evaluation | None) -> Result:
    low, high = wilson_interval(evaluation.exact_match, evaluation.n)
    return Result(
        label=label,
        color=color,
        evaluation=evaluation,
        low=low,
        high=high,
        exact_match_change=None if base is None else evaluation.exact_match - base.exact_match,
        nll_change=None if base is None else evaluation.nll - base.nll,
    )


def _plots(run: Run) -> dict[str, Markup]:
    # Markup: matplotlib escapes the text inside, canvas.to_svg escapes the title.
    return {
        "loss": Markup(plots.rounds_plot(run, "nll")),
        "exact_match": Markup(plots.rounds_plot(run, "exact_match")),
        "epsilon": Markup(plots.epsilon_plot(run) if words.is_private(run) else ""),
        "bank_exact_match": Markup(plots.bank_exact_match_plot(run)),
        "bank_loss": Markup(plots.bank_loss_gain_plot(run)),
    }


def _base_model(run: Run) -> str:
    """What to give to ``from_pretrained``: the model's folder, its identifier, or at least its name."""
    named = (run.setting(f"model.{key}") for key in ("path", "identifier", "name"))
    return next((name for name in named if isinstance(name, str) and name), "BASE_MODEL")


def _products(bank: Bank) -> dict[str, float]:
    """Shares by product: the language after the last slash of a key has its own column."""
    shares: dict[str, float] = {}
    for key, share in bank.keys.items():
        product = key.rsplit("/", maxsplit=1)[0]
        shares[product] = shares.get(product, 0.0) + share
    return shares


def _mix_colors(banks: Mapping[str, Bank]) -> dict[str, str]:
    """A colour for each of the consortium's largest products, the same at every bank."""
    totals: dict[str, float] = {}
    for bank in banks.values():
        for product, share in _products(bank).items():
            totals[product] = totals.get(product, 0.0) + share
    largest = sorted(totals, key=lambda product: (-totals[product], product))[: len(_MIX_COLORS)]
    colors = dict(zip(largest, _MIX_COLORS, strict=False))
    return colors | ({_REST: _REST_COLOR} if len(totals) > len(largest) else {})


def _mix(bank: Bank, colors: Mapping[str, str]) -> list[Slice]:
    products = _products(bank)
    shares = {name: products.get(name, 0.0) for name in colors if name != _REST}
    shares[_REST] = max(0.0, sum(products.values()) - sum(shares.values()))
    slices, start = [], 0.0
    for name, share in shares.items():
        if share > 1e-9:
            slices.append(Slice(name, colors.get(name, _REST_COLOR), start, share))
            start += share
    return slices


def _guarantees(run: Run) -> dict[str, list[str]]:
    """Each guarantee's sentence once, with the banks that give it."""
    banks: dict[str, list[str]] = {}
    for bank, privacy in run.privacy.items():
        if privacy.guarantee:
            banks.setdefault(privacy.guarantee, []).append(bank)
    return banks


def _replies(example: Example) -> list[Reply]:
    answers = {"Before": example.before, "After": example.after}
    reference = example.reference.split()
    return [Reply(when, text, text.split() == reference) for when, text in answers.items()]
