"""The page of many runs: what privacy costs, with one line for each setting that varies.

Runs that differ in nothing but their seed are one point. Their interval is honest only if the seeds are
distinct, so a seed that appears twice in a point is refused, and runs that never finished are named.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from fedbank.durable import write_atomic
from fedbank.errors import RunError
from fedbank_simulations.report import words
from fedbank_simulations.report.curves import CurvePoint, utility_plot
from fedbank_simulations.report.estimates import Estimate, estimate
from fedbank_simulations.report.load import Evaluation, Run, is_run, load_run
from fedbank_simulations.report.render import render

# Where, how and beside what a run was executed does not change its federated adapter.
_NOT_A_SETTING = frozenset({"seed", "output", "resume", "simulation", "comparisons"})
# The privacy dial is the x axis; the noise follows from it.
_DIAL = frozenset({"privacy.enabled", "privacy.epsilon", "privacy.noise_multiplier"})
_ONLY_LINE = "Federated"


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that differ only in their seed; ``epsilon`` is the mean over seeds of the worst bank's."""

    line: str
    private: bool
    target: float | None
    epsilon: float | None
    seeds: tuple[str, ...]
    runs: tuple[Path, ...]
    nll: Estimate
    exact_match: Estimate
    base_nll: float
    base_exact_match: float

    def point(self, metric: str) -> CurvePoint:
        """This group in the plot of ``metric`` (``nll`` or ``exact_match``)."""
        return CurvePoint(self.line, self.epsilon, getattr(self, metric), getattr(self, f"base_{metric}"))


def write_sweep_report(dirs: Sequence[Path], output: Path) -> Path:
    """Compare runs on one page at ``output``, with ``sweep.json`` next to it, and return the page's path.

    Each of ``dirs`` is the folder of a run or a folder above run folders. An ``output`` that does not end in
    ``.html`` is a folder for ``sweep.html``.

    Raises:
        RunError: no finished run, a run without its evaluation, or two runs with the same seed and settings.
    """
    page = output if output.suffix == ".html" else output / "sweep.html"
    folders, unfinished = _find(dirs)
    runs = [load_run(folder) for folder in folders]
    groups = _group(runs)
    skipped = [os.path.relpath(folder, page.parent) for folder in unfinished]
    values: dict[str, object] = {
        "groups": groups,
        "links": {run: _link(run, page.parent) for group in groups for run in group.runs},
        "formats": {"decimal": words.decimal, "percent": words.percent},
        "skipped": skipped,
        "run_count": len(runs),
        "varying": _varying([_flat(run) for run in runs]),
        "plots": {
            metric: Markup(utility_plot([group.point(metric) for group in groups], metric))
            for metric in ("nll", "exact_match")
        },
    }
    write_atomic(page.with_name("sweep.json"), _json(groups, skipped, page.parent).encode())
    write_atomic(page, render("sweep.html.j2", values).encode())
    return page


def _find(dirs: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Folders of finished runs and of unfinished ones; one that was named itself must be finished."""
    finished: dict[Path, Path] = {}
    unfinished: dict[Path, Path] = {}
    for directory in dirs:
        if is_run(directory):
            finished.setdefault(directory.resolve(), directory)
            continue
        inside = _below(directory)
        if not inside:
            load_run(directory)  # names what is missing
        for folder in inside:
            (finished if is_run(folder) else unfinished).setdefault(folder.resolve(), folder)
    if not finished:
        raise RunError(
            f"Expected at least one finished run, got {len(dirs)} folders with {len(unfinished)} unfinished "
            "runs. Give the folders that simulations wrote, or a folder above them."
        )
    return list(finished.values()), list(unfinished.values())


def _below(directory: Path) -> list[Path]:
    found = (path.parent for path in sorted(directory.rglob("config.yaml")) if path.parent != directory)
    return [path for path in found if not path.name.startswith(".")]


def _flat(run: Run) -> dict[str, str]:
    """Dotted path → canonical JSON of every setting that can distinguish two runs."""
    flat: dict[str, str] = {}

    def walk(prefix: str, value: object) -> None:
        if prefix in _NOT_A_SETTING:
            return
        if isinstance(value, Mapping) and value:
            for key, entry in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), entry)
        else:
            flat[prefix] = value if isinstance(value, str) else json.dumps(value, default=str)

    walk("", run.settings)
    if not words.is_private(run):
        # Without privacy the rest of that group is without effect.
        return {key: value for key, value in flat.items() if not key.startswith("privacy.")}
    return flat


def _varying(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Settings other than the dial with more than one value among the runs that have them."""
    seen: dict[str, set[str]] = {}
    for flat in settings:
        for key, value in flat.items():
            seen.setdefault(key, set()).add(value)
    shared = [key for key in seen if key.startswith("privacy.") or all(key in flat for flat in settings)]
    absent = sorted(seen.keys() - set(shared))
    return sorted(key for key in shared if len(seen[key]) > 1 and key not in _DIAL) + absent


def _line(flat: Mapping[str, str], varying: Sequence[str]) -> str:
    present = [key for key in varying if key in flat]
    if len(present) == 1:
        return flat[present[0]]
    return ", ".join(f"{key.rsplit('.', maxsplit=1)[-1]} {flat[key]}" for key in present) or _ONLY_LINE


def _group(runs: Sequence[Run]) -> list[Group]:
    settings = [_flat(run) for run in runs]
    varying = _varying(settings)
    members: dict[tuple[str, str], list[Run]] = {}
    for run, flat in zip(runs, settings, strict=True):
        members.setdefault((_line(flat, varying), json.dumps(flat, sort_keys=True)), []).append(run)
    groups = [_summarize(line, same) for (line, _), same in members.items()]
    return sorted(groups, key=lambda one: (one.line, math.inf if one.epsilon is None else one.epsilon))


def _summarize(line: str, runs: Sequence[Run]) -> Group:
    seeds: dict[str, Path] = {}
    for run in runs:
        seed = str(run.setting("seed"))
        if seed in seeds:
            raise RunError(
                f"Expected different seeds for runs with the same settings, got seed {seed} in "
                f"{seeds[seed]} and in {run.folder}. Leave one out: a repeated run is no further evidence."
            )
        seeds[seed] = run.folder
    federated = [_evaluation(run, "federated") for run in runs]
    base = [_evaluation(run, "base") for run in runs]
    spent = [epsilon for run in runs if (epsilon := words.worst_epsilon(run)) is not None]
    return Group(
        line=line,
        private=bool(spent),
        target=words.target_epsilon(runs[0]),
        epsilon=math.fsum(spent) / len(spent) if spent else None,
        seeds=tuple(seeds),
        runs=tuple(seeds.values()),
        nll=estimate([one.nll for one in federated], bounds=(0.0, math.inf)),
        exact_match=estimate([one.exact_match for one in federated], bounds=(0.0, 1.0)),
        base_nll=math.fsum(one.nll for one in base) / len(base),
        base_exact_match=math.fsum(one.exact_match for one in base) / len(base),
    )


def _evaluation(run: Run, name: str) -> Evaluation:
    found = run.evaluation.get(name)
    if found is None:
        raise RunError(
            f"Expected evaluation.{name} in {run.folder / 'results.json'}, got nothing. "
            "Run it again with its evaluation turned on, or leave it out."
        )
    return found


def _link(run: Path, start: Path) -> str:
    """A relative address of the run's page, empty where it has none."""
    report = run / "report.html"
    return quote(Path(os.path.relpath(report, start)).as_posix()) if report.is_file() else ""


def _json(groups: Sequence[Group], skipped: Sequence[str], start: Path) -> str:
    rows = [asdict(group) | {"runs": [os.path.relpath(run, start) for run in group.runs]} for group in groups]
    return json.dumps(_finite({"groups": rows, "skipped": list(skipped)}), indent=2, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    """The same document with null for the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
