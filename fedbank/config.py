"""Settings: from ``conf/`` and the command line to checked values. The only user of Hydra and OmegaConf.

A configuration holds names and numbers, never code to call. The schemas below are mutable because OmegaConf
needs them so; whoever uses them turns them into frozen domain objects at once.
"""

import difflib
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedbank.aggregation.rules import RULES
from fedbank.aggregation.server_step import STEPS
from fedbank.errors import ConfigError


@dataclass
class ColumnsConfig:
    """Names of the columns of a data file."""

    question: str = "question"
    answer: str = "answer"
    customer: str = "customer"
    key: str = "key"
    language: str | None = None


@dataclass
class DataConfig:
    """conf/data"""

    name: str = "synthetic"
    customers: int | None = None
    max_records: int | None = None
    path: str | None = None
    format: str | None = None
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)


@dataclass
class PartitionConfig:
    """conf/partition"""

    kind: str = "dirichlet"
    alpha: float | None = None
    size_exponent: float = 0.0


@dataclass
class ModelConfig:
    """conf/model"""

    name: str = "tiny"
    path: str | None = None
    identifier: str | None = None
    revision: str | None = None
    dtype: str = "float32"
    quantisation: str = "none"
    gradient_checkpointing: str = "none"
    device: str = "auto"
    max_length: int = 64


@dataclass
class AdapterConfig:
    """conf/adapter"""

    rank: int = 8
    alpha: float = 16.0
    target_modules: list[str] = field(default_factory=list)
    last_layers: int | None = None
    dropout: float = 0.0


@dataclass
class PrivacyConfig:
    """conf/privacy"""

    enabled: bool = True
    epsilon: float | None = None
    delta: float | None = None
    clip_norm: float | None = None
    unit: str = "customer"


@dataclass
class TrainingConfig:
    """conf/training"""

    rounds: int = 1
    local_steps: int = 1
    expected_batch: int = 1
    records_per_customer: int = 1
    optimizer: str = "adam"
    learning_rate: float = 0.01
    momentum: float = 0.0
    micro_batch: int = 64
    per_example: str = "direct"


@dataclass
class AggregationConfig:
    """conf/aggregation"""

    rule: str = "fedsvd"
    weights: str = "equal"
    server_step: str = "mean"
    learning_rate: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3


@dataclass
class HeldOutConfig:
    """The ``held_out`` section of conf/simulate.yaml"""

    fraction: float = 0.1
    max_records: int = 2000
    monitored_records: int = 400
    public_fraction: float = 0.02


@dataclass
class ComparisonsConfig:
    """The ``comparisons`` section of conf/simulate.yaml"""

    local_only: bool = True
    federated_nonprivate: bool = True
    centralized: bool = True


@dataclass
class SimulationConfig:
    """The ``simulation`` section of conf/simulate.yaml"""

    backend: str = "inline"
    ray_address: str | None = None
    cpus_per_bank: float = 1.0
    gpus_per_bank: float = 0.0
    threads: int | None = None
    banks_at_once: int | None = None


@dataclass
class SimulateConfig:
    """conf/simulate.yaml"""

    data: DataConfig = field(default_factory=DataConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    comparisons: ComparisonsConfig = field(default_factory=ComparisonsConfig)
    simulation: SimulationConfig = field(default_factory=SimulationConfig)
    banks: int = 4
    seed: int = 0
    output: str | None = None
    resume: str | None = None


def load_simulate(overrides: Sequence[str]) -> SimulateConfig:
    """The settings of ``fedbank simulate`` with ``overrides``; ``ConfigError`` if any is unknown or out of range."""
    config = _typed(_compose("simulate", overrides))
    _check(config)
    return config


def parse_simulate(text: str) -> SimulateConfig:
    """The settings that ``to_yaml`` wrote."""
    try:
        written = OmegaConf.create(text)
        keys = set(_names("", OmegaConf.to_container(written)))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError("Expected the settings of a run in config.yaml, got no YAML. Restore the file.") from error
    if missing := sorted(set(_setting_names()) - keys):
        raise ConfigError(f"Expected every setting in config.yaml, got none for {missing[0]}. Restore the file.")
    config = _typed(written)
    _check(config)
    return config


def to_yaml(config: SimulateConfig) -> str:
    """All settings, resolved, as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def expand_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """One list of overrides per run of a sweep: the product of all comma-separated values, in their order."""
    try:
        parsed = OverridesParser.create().parse_overrides([_with_quoted_path(o) for o in overrides])
        choices = [
            [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
            if o.is_discrete_sweep()
            else [str(o.input_line)]
            for o in parsed
        ]
    except HydraException as error:
        raise ConfigError(_explain(error)) from error
    return [list(run) for run in itertools.product(*choices)]


def _compose(name: str, overrides: Sequence[str]) -> Any:
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return compose(name, overrides=[_with_quoted_path(override) for override in overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error)) from error


def _with_quoted_path(override: str) -> str:
    """A path is taken as it stands: spaces, commas, ``=`` and brackets in it are not Hydra's grammar."""
    name, equals, value = override.partition("=")
    if not equals or name not in _PATHS or value in ("", "null") or value[0] in "'\"":
        return override
    escaped = value.replace("'", "\\'")
    return f"{name}='{escaped}'"


def config_dir() -> Path:
    """``conf/``: inside the package when installed, beside it in a checkout."""
    installed = Path(str(files("fedbank"))) / "conf"
    return installed if installed.is_dir() else Path(str(files("fedbank"))).resolve().parent / "conf"


def _typed(composed: Any) -> SimulateConfig:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(SimulateConfig), composed)
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error)) from error
    if not isinstance(config, SimulateConfig):
        raise ConfigError("Expected the settings of a simulation, got something else. Restore config.yaml.")
    return config


def _explain(error: Exception) -> str:
    """Hydra's and OmegaConf's errors in the words of ours: expected, got, what to do."""
    text = str(error)
    if unknown := re.search(r"Could not override '(.+?)'|Key '(.+?)' is not in struct|Key '(.+?)' not in '", text):
        key = str(getattr(error, "full_key", None) or next(group for group in unknown.groups() if group))
        return f"Expected a known setting, got {key!r}.{_nearest(key, _setting_names())} See fedbank simulate --help."
    if missing := re.search(r"Could not find '([\w.]+)/([^']+)'", text):
        group, option = missing.groups()
        options = sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))
        return f"Expected {group}={'|'.join(options)}, got {option!r}.{_nearest(option, options)}"
    first = text.strip().splitlines()[0].rstrip(".")
    full_key = getattr(error, "full_key", None)
    where = f" for {full_key}" if full_key and str(full_key) not in first else ""
    return f"Expected a valid setting{where}, got: {first}. Write overrides as name=value; see fedbank simulate --help."


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def _setting_names() -> list[str]:
    return _names("", OmegaConf.to_container(OmegaConf.structured(SimulateConfig())))


def _names(prefix: str, value: Any) -> list[str]:
    """The dotted names of all settings in a tree, sections included."""
    if not isinstance(value, dict):
        return []
    return [name for key, child in value.items() for name in (f"{prefix}{key}", *_names(f"{prefix}{key}.", child))]


_PATHS = ("output", "resume", "data.path", "model.path")

_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

_Rule = tuple[str, Callable[[Any], bool], str]

_RULES: tuple[_Rule, ...] = (
    ("banks", lambda v: v >= 1, "at least 1"),
    ("seed", lambda v: v >= 0, "0 or more"),
    ("data.customers", lambda v: v is None or v >= 1, "at least 1"),
    ("data.max_records", lambda v: v is None or 1 <= v <= 1000, "from 1 to 1000"),
    ("partition.kind", lambda v: v in ("key", "dirichlet", "iid"), "key, dirichlet or iid"),
    ("partition.alpha", lambda v: v is None or v > 0, "a positive number"),
    ("partition.size_exponent", lambda v: 0 <= v <= 10, "from 0 to 10"),
    ("model.max_length", lambda v: v >= 16, "at least 16 tokens"),
    ("adapter.rank", lambda v: 1 <= v <= 512, "from 1 to 512"),
    ("adapter.alpha", lambda v: v > 0, "a positive number"),
    ("adapter.target_modules", lambda v: bool(v) and set(v) <= set(_MODULES), "names among " + ", ".join(_MODULES)),
    ("adapter.last_layers", lambda v: v is None or v >= 1, "at least 1"),
    ("privacy.epsilon", lambda v: v is None or 0 < v < float("inf"), "a positive number"),
    ("privacy.delta", lambda v: v is None or 0 < v < 1, "between 0 and 1"),
    ("privacy.clip_norm", lambda v: v is None or 0 < v < float("inf"), "a positive number"),
    ("training.rounds", lambda v: v >= 1, "at least 1"),
    ("training.local_steps", lambda v: v >= 1, "at least 1"),
    ("training.expected_batch", lambda v: v >= 1, "at least 1 customer"),
    ("training.records_per_customer", lambda v: v >= 1, "at least 1"),
    ("privacy.unit", lambda v: v in ("customer", "record"), "customer or record"),
    ("training.optimizer", lambda v: v in ("adam", "sgd"), "adam or sgd"),
    ("training.learning_rate", lambda v: 0 < v < float("inf"), "a positive number"),
    ("training.momentum", lambda v: 0 <= v < 1, "from 0 to below 1"),
    ("training.micro_batch", lambda v: v >= 1, "at least 1 customer"),
    ("training.per_example", lambda v: v in ("direct", "opacus"), "direct or opacus"),
    ("adapter.dropout", lambda v: 0 <= v < 1, "from 0 to below 1"),
    (
        "model.gradient_checkpointing",
        lambda v: v in ("none", "reentrant", "non-reentrant"),
        "none, reentrant or non-reentrant",
    ),
    ("aggregation.rule", lambda v: v in RULES, "fedsvd, ffa or fedavg"),
    ("aggregation.weights", lambda v: v in ("equal", "declared"), "equal or declared"),
    ("aggregation.server_step", lambda v: v in STEPS, "mean, momentum or adam"),
    ("aggregation.learning_rate", lambda v: 0 < v < float("inf"), "a positive number"),
    ("aggregation.beta1", lambda v: 0 <= v < 1, "from 0 to below 1"),
    ("aggregation.beta2", lambda v: 0 <= v < 1, "from 0 to below 1"),
    ("aggregation.tau", lambda v: v > 0, "a positive number"),
    ("held_out.fraction", lambda v: 0 < v < 1, "between 0 and 1"),
    ("held_out.public_fraction", lambda v: 0 < v < 1, "between 0 and 1"),
    ("held_out.max_records", lambda v: v >= 1, "at least 1"),
    ("held_out.monitored_records", lambda v: v >= 1, "at least 1"),
    ("simulation.backend", lambda v: v in ("inline", "ray"), "inline or ray"),
    ("simulation.cpus_per_bank", lambda v: v > 0, "a positive number"),
    ("simulation.gpus_per_bank", lambda v: v >= 0, "0 or more"),
    ("simulation.threads", lambda v: v is None or 1 <= v <= 256, "from 1 to 256"),
    ("simulation.banks_at_once", lambda v: v is None or 1 <= v <= 256, "from 1 to 256"),
    ("model.device", lambda v: bool(re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", v)), "auto, cpu, mps or cuda"),
    ("data.name", lambda v: v in ("synthetic", "ask_cfpb", "jsonl", "csv"), "synthetic, ask_cfpb, jsonl or csv"),
    *((name, lambda v: v is None or bool(v.strip()), "a path") for name in _PATHS),
)


def _check(config: SimulateConfig) -> None:
    for name, holds, expected in _RULES:
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        if not holds(value):
            raise ConfigError(f"Expected {name} to be {expected}, got {value!r}. Set {name}=VALUE on the command line.")
    privacy = config.privacy
    if privacy.enabled and (privacy.epsilon is None or privacy.clip_norm is None):
        raise ConfigError(
            "Expected privacy.epsilon and privacy.clip_norm while privacy is on, got none. "
            "Set both, or choose privacy=off to train without any protection."
        )
    if not privacy.enabled and privacy.epsilon is not None:
        raise ConfigError(
            f"Expected no privacy.epsilon with privacy=off, got {privacy.epsilon}. Leave out one of the two."
        )
    if config.partition.kind == "dirichlet" and config.partition.alpha is None:
        raise ConfigError("Expected partition.alpha with partition=dirichlet, got none. Set partition.alpha=0.5.")
    if config.data.name != "synthetic" and config.data.path is None:
        raise ConfigError(f"Expected data.path=FILE with data={config.data.name}, got none. Name the data file.")
