"""The language of the synthetic inquiries: products, wordings and the rendering of a tariff into sentences.

Knows how a question and its standard answer read, for *any* tariff; holds one tariff, the consortium's, which
only :func:`consortium_tariff` gives out. The data of a simulated bank renders that one; the pre-training of
the tiny base model renders random ones (:func:`random_tariff`): it learns the language without the facts.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

LANGUAGES = ("zh", "en")
DRAWS_PER_QUESTION = 5

Tariff = tuple[str, ...]
"""One value for each fact of :func:`facts`, in that order."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of a tariff without its value: what is asked, and the values that it may take."""

    product: str
    unit: str
    subject: Mapping[str, tuple[str, ...]]
    attribute: Mapping[str, tuple[str, ...]]
    ladder: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Phrases:
    """The wordings of one language."""

    joiner: str
    answer: str
    openings: tuple[str, ...]
    cores: tuple[str, ...]
    closings: tuple[str, ...]
    units: Mapping[str, str]


@cache
def facts() -> tuple[Fact, ...]:
    """Every fact of a tariff, in the order of the facts file."""
    return tuple(
        Fact(
            product=entry["product"],
            unit=entry["unit"],
            subject={language: tuple(entry[language]["subject"]) for language in LANGUAGES},
            attribute={language: tuple(entry[language]["attribute"]) for language in LANGUAGES},
            ladder=tuple(entry["ladder"]),
        )
        for entry in _read("synthetic_facts.toml")["facts"]
    )


@cache
def products() -> tuple[str, ...]:
    """The products, in the order in which the facts file first names them."""
    return tuple(dict.fromkeys(fact.product for fact in facts()))


@cache
def phrases(language: str) -> Phrases:
    """The wordings of ``language``, one of :data:`LANGUAGES`."""
    words, units = _read("synthetic_phrases.toml")[language], _read("synthetic_facts.toml")["units"]
    return Phrases(
        joiner=words["joiner"],
        answer=words["answer"],
        openings=tuple(words["openings"]),
        cores=tuple(words["cores"]),
        closings=tuple(words["closings"]),
        units={unit: entry[language] for unit, entry in units.items()},
    )


@cache
def consortium_tariff() -> Tariff:
    """The true values: what the banks of a simulated consortium answer. Never shown to the base model."""
    return tuple(entry["value"] for entry in _read("synthetic_facts.toml")["facts"])


def random_tariff(rng: np.random.Generator) -> Tariff:
    """A tariff whose values are drawn, independently and uniformly, from the ladders."""
    return tuple(fact.ladder[int(rng.integers(len(fact.ladder)))] for fact in facts())


def question(fact: Fact, language: str, draws: Sequence[int]) -> str:
    """One wording of the question for ``fact``, chosen by ``DRAWS_PER_QUESTION`` non-negative integers."""
    words = phrases(language)
    opening = words.openings[draws[0] % len(words.openings)]
    closing = words.closings[draws[2] % len(words.closings)]
    subject = fact.subject[language][draws[3] % len(fact.subject[language])]
    attribute = fact.attribute[language][draws[4] % len(fact.attribute[language])]
    core = words.cores[draws[1] % len(words.cores)].format(subject=subject, attribute=attribute)
    glue = words.joiner if closing[:1].isalpha() else ""
    return f"{opening}{words.joiner if opening else ''}{core}{glue}{closing}"


def answer(fact: Fact, language: str, value: str) -> str:
    """The standard script: the one answer to ``fact`` in ``language`` under a tariff that says ``value``."""
    words = phrases(language)
    return words.answer.format(
        subject=fact.subject[language][0],
        attribute=fact.attribute[language][0],
        amount=words.units[fact.unit].format(value=value),
    )


@cache
def _read(name: str) -> dict[str, Any]:
    text = resources.files("fedbank.data").joinpath(name).read_text(encoding="utf-8")
    return tomllib.loads(text)
