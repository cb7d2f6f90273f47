"""Synthetic customer inquiries: the default data of a simulated consortium, bilingual and made up.

Every bank of the consortium answers from the same tariff (``synthetic_facts.toml``), so there is something
shared to learn; each customer asks mostly about one product in one language, so the banks differ. No real
person, bank or price is behind any record.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedbank.data.inquiry import Inquiry
from fedbank.data.synthetic_language import (
    DRAWS_PER_QUESTION,
    LANGUAGES,
    answer,
    consortium_tariff,
    facts,
    products,
    question,
)
from fedbank.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SyntheticSpec:
    """How many customers there are and how they ask.

    Records per customer follow a geometric law of mean ``mean_records``, cut at ``max_records``. A record is
    about the customer's main product with probability ``main_share``, else about another one, evenly.
    """

    customers: int
    max_records: int = 20
    mean_records: float = 3.0
    main_share: float = 0.6

    def __post_init__(self) -> None:
        """Refuse sizes and shares that describe no population."""
        if self.customers < 1 or self.max_records < 1 or self.mean_records < 1:
            raise ConfigError(
                "Expected customers, max_records and mean_records of at least 1; "
                f"got {self.customers}, {self.max_records} and {self.mean_records}. Raise the smaller ones."
            )
        if not 0 <= self.main_share <= 1:
            raise ConfigError(f"Expected a main_share between 0 and 1, got {self.main_share}.")


def keys() -> tuple[str, ...]:
    """Every ``key`` that a generated inquiry may carry, e.g. ``"cards/zh"``."""
    return tuple(f"{product}/{language}" for product in products() for language in LANGUAGES)


def generate(spec: SyntheticSpec, *, seed: int) -> list[Inquiry]:
    """The answered inquiries of all customers, customer by customer; equal arguments give equal lists."""
    rng = np.random.default_rng(seed)
    records_of = np.minimum(rng.geometric(1 / spec.mean_records, spec.customers), spec.max_records)
    owner = np.repeat(np.arange(spec.customers), records_of)
    product = _products(spec, owner, rng)
    language = rng.integers(len(LANGUAGES), size=spec.customers)[owner]
    draws = rng.integers(2**31, size=(len(owner), DRAWS_PER_QUESTION + 1))
    return list(_render(owner.tolist(), product.tolist(), language.tolist(), draws.tolist()))


def _products(spec: SyntheticSpec, owner: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The product of each record: the owner's main one, or another one at a non-zero offset from it."""
    count = len(products())
    main = rng.integers(count, size=spec.customers)[owner]
    elsewhere = rng.random(len(owner)) >= spec.main_share
    chosen: np.ndarray = (main + elsewhere * rng.integers(1, count, size=len(owner))) % count
    return chosen


def _render(owner: list[int], product: list[int], language: list[int], draws: list[list[int]]) -> Iterator[Inquiry]:
    tariff = consortium_tariff()
    of_product = [
        [(fact, value) for fact, value in zip(facts(), tariff, strict=True) if fact.product == name]
        for name in products()
    ]
    for who, which, tongue, drawn in zip(owner, product, language, draws, strict=True):
        fact, value = of_product[which][drawn[-1] % len(of_product[which])]
        spoken = LANGUAGES[tongue]
        yield Inquiry(
            question=question(fact, spoken, drawn),
            answer=answer(fact, spoken, value),
            customer=f"customer-{who:06d}",
            key=f"{fact.product}/{spoken}",
            language=spoken,
        )
