"""Personal data out of a customer's words before a model sees them, and back into its answer where policy allows.

Classes after JR/T 0171-2020: C2 (cards, telephones, names, addresses, ...) becomes tokens; C3 (passwords, one-time
codes, PIN, CVV, expiry dates) is refused: there is no redacted text of it. Amounts, dates, rates and numbers of orders
and contracts stay, for they are what an inquiry is about. Pure functions; time and memory linear in the text.

It knows text alone: not the model, the session or the log that it stands in front of. No error, repr or log line of
this module shows what was found. What it cannot find: docs of :mod:`fedbank.data.redaction.names` and the benchmark
``simulations.benchmarks.redaction``.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from fedbank.data.redaction.finding import canonical, find
from fedbank.data.redaction.kinds import LABELS, Kind
from fedbank.data.redaction.vault import LONGEST_TOKEN, OPENING, TOKEN, Entry, Vault
from fedbank.errors import FedBankError

__all__ = [
    "Entry",
    "Kind",
    "Policy",
    "Redacted",
    "RefusedTextError",
    "Restorer",
    "Span",
    "Vault",
    "mask",
    "redact",
    "restore",
]

PERSONAL = frozenset(LABELS)
"""Every kind that is replaced by tokens: all but secrets, which no policy lets through."""

_CHINESE = re.compile("[\u4e00-\u9fff]")


class RefusedTextError(FedBankError):
    """The text holds a password, a one-time code or the like (C3). ``places``: where, as (start, end); never what."""

    def __init__(self, places: tuple[tuple[int, int], ...]) -> None:
        super().__init__(
            f"Expected a text without passwords, one-time codes, PIN, CVV or expiry dates; {len(places)} found. "
            "Nothing of it was passed on or kept; ask the customer to leave it out and never to tell it to anybody."
        )
        self.places = places


@dataclass(frozen=True, slots=True)
class Policy:
    """Which kinds become tokens, and in which language tokens are written ("auto": that of the text)."""

    kinds: frozenset[Kind] = PERSONAL
    language: Literal["auto", "zh", "en"] = "auto"

    def chinese(self, text: str) -> bool:
        """Whether the tokens of ``text`` are Chinese."""
        return _CHINESE.search(text) is not None if self.language == "auto" else self.language == "zh"


DEFAULT = Policy()


@dataclass(frozen=True, slots=True)
class Span:
    """The characters ``start`` to ``end`` (exclusive) of the original text are of this kind and became ``token``."""

    start: int
    end: int
    kind: Kind
    token: str


@dataclass(frozen=True, slots=True)
class Redacted:
    """``text`` may go to the model. ``spans``: what was replaced, in order; ``tokens``: each token once, in order.

    ``vault`` is what :func:`restore` needs. The repr shows no text.
    """

    text: str = field(repr=False)
    spans: tuple[Span, ...]
    tokens: tuple[str, ...]
    vault: Vault


def redact(text: str, *, policy: Policy = DEFAULT, vault: Vault | None = None) -> Redacted:
    """Replace personal data in ``text`` by tokens. ``vault``: that of the conversation, which is added to.

    Redacting a redacted text changes nothing.

    Raises:
        RefusedTextError: the text holds a secret; ``vault`` is as it was.
    """
    seen, found = find(text)
    secret = tuple(seen.span(one.start, one.end) for one in found if one.kind is Kind.SECRET)
    if secret:
        raise RefusedTextError(secret)
    vault = Vault() if vault is None else vault
    vault.reserve(text)
    if not found:
        return Redacted(text, (), (), vault)
    chinese = policy.chinese(text)
    parts, spans, done = list[str](), list[Span](), 0
    for one in found:
        if one.kind not in policy.kinds:
            continue
        start, end = seen.span(one.start, one.end)
        same = canonical(seen.text[one.start : one.end], one.kind)
        token = vault.token(one.kind, text[start:end], same, chinese=chinese)
        spans.append(Span(start, end, one.kind, token))
        parts += (text[done:start], token)
        done = end
    parts.append(text[done:])
    return Redacted("".join(parts), tuple(spans), tuple(dict.fromkeys(span.token for span in spans)), vault)


def redact_or_mask(text: str, vault: Vault) -> str:
    """As ``redact``, of what was said before or by the bank: a secret is left out of it, and refuses nothing."""
    try:
        return redact(text, vault=vault).text
    except RefusedTextError as refused:
        plain = text
        for start, end in sorted(refused.places, reverse=True):
            plain = f"{plain[:start]}…{plain[end:]}"
    try:
        return redact(plain, vault=vault).text
    except RefusedTextError:  # what is left holds another one
        return mask(text)


def restore(text: str, vault: Vault, allowed_kinds: Collection[Kind] = PERSONAL) -> str:
    """Put originals back where ``text``, a model's answer, has their tokens.

    Of a kind that is not allowed, and of a token that the conversation does not know, only the label stays: 〈手机号〉.
    """

    def original(token: re.Match[str]) -> str:
        entry = vault.entry(token)
        if entry is not None and entry.kind in allowed_kinds:
            return entry.original
        return f"<{token[1].upper()}>" if token[1].isascii() else f"〈{token[1]}〉"

    return TOKEN.sub(original, text)


class Restorer:
    """:func:`restore` for an answer that comes in pieces: a token that is not complete yet waits for its rest."""

    def __init__(self, vault: Vault, allowed_kinds: Collection[Kind] = PERSONAL) -> None:
        self._vault = vault
        self._allowed = allowed_kinds
        self._waiting = ""

    def feed(self, piece: str) -> str:
        """What can be shown now that ``piece`` has come."""
        text = self._waiting + piece
        opened = max(text.rfind(bracket, max(0, len(text) - LONGEST_TOKEN)) for bracket in OPENING)
        complete = opened < 0 or TOKEN.match(text, opened) is not None
        self._waiting = "" if complete else text[opened:]
        return restore(text if complete else text[:opened], self._vault, self._allowed)

    def end(self) -> str:
        """The rest, once no piece comes any more."""
        rest, self._waiting = self._waiting, ""
        return restore(rest, self._vault, self._allowed)


def mask(text: str) -> str:
    """``text`` for a log or a screen: personal data partly starred (138****1234), secrets wholly. Never refuses."""
    seen, found = find(text)
    parts, done = list[str](), 0
    for one in found:
        start, end = seen.span(one.start, one.end)
        parts += (text[done:start], _starred(seen.text[one.start : one.end], one.kind))
        done = end
    return "".join([*parts, text[done:]])


_SHOWN = {
    Kind.MOBILE: (3, 4),
    Kind.BANK_CARD: (0, 4),
    Kind.ACCOUNT: (0, 4),
    Kind.IDENTITY_CARD: (2, 2),
    Kind.NAME: (1, 0),
}
"""How many characters at the beginning and the end a mask leaves; of other kinds none."""


def _starred(written: str, kind: Kind) -> str:
    same = canonical(written, kind)
    if kind is Kind.EMAIL:
        return f"{same[0]}****{same[same.index('@') :]}"
    first, last = _SHOWN.get(kind, (0, 0))
    if len(same) < first + last + 1 or (kind is Kind.MOBILE and not same.isascii()):
        return "****"
    return same[:first] + "****" + same[len(same) - last :]
