"""What every setting must hold, whatever command it belongs to."""

import re
from collections.abc import Iterator
from typing import Any

from fedbank.aggregation.rules import RULES
from fedbank.aggregation.server_step import STEPS
from fedbank.config import serve_rules
from fedbank.errors import ConfigError

PATHS = ("output", "resume", "data.path", "model.path", *serve_rules.PATHS)
"""Settings that are paths or addresses: taken as they stand."""

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
"""Of a campaign: it becomes a folder's name and an entry of evidence."""

_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

_RULES: tuple[serve_rules.Rule, ...] = (
    ("banks", lambda v: v >= 1, "at least 1"),
    ("seed", lambda v: v >= 0, "0 or more"),
    ("data.customers", lambda v: v is None or v >= 1, "at least 1"),
    ("data.max_records", lambda v: v is None or 1 <= v <= 1000, "at least 1 and at most 1000"),
    ("partition.kind", lambda v: v in ("key", "dirichlet", "iid"), "key, dirichlet or iid"),
    ("partition.alpha", lambda v: v is None or v > 0, "a positive number"),
    ("partition.size_exponent", lambda v: 0 <= v <= 10, "from 0 to 10"),
    ("model.max_length", lambda v: v >= 16, "at least 16 tokens"),
    ("adapter.rank", lambda v: 1 <= v <= 512, "from 1 to 512"),
    ("adapter.alpha", lambda v: 0 < v <= 1e4, "a positive number of at most 10000"),
    (
        "adapter.target_modules",
        lambda v: bool(v) and all(name in _MODULES for name in v),
        "names among " + ", ".join(_MODULES),
    ),
    ("adapter.last_layers", lambda v: v is None or v >= 1, "at least 1"),
    ("privacy.epsilon", lambda v: v is None or 0 < v < float("inf"), "a positive number"),
    ("privacy.delta", lambda v: v is None or 0 < v < 1, "between 0 and 1"),
    ("privacy.clip_norm", lambda v: v is None or 1e-6 <= v <= 1e6, "from 1e-6 to 1e6"),
    ("training.rounds", lambda v: 1 <= v <= 100_000, "at least 1 and at most 100000"),
    ("training.local_steps", lambda v: 1 <= v <= 100_000, "at least 1 and at most 100000"),
    ("training.expected_batch", lambda v: v >= 1, "at least 1 customer"),
    ("training.records_per_customer", lambda v: 1 <= v <= 1000, "at least 1 and at most 1000"),
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
    ("max_length", lambda v: 16 <= v <= 32_768, "from 16 to 32768 tokens"),
    ("name", lambda v: bool(NAME.fullmatch(v)), "at most 40 letters a-z, digits and hyphens"),
    ("patience_s", lambda v: 0 < v < float("inf"), "a positive number of seconds"),
    ("attempts", lambda v: v >= 1, "at least 1"),
    ("held_out_fraction", lambda v: 0 < v < 1, "between 0 and 1"),
    ("micro_batch", lambda v: v >= 1, "at least 1 customer"),
    ("per_example", lambda v: v in ("direct", "opacus"), "direct or opacus"),
    ("threads", lambda v: v is None or 1 <= v <= 256, "from 1 to 256"),
    *((name, lambda v: v is None or bool(v.strip()), "a path") for name in PATHS),
    *serve_rules.RULES,
)


_MISSING = object()


def check(config: object) -> None:
    """``ConfigError`` for the first setting of ``config`` that is out of range or contradicts another."""
    for name, holds, expected in _RULES:
        value = _value(config, name)
        if value is not _MISSING and not holds(value):
            raise ConfigError(f"Expected {name} to be {expected}, got {value!r}. Set {name}=VALUE on the command line.")
    for problem in _contradictions(config):
        raise ConfigError(problem)


def _value(config: object, name: str) -> Any:
    """The setting of that dotted name; not every command has every setting."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part, _MISSING)
    return value


def _contradictions(config: Any) -> Iterator[str]:
    privacy = getattr(config, "privacy", None)
    if privacy is not None and privacy.enabled and (privacy.epsilon is None or privacy.clip_norm is None):
        yield (
            "Expected privacy.epsilon and privacy.clip_norm while privacy is on, got none. "
            "Set both, or choose privacy=off to train without any protection."
        )
    if privacy is not None and not privacy.enabled and privacy.epsilon is not None:
        yield f"Expected no privacy.epsilon with privacy=off, got {privacy.epsilon}. Leave out one of the two."
    partition = getattr(config, "partition", None)
    if partition is not None and partition.kind == "dirichlet" and partition.alpha is None:
        yield "Expected partition.alpha with partition=dirichlet, got none. Set partition.alpha=0.5."
    data = getattr(config, "data", None)
    if data is not None and data.name != "synthetic" and data.path is None:
        yield f"Expected data.path=FILE with data={data.name}, got none. Name the data file."
    if hasattr(config, "engine"):
        yield from serve_rules.contradictions(config)
