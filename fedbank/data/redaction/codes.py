"""Personal data of letters and digits: e-mail, IBAN, social credit codes, passports, travel permits, number plates."""

import re
from collections.abc import Iterator
from string import ascii_letters

from fedbank.data.redaction.checks import IBAN_LENGTHS, credit_code, iban, is_date
from fedbank.data.redaction.kinds import Found, Kind
from fedbank.data.redaction.surroundings import is_money, is_paper, said_before

_LOCAL = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.!#$%&'*+/=?^_`{|}~-"
_LONGEST_LOCAL = 64  # RFC 5321, 4.5.3.1.1
_DOMAIN = re.compile(r"[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,7}\.[A-Za-z]{2,24}")
_LETTERED = re.compile(r"[0-9](?<=[A-Za-z].)")
"""The digit after a letter: there are few of them, and every code with letters in front has one."""
_PLAIN = re.compile(r"[0-9A-Za-z]")
_CODE_BODY = r"[0-9A-Za-z][0-9]{6}[0-9A-Za-z]{10}(?![0-9A-Za-z])"
_CODE = re.compile(rf"[0-9](?<![0-9A-Za-z].){_CODE_BODY}")
_LETTERED_CODE = re.compile(rf"[ANYany]{_CODE_BODY}")
_PAPER = re.compile(r"[A-Za-z](?:[0-9]{8}(?:[0-9]{2})?|[A-Za-z][0-9]{7})(?![0-9A-Za-z])")
_FOREIGN = re.compile(
    r"(?:护照|[Pp]assport)[^0-9A-Za-z，。,;；\n]{0,6}(?:(?:no|number|is|号)[^0-9A-Za-z]{1,3}){0,3}", re.I
)
_FOREIGN_NUMBER = re.compile(r"(?=[A-Za-z]{0,3}[0-9]{5})[0-9A-Za-z]{7,10}(?![0-9A-Za-z])")
_TAIWAN = re.compile(r"(?:台胞证|通行证|permit)[^0-9A-Za-z，。,;；\n]{0,6}([0-9]{8}(?:[0-9]{2})?)(?![0-9A-Za-z])", re.I)
_PLATE = re.compile(
    r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-HJ-NP-Za-hj-np-z][ ·•.-]?"
    r"([0-9A-HJ-NP-Za-hj-np-z]{4}[0-9A-HJ-NP-Za-hj-np-z挂学警港澳][0-9A-HJ-NP-Za-hj-np-z]?)(?![0-9A-Za-z])"
)
_PASSPORTS, _SERVICE_PASSPORTS, _PERMITS = "EG", "DSPK", "CHMWLT"
_SURE = "EGHMC"
_LEAST_PLATE_DIGITS = 3


def find_codes(text: str) -> Iterator[Found]:
    """Everything of letters and digits in the plain form ``text`` but e-mail addresses."""
    for digit in _LETTERED.finditer(text):
        yield from _lettered(text, digit.start())
    for match in _CODE.finditer(text):
        doubtful = match[0].isdecimal() and is_paper(text, match.start())
        if credit_code(match[0].upper()) and not doubtful:
            yield Found(*match.span(), Kind.CREDIT_CODE)
    small = text.lower()
    if "护照" in text or "passport" in small:
        for match in _FOREIGN.finditer(text):
            if (number := _FOREIGN_NUMBER.match(text, match.end())) is not None:
                yield Found(*number.span(), Kind.PASSPORT)
    if "通行证" in text or "台胞证" in text or "permit" in small:
        for match in _TAIWAN.finditer(text):
            yield Found(*match.span(1), Kind.PERMIT)
    if not text.isascii():
        for match in _PLATE.finditer(text):
            if sum(char.isdecimal() for char in match[1]) >= _LEAST_PLATE_DIGITS:
                yield Found(*match.span(), Kind.PLATE)


def _lettered(text: str, digit: int) -> Iterator[Found]:
    """What begins with the one or two letters before the digit there."""
    start = digit - 2 if _PLAIN.match(text, max(0, digit - 2)) and digit > 1 else digit - 1
    if not text[start].isalpha() or (start and _PLAIN.match(text, start - 1)):
        return
    if digit - start == 2 and (end := _iban_end(text, start)) is not None:
        yield Found(start, end, Kind.IBAN)
        return
    code = _LETTERED_CODE.match(text, start)
    if code is not None and credit_code(code[0].upper()):
        yield Found(*code.span(), Kind.CREDIT_CODE)
    paper = _PAPER.match(text, start)
    if paper is not None and (kind := _travel(text, paper)) is not None:
        yield Found(*paper.span(), kind)


def find_emails(text: str) -> Iterator[Found]:
    """E-mail addresses as they are written in ASCII (RFC 5321)."""
    at = text.find("@")
    while at >= 0:
        before = text[max(0, at - _LONGEST_LOCAL) : at]
        start = at - len(before) + len(before.rstrip(_LOCAL))
        domain = _DOMAIN.match(text, at + 1) if start < at else None
        if domain is not None:
            yield Found(start, domain.end(), Kind.EMAIL)
        at = text.find("@", at + 1)


def _iban_end(text: str, start: int) -> int | None:
    """Where the account that begins at ``start`` ends, if it has its country's length and its check digits hold."""
    length = IBAN_LENGTHS.get(text[start : start + 2].upper())
    if length is None:
        return None
    written, end = "", start
    while len(written) < length and end < min(len(text), start + 2 * length):
        char = text[end]
        if _PLAIN.match(char):
            written += char
        elif char not in " -" or text[end - 1] in " -":
            return None
        end += 1
    if len(written) < length or not iban(written.upper()) or _PLAIN.match(text[end : end + 1]):
        return None
    return end


def _travel(text: str, match: re.Match[str]) -> Kind | None:
    """A passport or a permit: by its letters alone if they are the usual ones, else by a word before it."""
    first, digits = match[0][0].upper(), match[0].lstrip(ascii_letters)
    start, end = match.span()
    called = said_before("passport", text, start) or said_before("permit", text, start)
    if not called:
        doubtful = first not in _SURE or is_date(digits.ljust(8, "0")) or not match[0][0].isupper()
        if doubtful or is_paper(text, start) or is_money(text, start, end):
            return None
    if first in _PASSPORTS + _SERVICE_PASSPORTS:
        return Kind.PASSPORT
    return Kind.PERMIT if first in _PERMITS and (len(digits) != 10 or first in "HM") else None
