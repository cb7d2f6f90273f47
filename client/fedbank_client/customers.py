"""A bank's customers: from its own file (or made-up ones, to try things) to units and tokens."""

import hashlib
from pathlib import Path
from typing import Any

from fedbank.config.schema import DataConfig
from fedbank.data.files import Columns, read_inquiries
from fedbank.data.synthetic import SyntheticSpec, generate
from fedbank.data.units import Unit, group_by_customer
from fedbank.errors import DataError


def load_units(data: DataConfig, *, seed: int) -> list[Unit]:
    """All customers of the data source, in its order."""
    if data.name == "synthetic":
        if data.customers is None:
            raise DataError("Expected data.customers=NUMBER with data=synthetic, got none. Set data.customers=4000.")
        spec = SyntheticSpec(data.customers, max_records=data.max_records or SyntheticSpec(1).max_records)
        return group_by_customer(generate(spec, seed=seed))
    columns = Columns(
        data.columns.question, data.columns.answer, data.columns.customer, data.columns.key, data.columns.language
    )
    form: Any = data.format
    return group_by_customer(read_inquiries(Path(str(data.path)), form, columns))


def load_training_units(data: DataConfig, held_out_fraction: float, *, seed: int) -> tuple[list[Unit], list[Unit]]:
    """The bank's customers to train on, and those held out for its own evaluation, the same at every start.

    Each customer's side depends on nobody else: with one customer more or fewer all others stay where they are. The
    privacy of the whole bank's data rests on that, not only that of the customers who are trained on.
    """
    units = load_units(data, seed=seed)
    held = [_place(unit.customer, seed) < held_out_fraction for unit in units]
    train = [unit for unit, out in zip(units, held, strict=True) if not out]
    if not train:
        raise DataError(f"Expected customers to train on, got {len(units)} that are all held out. Use more data.")
    return train, [unit for unit, out in zip(units, held, strict=True) if out]


def _place(customer: str, seed: int) -> float:
    """A number in [0, 1) that belongs to the customer."""
    digest = hashlib.sha256(f"fedbank-held-out/1\n{seed}\n{customer}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
