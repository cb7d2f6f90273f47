"""The word lists of ``words.toml``: surnames, and ordinary words that look like names or passwords."""

import tomllib
from functools import cache
from importlib import resources


def words(name: str) -> frozenset[str]:
    """The words of the list ``name``."""
    return frozenset(_lists()[name].split())


def characters(name: str) -> frozenset[str]:
    """The characters of the list ``name``."""
    return frozenset("".join(_lists()[name].split()))


def first_characters(name: str, count: int) -> frozenset[str]:
    """The first ``count`` characters of the list ``name``."""
    return frozenset("".join(_lists()[name].split())[:count])


@cache
def _lists() -> dict[str, str]:
    return tomllib.loads(resources.files(__package__).joinpath("words.toml").read_text(encoding="utf-8"))
