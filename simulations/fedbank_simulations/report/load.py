"""Read the folder of a finished run into frozen records.

Knows the files of a run folder and their fields; refuses a folder that is not a finished run. Unknown
fields are ignored, missing comparisons are simply absent, and nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedbank.errors import RunError
from fedbank_simulations.report.document import Node, read_json, read_json_lines, read_yaml

_LOCAL_ONLY = "local_only"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures on held-out records: ``nll`` in nats per answer token, ``exact_match`` in [0, 1]."""

    nll: float
    exact_match: float
    n: int


@dataclass(frozen=True, slots=True)
class Round:
    """One line of a ``rounds.jsonl``; ``epsilon`` is cumulative, per bank, empty without privacy.

    Costs are None for a round whose bookkeeping was lost in a crash.
    """

    number: int
    steps: int
    seconds: float | None
    bytes_up: float | None
    bytes_down: float | None
    update_norm: float
    adapter_sha256: str
    evaluation: Evaluation | None
    public_evaluation: Evaluation | None
    epsilon: Mapping[str, float]
    banks: Mapping[str, Evaluation]


@dataclass(frozen=True, slots=True)
class Bank:
    """The size of one bank's data; ``languages`` and ``keys`` are shares that add to one."""

    customers: int
    records: int
    held_out_customers: int
    languages: Mapping[str, float]
    keys: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Privacy:
    """What one bank's customers were promised; figures are None when privacy is off."""

    epsilon: float | None
    delta: float | None
    unit: str
    noise_multiplier: float | None
    sampling_prob: float | None
    steps: int | None
    clip_norm: float | None
    guarantee: str


@dataclass(frozen=True, slots=True)
class Example:
    """One held-out question with its reference and the answers before and after training."""

    bank: str
    question: str
    reference: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a finished run left behind.

    ``evaluation`` and ``per_bank`` are keyed by condition (``base``, ``federated``, …). ``comparisons`` holds
    the rounds of other conditions, ``local_only`` those of each bank that trained alone.
    """

    folder: Path
    settings: Mapping[str, object]
    settings_text: str
    rounds: tuple[Round, ...]
    comparisons: Mapping[str, tuple[Round, ...]]
    local_only: Mapping[str, tuple[Round, ...]]
    private: bool
    banks: Mapping[str, Bank]
    privacy: Mapping[str, Privacy]
    evaluation: Mapping[str, Evaluation]
    per_bank: Mapping[str, Mapping[str, Evaluation]]
    examples: tuple[Example, ...]
    round_count: int
    bytes_up: int
    bytes_down: int
    seconds: float
    peak_rss_bytes: int
    versions: Mapping[str, str]

    def setting(self, path: str) -> object:
        """The setting at a dotted path such as ``privacy.epsilon``; None where there is none."""
        value: object = self.settings
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def is_run(folder: Path) -> bool:
    """Whether ``folder`` is that of a finished run (its content is not checked)."""
    return (folder / "config.yaml").is_file() and (folder / "results.json").is_file()


def load_run(folder: Path) -> Run:
    """Read a finished run.

    Raises:
        RunError: the folder is not that of a finished run, or a file in it does not have the agreed fields.
    """
    if not is_run(folder):
        missing = [name for name in ("config.yaml", "results.json") if not (folder / name).is_file()]
        raise RunError(
            f"Expected the folder of a finished run at {folder}, but it has no {' and no '.join(missing)}. "
            "Give the folder that a simulation wrote, and let the run finish (or resume it) first."
        )
    settings, text = read_yaml(folder / "config.yaml")
    results = read_json(folder / "results.json")
    local = folder / "comparisons" / _LOCAL_ONLY
    return Run(
        folder=folder,
        settings={key: node.value for key, node in settings.entries().items()},
        settings_text=text,
        rounds=_rounds(folder),
        comparisons={path.name: _rounds(path) for path in _folders(local.parent) if path != local},
        local_only={path.name: _rounds(path) for path in _folders(local)},
        private=results.at("private").flag(),
        banks={name: _bank(node) for name, node in results.at("banks").entries().items()},
        privacy={name: _privacy(node) for name, node in results.at("privacy").entries().items()},
        evaluation=_evaluations(results.at("evaluation")),
        per_bank={name: _evaluations(node) for name, node in results.at("per_bank").entries().items()},
        examples=tuple(_example(node) for node in results.at("examples").items()),
        round_count=results.at("rounds").count(),
        bytes_up=results.at("bytes_up").count(),
        bytes_down=results.at("bytes_down").count(),
        seconds=results.at("seconds").number(),
        peak_rss_bytes=results.at("peak_rss_bytes").count(),
        versions={name: str(node.value) for name, node in results.at("versions").entries().items()},
    )


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def _rounds(folder: Path) -> tuple[Round, ...]:
    return tuple(_round(node) for node in read_json_lines(folder / "rounds.jsonl"))


def _round(node: Node) -> Round:
    return Round(
        number=node.at("round").count(),
        steps=int(node.at("steps").optional_number() or 0),
        seconds=node.at("seconds").optional_number(),
        bytes_up=node.at("bytes_up").optional_number(),
        bytes_down=node.at("bytes_down").optional_number(),
        update_norm=node.at("update_norm").number_or_nan(),
        adapter_sha256=str(node.at("adapter_sha256").value or ""),
        evaluation=_evaluation(node.at("evaluation")),
        public_evaluation=_evaluation(node.at("public_evaluation")),
        epsilon={bank: epsilon.number() for bank, epsilon in node.at("epsilon").entries().items()},
        banks=_evaluations(node.at("banks")),
    )


def _evaluation(node: Node) -> Evaluation | None:
    if node.value is None:
        return None
    return Evaluation(
        nll=node.at("nll").number_or_nan(),
        exact_match=node.at("exact_match").number_or_nan(),
        n=node.at("n").count(),
    )


def _evaluations(node: Node) -> dict[str, Evaluation]:
    read = {name: _evaluation(entry) for name, entry in node.entries().items()}
    return {name: evaluation for name, evaluation in read.items() if evaluation is not None}


def _bank(node: Node) -> Bank:
    return Bank(
        customers=node.at("customers").count(),
        records=node.at("records").count(),
        held_out_customers=node.at("held_out_customers").count(),
        languages={name: share.number() for name, share in node.at("languages").entries().items()},
        keys={name: share.number() for name, share in node.at("keys").entries().items()},
    )


def _privacy(node: Node) -> Privacy:
    steps = node.at("steps").optional_number()
    return Privacy(
        epsilon=node.at("epsilon").optional_number(),
        delta=node.at("delta").optional_number(),
        unit=str(node.at("unit").value or ""),
        noise_multiplier=node.at("noise_multiplier").optional_number(),
        sampling_prob=node.at("sampling_prob").optional_number(),
        steps=None if steps is None else int(steps),
        clip_norm=node.at("clip_norm").optional_number(),
        guarantee=str(node.at("guarantee").value or ""),
    )


def _example(node: Node) -> Example:
    return Example(
        bank=node.at("bank").text(),
        question=node.at("question").text(),
        reference=node.at("reference").text(),
        before=node.at("before").text(),
        after=node.at("after").text(),
    )
