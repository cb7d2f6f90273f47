"""A text as the recognisers read it, and the way back to where each character stands in the original.

Full-width and other decimal digits, full-width letters, unusual hyphens and spaces become their plain forms, one for
one; characters that nobody sees (zero-width, direction marks, soft hyphens) are left out. Everything else, Chinese
punctuation included, stays as it is.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import chain

_HIDDEN = "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff"
_DIGIT_ZEROS = (0xFF10, 0x0660, 0x06F0, 0x0966, 0x09E6, 0x0E50)
_LETTERS = chain(range(0xFF21, 0xFF3B), range(0xFF41, 0xFF5B), (0xFF0B, 0xFF0D, 0xFF0E, 0xFF20, 0xFF3F))
_PLAIN = (
    {chr(zero + value): str(value) for zero in _DIGIT_ZEROS for value in range(10)}
    | {chr(0x2460 + value): str(value + 1) for value in range(9)}
    | {chr(code): chr(code - 0xFEE0) for code in _LETTERS}
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63", "-")
    | {"\u0130": "I"}  # the one letter whose small form is two characters
    | dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000", " ")
)
_MATHEMATICAL = re.compile("[\U0001d7ce-\U0001d7ff]")  # apart: a set within the basic plane is searched much faster
_ODD = re.compile(f"[{''.join(map(re.escape, _PLAIN))}{_HIDDEN}]")
_TO_HIDE = re.compile(f"[{_HIDDEN}]")


@dataclass(frozen=True, slots=True)
class View:
    """``text``: the plain form. ``gaps``: for every character left out, the place in ``text`` where it stood."""

    text: str = field(repr=False)
    gaps: tuple[int, ...] = field(default=(), repr=False)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where the characters ``start`` to ``end`` (exclusive, not empty) of ``text`` stand in the original."""
        if not self.gaps:
            return start, end
        return start + bisect_right(self.gaps, start), end + bisect_right(self.gaps, end - 1)


def view(text: str) -> View:
    """The view of ``text``; time and memory linear in its length."""
    if text.isascii():
        return View(text)
    if _MATHEMATICAL.search(text) is not None:
        text = _MATHEMATICAL.sub(lambda digit: str((ord(digit[0]) - 0x1D7CE) % 10), text)
    if _ODD.search(text) is None:
        return View(text)
    gaps = tuple(at.start() - before for before, at in enumerate(_TO_HIDE.finditer(text)))
    return View(_ODD.sub(lambda odd: _PLAIN.get(odd[0], ""), text), gaps)
