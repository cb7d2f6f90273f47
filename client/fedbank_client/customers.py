"""A bank's customers: from its own file (or made-up ones, to try things) to units and tokens."""

from pathlib import Path
from typing import Any

import numpy as np

from fedbank.config.schema import DataConfig
from fedbank.data.files import Columns, read_inquiries
from fedbank.data.synthetic import SyntheticSpec, generate
from fedbank.data.units import Unit, group_by_customer, split_units
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
    """The bank's customers to train on, and those held out for its own evaluation, the same at every start."""
    units = load_units(data, seed=seed)
    try:
        return split_units(units, held_out_fraction, rng=np.random.default_rng([seed, 0]))
    except DataError as error:
        raise DataError(
            f"Expected customers to train on and to hold out, got {len(units)} in all. Use more data or another "
            "held_out_fraction."
        ) from error
