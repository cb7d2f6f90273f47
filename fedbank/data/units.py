"""Group inquiries by customer, the unit of privacy, and split customers into two sets.

Every promise of FedBank is made to a customer, so no later step sees an inquiry outside its unit and no
split ever puts one customer on both sides. It does not know files, tokens or banks.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fedbank.data.inquiry import Inquiry
from fedbank.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Unit:
    """One customer with all of their inquiries: what one neighbouring data set has and the other has not.

    ``key`` is the most frequent key of the inquiries; of equally frequent ones, the first seen.
    """

    customer: str
    key: str
    inquiries: tuple[Inquiry, ...]


def group_by_customer(inquiries: Iterable[Inquiry]) -> list[Unit]:
    """One unit per customer, customers and their inquiries in the order first seen."""
    grouped: dict[str, list[Inquiry]] = {}
    for inquiry in inquiries:
        grouped.setdefault(inquiry.customer, []).append(inquiry)
    return [Unit(customer, _usual_key(own), tuple(own)) for customer, own in grouped.items()]


def split_units(
    units: Sequence[Unit], fraction: float, *, rng: np.random.Generator, at_least: int = 1
) -> tuple[list[Unit], list[Unit]]:
    """``(rest, held)``: hold out ``fraction`` of the customers, drawn uniformly without replacement.

    ``held`` has ``fraction * len(units)`` customers, rounded to the nearest, and not fewer than ``at_least``.
    Both lists keep the order of ``units``.

    Raises:
        DataError: one of the two sides would be empty.
        ConfigError: ``fraction`` is not between 0 and 1, or ``at_least`` is negative.
        ValueError: two units have the same customer.
    """
    if not 0 <= fraction <= 1:
        raise ConfigError(f"Expected a held-out fraction between 0 and 1, got {fraction}.")
    if at_least < 0:
        raise ConfigError(f"Expected to hold out at least 0 customers or more, got {at_least}.")
    if len({unit.customer for unit in units}) != len(units):
        raise ValueError("two units have the same customer; group inquiries with group_by_customer first")
    count = max(at_least, round(fraction * len(units)))
    if not 0 < count < len(units):
        raise DataError(
            f"Expected customers on both sides of the split, got {len(units)} of which {count} would be held "
            f"out (fraction {fraction}, at least {at_least}). Bring more customers or change the fraction."
        )
    chosen = set(rng.choice(len(units), size=count, replace=False).tolist())
    rest = [unit for index, unit in enumerate(units) if index not in chosen]
    held = [unit for index, unit in enumerate(units) if index in chosen]
    return rest, held


def _usual_key(inquiries: Sequence[Inquiry]) -> str:
    # Counter keeps first-seen order and most_common(1) takes the first of equals.
    return Counter(inquiry.key for inquiry in inquiries).most_common(1)[0][0]
