"""Whether two answers to one question say the same. Not whether either is right.

Likeness alone would be unsafe: 本产品保本 and 本产品不保本 are as like as two answers get, 2.10% and 21.0% too. So
numbers and negations must be equal before characters are compared.
"""

import re
from collections import Counter

LIKENESS = 0.6
"""Dice coefficient of character bigrams (Dice 1945) from which on two texts count as alike."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_NEGATION = re.compile(r"[不没未无非勿别莫]|\b(?:not|no|never|without|cannot|none)\b|n't\b", re.IGNORECASE)
_SPACE = re.compile(r"\s+")


def agrees(one: str, other: str) -> bool:
    """Same numbers, same negations, and alike."""
    if numbers(one) != numbers(other) or len(_NEGATION.findall(one)) != len(_NEGATION.findall(other)):
        return False
    return likeness(one, other) >= LIKENESS


def numbers(text: str) -> Counter[float]:
    """Every number of ``text`` with how often it stands there; thousands separators and trailing zeros do not count."""
    return Counter(float(found) for found in _NUMBER.findall(re.sub(r"(?<=\d)[,，](?=\d{3})", "", text)))


def likeness(one: str, other: str) -> float:
    """From 0 to 1: shared character bigrams; 1 for equal texts."""
    a, b = _bigrams(one), _bigrams(other)
    total = a.total() + b.total()
    return 1.0 if total == 0 else 2 * (a & b).total() / total


def _bigrams(text: str) -> Counter[str]:
    plain = _SPACE.sub("", text).lower()
    return Counter(plain[at : at + 2] for at in range(max(1, len(plain) - 1)) if plain)
