"""Personal data made of digits: identity cards, bank cards, accounts and telephones.

Runs of digits are cut into groups at their separators, and a few groups from each place on are tried together, the
longest first: bounded work at every group. No ``\\b``: Chinese characters are letters to it, and digits touch them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from fedbank.data.redaction.checks import bank_card, identity_card, is_date, old_identity_card, unchecked_identity_card
from fedbank.data.redaction.kinds import Found, Kind
from fedbank.data.redaction.surroundings import is_money, is_paper, is_part_of_word, said_before

_RUN = re.compile(r"[0-9][0-9 .\-()（）]{5,}")
_GROUP = re.compile(r"[0-9]+")
_CHECK_X = re.compile(r" ?-?[Xx](?![0-9A-Za-z])")
_MOST_GROUPS, _MOST_DIGITS, _LONGEST_SEPARATOR = 7, 22, 2

_DIGIT_BY_DIGIT = frozenset({11, 15, 16, 18, 19})

_MOBILE = re.compile(r"1[3-9][0-9]{9}\Z")
_LANDLINE = re.compile(r"0(?:10|2[0-57-9]|[3-9][0-9]{2})[2-8][0-9]{6,7}\Z")
_SERVICE = re.compile(r"0?[48]00[0-9]{7}\Z")
_MOBILE_WRITTEN = {(11,), (3, 4, 4), (3, 3, 5), (3, 8), (7, 4), (4, 4, 3), (4, 3, 4), (5, 6), (6, 5), (3, 2, 3, 3)}
"""How people group the 11 digits; a date with a time, or four amounts in a row, are not among them."""

_FOUR = re.compile(r"[0-9]{4}[ -]\Z")

_READ_ALOUD = re.compile(r"[一幺](?:[ ，,、]?[零〇一二三四五六七八九幺两]){10}(?![零〇一二三四五六七八九幺两])")
_NUMERALS = str.maketrans("零〇一二三四五六七八九幺两", "0012345678912", " ，,、")


def find_numbers(text: str) -> Iterator[Found]:
    """Everything made of digits in the plain form ``text``, in order."""
    for run in _RUN.finditer(text):
        groups = [group.span() for group in _GROUP.finditer(text, *run.span())]
        first = 0
        while first < len(groups):
            if _within_single_digits(groups, first):
                first += 1
                continue
            for number in reversed(_from(text, groups, first)):
                kind = _kind(number)
                if kind is not None:
                    yield Found(*number.span(), kind)
                    first += len(number.sizes)
                    break
            else:
                first += 1


def _within_single_digits(groups: list[tuple[int, int]], first: int) -> bool:
    """Whether it is one of many single digits and not the first: what is spelled out is not tried again from inside."""
    (before, end), (start, stop) = groups[first - 1], groups[first]
    return first > 0 and stop - start == 1 == end - before and start - end <= _LONGEST_SEPARATOR


def find_read_aloud(text: str) -> Iterator[Found]:
    """Mobile numbers in Chinese numerals, 幺三八…: as they are read aloud."""
    for match in _READ_ALOUD.finditer(text):
        if _MOBILE.match(match[0].translate(_NUMERALS)):
            yield Found(*match.span(), Kind.MOBILE)


@dataclass(frozen=True, slots=True, repr=False)
class _Number:
    """A few groups of digits taken together: where they stand, their digits, and how many each group has."""

    text: str
    start: int
    end: int
    digits: str
    sizes: tuple[int, ...]

    def plus(self) -> bool:
        return self.text[max(0, self.start - 1) : self.start] == "+"

    def span(self) -> tuple[int, int]:
        """With the plus and the bracket that belong to it."""
        start = self.start - 1 if self.plus() else self.start
        inside = self.text[self.start : self.end]
        opened = start > 0 and self.text[start - 1] in "(（" and (")" in inside or "）" in inside)
        return start - opened, self.end

    def continues(self) -> bool:
        """Whether it goes on the fours of a longer number: 1863 6585 246 after 6217 0088."""
        return self.sizes[0] == 4 and _FOUR.match(self.text, max(0, self.start - 5), self.start) is not None

    def unlikely(self) -> bool:
        """Whether its surroundings make it something else than a telephone or an old card."""
        where = self.text, self.start, self.end
        return is_money(*where) or is_part_of_word(*where) or is_paper(self.text, self.start)


def _from(text: str, groups: list[tuple[int, int]], first: int) -> list[_Number]:
    """The numbers that begin with the group ``first``, the shortest first."""
    begin, last = groups[first]
    digits, sizes, numbers = "", list[int](), list[_Number]()
    for start, end in groups[first : first + _MOST_DIGITS]:
        many = len(sizes) >= _MOST_GROUPS and max(sizes) > 1
        if many or start - last > _LONGEST_SEPARATOR or len(digits) + end - start > _MOST_DIGITS:
            break
        digits += text[start:end]
        sizes.append(end - start)
        last = end
        if len(digits) > 6 and (len(sizes) <= _MOST_GROUPS or len(digits) in _DIGIT_BY_DIGIT):
            numbers.append(_Number(text, begin, end, digits, tuple(sizes)))
    if len(digits) == 17 and (check := _CHECK_X.match(text, last)) is not None:
        numbers.append(_Number(text, begin, check.end(), digits + "X", tuple(sizes)))
    return numbers


def _kind(number: _Number) -> Kind | None:
    return _document(number) or _telephone(number) or _by_cue(number)


def _document(number: _Number) -> Kind | None:
    """Identity cards and bank cards: by their own check, where they have one."""
    digits, size = number.digits, len(number.digits)
    if size == 18:
        called = said_before("identity", number.text, number.start)
        if identity_card(digits) or (called and unchecked_identity_card(digits)):
            return Kind.IDENTITY_CARD
    if size == 15 and len(number.sizes) <= 4 and old_identity_card(digits):
        return None if number.continues() or number.unlikely() else Kind.IDENTITY_CARD
    grouped = number.sizes[0] >= 4 or max(number.sizes) == 1
    if 14 <= size <= 19 and grouped and digits.isdecimal() and bank_card(digits):
        return Kind.BANK_CARD
    return None


def _telephone(number: _Number) -> Kind | None:
    digits, plus, sizes = number.digits, number.plus(), number.sizes
    if not 10 <= len(digits) <= 19 and not (plus and len(digits) >= 8):
        return None
    at_home, local = _at_home(digits, sizes, plus)
    prefixed = len(at_home) < len(digits)
    kind = None
    if plus and not prefixed:
        kind = Kind.INTERNATIONAL if digits[0] != "0" and len(digits) <= 15 else None
    elif _MOBILE.match(at_home) and (local in _MOBILE_WRITTEN or max(local) == 1):
        kind = Kind.MOBILE
    elif not _SERVICE.match(at_home) and _is_landline(at_home, prefixed, local):
        kind = Kind.LANDLINE
    return None if kind is None or number.continues() or number.unlikely() else kind


def _at_home(digits: str, sizes: tuple[int, ...], plus: bool) -> tuple[str, tuple[int, ...]]:
    """Without the prefix of the mainland, +86 or 0086 (or 86 before a mobile number): the digits and their groups."""
    code = "86" if plus or sizes[0] == 2 or (len(digits) == 13 and digits[2] == "1") else "0086"
    if not digits.startswith(code):
        return digits, sizes
    if sizes[0] == len(code):
        return digits[len(code) :], sizes[1:] or (0,)
    return digits[len(code) :], (sizes[0] - len(code), *sizes[1:])


def _is_landline(digits: str, abroad: bool, sizes: tuple[int, ...]) -> bool:
    """An area code and a number; after +86 without the leading zero; perhaps an extension in a group of its own."""
    if len(sizes) > 5:
        return False
    if abroad and digits[0] != "0":
        digits = "0" + digits
    if _LANDLINE.match(digits):
        return True
    return len(sizes) > 2 and sizes[-1] <= 6 and _LANDLINE.match(digits[: -sizes[-1]]) is not None


def _by_cue(number: _Number) -> Kind | None:
    """A local telephone, or an account without a check digit, where a word before it says so."""
    size, text, start = len(number.digits), number.text, number.start
    local = size in (7, 8) and len(number.sizes) <= 2 and number.digits[0] in "2345678"
    if local and said_before("phone", text, start) and not number.unlikely():
        return Kind.LANDLINE
    long = size > 8 or (size == 8 and not is_date(number.digits))
    if long and len(number.sizes) <= 6 and said_before("account", text, start):
        return None if is_money(text, start, number.end) or said_before("papers", text, start) else Kind.ACCOUNT
    return None
