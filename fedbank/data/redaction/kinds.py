"""The kinds of personal data, how their tokens read, and what a recogniser says that it found."""

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """A kind of personal financial information. All are class C2 of JR/T 0171-2020 but ``SECRET``, which is C3."""

    IDENTITY_CARD = "identity_card"
    BANK_CARD = "bank_card"
    ACCOUNT = "account"
    MOBILE = "mobile"
    LANDLINE = "landline"
    INTERNATIONAL = "international_phone"
    EMAIL = "email"
    CREDIT_CODE = "credit_code"
    PASSPORT = "passport"
    PERMIT = "permit"
    PLATE = "plate"
    IBAN = "iban"
    NAME = "name"
    ADDRESS = "address"
    SECRET = "secret"


LABELS: dict[Kind, tuple[str, str]] = {
    Kind.IDENTITY_CARD: ("身份证号", "ID_CARD"),
    Kind.BANK_CARD: ("银行卡号", "BANK_CARD"),
    Kind.ACCOUNT: ("账号", "ACCOUNT"),
    Kind.MOBILE: ("手机号", "PHONE"),
    Kind.LANDLINE: ("座机号", "LANDLINE"),
    Kind.INTERNATIONAL: ("国际电话", "INTL_PHONE"),
    Kind.EMAIL: ("邮箱", "EMAIL"),
    Kind.CREDIT_CODE: ("信用代码", "CREDIT_CODE"),
    Kind.PASSPORT: ("护照号", "PASSPORT"),
    Kind.PERMIT: ("通行证号", "PERMIT"),
    Kind.PLATE: ("车牌号", "PLATE"),
    Kind.IBAN: ("国际账号", "IBAN"),
    Kind.NAME: ("姓名", "NAME"),
    Kind.ADDRESS: ("地址", "ADDRESS"),
}
"""What a token calls each kind, in Chinese and in English. A secret has no token."""

CHECKSUMMED = frozenset({Kind.IDENTITY_CARD, Kind.BANK_CARD, Kind.CREDIT_CODE, Kind.IBAN})
"""Kinds that a check character tells from an order number."""


_RANK = {kind: rank for rank, kind in enumerate(Kind)}


class Found(NamedTuple):
    """The characters ``start`` to ``end`` (exclusive) of the text that was searched are of this kind."""

    start: int
    end: int
    kind: Kind


def merged(found: list[Found]) -> list[Found]:
    """In order and apart: overlapping findings become one, of the longest one's kind, so that no part is left out.

    Of equally long ones the kind that comes first in :class:`Kind` counts; but what touches a secret is one.
    """
    if len(found) < 2:
        return found
    apart: list[Found] = []
    longest = 0
    for one in sorted(found, key=lambda one: (one.start, one.end, _RANK[one.kind])):
        if not apart or one.start >= apart[-1].end:
            apart.append(one)
            longest = one.end - one.start
            continue
        last = apart[-1]
        kind = last.kind
        if one.end - one.start > longest:
            kind, longest = one.kind, one.end - one.start
        if Kind.SECRET in (one.kind, last.kind):
            kind = Kind.SECRET
        apart[-1] = Found(last.start, max(last.end, one.end), kind)
    return apart
