"""Whether two answers to one question say the same. Not whether either is right.

Likeness alone would be unsafe: 本产品保本 and 本产品不保本 are as like as two answers get, 2.10% and 21.0% too. So
numbers with their units, and negations with what they deny, must be equal in order before characters are compared.
"""

import re
import unicodedata
from collections import Counter
from decimal import Decimal

LIKENESS = 0.6
"""Dice coefficient of character bigrams (Dice 1945) from which on two texts count as alike."""
_DENIED = 0.4
"""The same of what follows a negation: 不能提前还款 and 不可以提前还款 deny the same."""
_DENIED_CHARACTERS = 6
_NUMERALS = "零〇一二三四五六七八九十百千万亿两"
_UNIT = r"\s?([%‰万亿千百元角分倍年月日天周次个点时]|percent|million|billion|thousand)?"
_NUMBER = re.compile(rf"(\d+(?:\.\d+)?){_UNIT}", re.IGNORECASE)
_WORDS = re.compile(
    rf"[{_NUMERALS}]*[{_NUMERALS.replace('一', '')}][{_NUMERALS}]*"
    r"|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|sixty|ninety|hundred|thousand"
    r"|million|half|twice)\b",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"[不没未无非勿别莫否禁拒毋]|\b(?:not|no|nor|neither|never|without|cannot|none|unable|impossible|un(?=insured"
    r"|secured|available|limited|safe|able))|n['’]t\b",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(r"(?<=\d)[,，](?=\d{3}(?!\d))")
_SPACE = re.compile(r"\s+")


def agrees(one: str, other: str) -> bool:
    """Same numbers, same negations of the same, and alike."""
    if numbers(one) != numbers(other) or not _deny_the_same(one, other):
        return False
    return likeness(one, other) >= LIKENESS


def numbers(text: str) -> list[tuple[str, str]]:
    """Every number of ``text`` in order, with its unit; thousands separators and trailing zeros do not count.

    Digits first, then those in words; 一 alone is hardly ever a number.
    """
    plain = _SEPARATOR.sub("", unicodedata.normalize("NFKC", text))
    digits = [(str(Decimal(value).normalize()), unit.lower()) for value, unit in _NUMBER.findall(plain)]
    return digits + [(word.lower(), "") for word in _WORDS.findall(_NUMBER.sub(" ", plain))]


def likeness(one: str, other: str) -> float:
    """From 0 to 1: shared character bigrams; 1 for equal texts."""
    a, b = _bigrams(one), _bigrams(other)
    total = a.total() + b.total()
    return 1.0 if total == 0 else 2 * (a & b).total() / total


def _deny_the_same(one: str, other: str) -> bool:
    ours, theirs = _denied(one), _denied(other)
    if len(ours) != len(theirs):
        return False
    return all(likeness(a, b) >= _DENIED for a, b in zip(ours, theirs, strict=True))


def _denied(text: str) -> list[str]:
    """What follows each negation, in order."""
    plain = _SPACE.sub(" ", text)
    return [_after(plain, found.end()) for found in _NEGATION.finditer(plain)]


def _after(text: str, start: int) -> str:
    """A few characters of Chinese, or twice as many of a language with spaces."""
    most = _DENIED_CHARACTERS if "\u4e00" <= text[start : start + 1] <= "\u9fff" else 2 * _DENIED_CHARACTERS
    return text[start : start + most]


def _bigrams(text: str) -> Counter[str]:
    plain = _SPACE.sub("", unicodedata.normalize("NFKC", text)).lower()
    return Counter(plain[at : at + 2] for at in range(max(1, len(plain) - 1)) if plain)
