"""The simulated world: every bank's customers, what is held out, and what the coordinator may see.

A scenario is a pure function of the settings: every process that needs it (a Ray actor, a resumed run) builds
the same one. Tokens are kept, texts only for a few examples.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedbank.config import SimulateConfig
from fedbank.data.encode import EncodedUnits, Encoder
from fedbank.data.inquiry import Inquiry
from fedbank.data.units import Unit, split_units
from fedbank.errors import DataError
from fedbank_client.customers import load_units
from fedbank_simulations.partition import PartitionSpec, partition


@dataclass(frozen=True, slots=True)
class BankFacts:
    """What a report says about a bank: sizes and mixes (shares of its training records).

    ``full_length_records`` fill the model's maximum length: as good as all of them were cut to fit.
    """

    customers: int
    records: int
    held_out_customers: int
    full_length_records: int
    languages: dict[str, float]
    keys: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedBank:
    """One bank's customers: what it trains on, what is held out, and the monitored part of that."""

    train: EncodedUnits
    held_out: EncodedUnits
    monitored: EncodedUnits
    facts: BankFacts
    examples: tuple[Inquiry, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """All banks by name, and the coordinator's public evaluation set (nobody trains on it)."""

    banks: dict[str, SimulatedBank]
    public: EncodedUnits


_EXAMPLES_PER_BANK = 3


def build_scenario(config: SimulateConfig, tokenizer: Any) -> Scenario:
    """Load, divide among banks, hold out customers, tokenise. Deterministic in ``config``."""
    shares, public = divide(config)
    encoder = Encoder(tokenizer, config.model.max_length)
    rng = _rng(config, "held-out")
    banks = {}
    for name, units in shares.items():
        try:
            train, held = split_units(units, config.held_out.fraction, rng=rng)
        except DataError as error:
            raise DataError(
                f"Expected {name} to have customers to train on and to hold out, got {len(units)} in all. "
                "Use fewer banks, another partition, another held_out.fraction, or more data."
            ) from error
        banks[name] = _bank(encoder, train, held, len(shares), config)
    return Scenario(banks, _at_most(encoder.encode(public), config.held_out.monitored_records))


def divide(config: SimulateConfig) -> tuple[dict[str, list[Unit]], list[Unit]]:
    """Every bank's customers, and those whose records are public."""
    units = load_units(config.data, seed=config.seed)
    rest, public = split_units(units, config.held_out.public_fraction, rng=_rng(config, "public"))
    kind: Any = config.partition.kind
    spec = PartitionSpec(
        kind, config.banks, alpha=config.partition.alpha or 0.5, size_exponent=config.partition.size_exponent
    )
    return partition(rest, spec, rng=_rng(config, "partition")), public


def _bank(
    encoder: Encoder, train: Sequence[Unit], held: Sequence[Unit], num_banks: int, config: SimulateConfig
) -> SimulatedBank:
    held_out = _at_most(encoder.encode(held), max(1, config.held_out.max_records // num_banks))
    monitored = _at_most(held_out, max(1, config.held_out.monitored_records // num_banks))
    inquiries = [inquiry for unit in train for inquiry in unit.inquiries]
    encoded = encoder.encode(train)
    facts = BankFacts(
        len(train),
        len(inquiries),
        len(held),
        int((np.diff(encoded.record_starts) >= config.model.max_length).sum()),
        _shares(inquiry.language for inquiry in inquiries if inquiry.language),
        _shares(inquiry.key for inquiry in inquiries if inquiry.key),
    )
    examples = tuple(unit.inquiries[0] for unit in held[:_EXAMPLES_PER_BANK])
    return SimulatedBank(encoded, held_out, monitored, facts, examples)


def _at_most(data: EncodedUnits, max_records: int) -> EncodedUnits:
    """The first customers with, together, at most ``max_records`` records (at least one customer)."""
    units = max(1, int(np.searchsorted(data.unit_starts, max_records, side="right")) - 1)
    records = int(data.unit_starts[units])
    return EncodedUnits(
        data.tokens[: data.record_starts[records]].copy(),
        data.record_starts[: records + 1].copy(),
        data.answer_offsets[:records].copy(),
        data.unit_starts[: units + 1].copy(),
        data.end_token,
    )


def pool(parts: Sequence[EncodedUnits]) -> EncodedUnits:
    """All customers of several banks as one population."""
    return EncodedUnits(
        np.concatenate([part.tokens for part in parts]),
        _joined_starts([part.record_starts for part in parts]),
        np.concatenate([part.answer_offsets for part in parts]),
        _joined_starts([part.unit_starts for part in parts]),
        parts[0].end_token,
    )


def _joined_starts(starts: Sequence[Any]) -> Any:
    lengths = np.concatenate([np.diff(start) for start in starts])
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _shares(values: Any) -> dict[str, float]:
    counts = Counter(values)
    return {value: count / counts.total() for value, count in counts.most_common()}


def _rng(config: SimulateConfig, purpose: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{config.seed}/{purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
