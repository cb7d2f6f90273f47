"""The tokens of one conversation and what each stands for: memory of the bank's side, never of the model's."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from fedbank.data.redaction.kinds import LABELS, Kind

_NAMES = "|".join(sorted({label for labels in LABELS.values() for label in labels}, key=len, reverse=True))
OPENING = "〈<《⟨＜"
TOKEN = re.compile(rf"[{OPENING}]\s?({_NAMES})[ _]?([1-9][0-9]{{0,5}})\s?[〉>》⟩＞]", re.IGNORECASE)
"""A token, also as a model may bend it: other brackets, small letters, a space more or an underscore less."""

LONGEST_TOKEN = max(map(len, _NAMES.split("|"))) + 12
"""Characters; what is longer is no token."""


def spelled(label: str, number: str | int) -> str:
    """The token as :class:`Vault` spells it."""
    return f"<{label.upper()}_{number}>" if label.isascii() else f"〈{label}{number}〉"


@dataclass(frozen=True, slots=True)
class Entry:
    """One token, its kind, the original as it was first written and its canonical form. The repr shows no original."""

    token: str
    kind: Kind
    original: str = field(repr=False)
    canonical: str = field(repr=False)


class Vault:
    """Token to original for one conversation: the same number gets the same token in every turn.

    It holds what redaction took out: keep it as secret as the conversation and end it with it.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        """Empty, or as :meth:`entries` of an earlier vault gave it out."""
        self._by_token: dict[str, Entry] = {}
        self._by_value: dict[tuple[Kind, str], Entry] = {}
        self._reserved: set[str] = set()
        self._next: dict[str, int] = {}
        for entry in entries:
            self._put(entry)

    def __repr__(self) -> str:
        return f"Vault({len(self._by_token)} tokens)"

    def __len__(self) -> int:
        return len(self._by_token)

    def entries(self) -> tuple[Entry, ...]:
        """Everything in it, in order, to be kept (encrypted) with the conversation."""
        return tuple(self._by_token.values())

    def reserve(self, text: str) -> None:
        """Never give out the tokens that ``text`` holds already: whoever wrote them meant no original of ours."""
        if not any(bracket in text for bracket in OPENING):
            return
        for match in TOKEN.finditer(text):
            token = spelled(match[1], match[2])
            if token not in self._by_token:
                self._reserved.add(token)

    def token(self, kind: Kind, original: str, canonical: str, *, chinese: bool) -> str:
        """The token for this original: the one it has, or the next one free."""
        known = self._by_value.get((kind, canonical))
        if known is not None:
            return known.token
        label = LABELS[kind][0 if chinese else 1]
        number = self._next.get(label, 1)
        while spelled(label, number) in self._reserved or spelled(label, number) in self._by_token:
            number += 1
        self._next[label] = number + 1
        entry = Entry(spelled(label, number), kind, original, canonical)
        self._put(entry)
        return entry.token

    def entry(self, token: re.Match[str]) -> Entry | None:
        """What a match of :data:`TOKEN` stands for; ``None``: for nothing."""
        return self._by_token.get(spelled(token[1], token[2]))

    def _put(self, entry: Entry) -> None:
        self._by_token[entry.token] = entry
        self._by_value.setdefault((entry.kind, entry.canonical), entry)
