"""All recognisers over one text: what is personal data in it, in order and apart."""

import re

from fedbank.data.redaction.addresses import find_addresses
from fedbank.data.redaction.codes import find_codes, find_emails
from fedbank.data.redaction.kinds import Found, Kind, merged
from fedbank.data.redaction.names import find_names
from fedbank.data.redaction.numbers import find_numbers, find_read_aloud
from fedbank.data.redaction.secrets import find_secrets
from fedbank.data.redaction.view import View, view

_DIGITS = re.compile(r"[0-9]")
_SEPARATORS = re.compile(r"[\s.\-()（）+·•,，、]+")
_LETTERED = frozenset({Kind.NAME, Kind.ADDRESS, Kind.SECRET})


def find(text: str) -> tuple[View, list[Found]]:
    """The view of ``text`` and the findings as places in the view; time linear in the length of ``text``."""
    seen = view(text)
    plain = seen.text
    found = [*find_names(plain), *find_secrets(plain)]
    if _DIGITS.search(plain) is not None:
        found += find_numbers(plain)
        found += find_codes(plain)
    if "@" in plain:
        found += find_emails(plain)
    if "幺" in plain or "一" in plain:
        found += find_read_aloud(plain)
    found += find_addresses(plain)
    return seen, merged(found)


def canonical(written: str, kind: Kind) -> str:
    """One form for all ways to write the same number or name: by it a conversation knows that it is the same."""
    if kind in _LETTERED:
        return " ".join(written.split())
    bare = written if kind is Kind.EMAIL else _SEPARATORS.sub("", written)
    if kind is Kind.MOBILE and bare[:-11] in ("86", "0086"):
        bare = bare[-11:]
    return bare.casefold() if kind is Kind.EMAIL else bare.upper()
