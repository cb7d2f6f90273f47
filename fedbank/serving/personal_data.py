"""The stage that keeps personal data from the model, and gives each customer only their own back."""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from fedbank.data.redact import PERSONAL, Kind, Restorer, Vault, redact, redact_or_mask
from fedbank.data.redaction.finding import find
from fedbank.data.redaction.kinds import LABELS
from fedbank.serving.engines.interface import Turn
from fedbank.serving.pipeline import Notice, Passage

MASKED = Notice(
    "personal-data-masked",
    "您提供的个人信息已做脱敏处理，模型看不到原文。",
    "Personal data in your question were masked; the model does not see them.",
)
NOBODYS = frozenset(
    {
        Kind.IDENTITY_CARD,
        Kind.BANK_CARD,
        Kind.ACCOUNT,
        Kind.MOBILE,
        Kind.EMAIL,
        Kind.PASSPORT,
        Kind.PERMIT,
        Kind.PLATE,
        Kind.IBAN,
    }
)
"""What a model never has to say by itself: it would be somebody's from its training. Hotlines and branches stay."""
_STARS = "****"
_ENDS = re.compile(r"(?:[。！？!?；;\n]|(?<!\d)\.)[”’」』）)\"'\s]*\Z")
_LONGEST = 96
"""Characters of the longest number with its separators, and of the words before one that say what it is."""


@dataclass(frozen=True, slots=True)
class PersonalData:
    """``restored``: kinds that a customer reads again in the answer; of all others the label alone is shown."""

    restored: Collection[Kind] = PERSONAL
    name: str = "redact"
    version: str = "1"

    async def incoming(self, passage: Passage) -> Passage:
        """With tokens for personal data in every turn.

        Raises:
            RefusedTextError: a turn of the customer holds a password or a code.
        """
        vault = Vault()
        turns = tuple(_redacted(turn, vault) for turn in passage.turns)
        passage = replace(passage, turns=turns, personal=passage.personal or len(vault) > 0)
        if vault:
            passage = passage.noted(MASKED)
        return passage.filtered(_OwnDataOnly(vault, self.restored, chinese=passage.language == "zh"))


class _OwnDataOnly:
    """Out of an answer: whatever the customer did not give; then their own data back in.

    A sentence may be cut within a number: the end of one that has no end yet waits for more, and what was let through
    last is looked at again with what follows it.
    """

    def __init__(self, vault: Vault, restored: Collection[Kind], *, chinese: bool) -> None:
        self._restorer = Restorer(vault, restored)
        self._chinese = chinese
        self._before = self._held = ""

    async def feed(self, sentence: str) -> str:
        text = self._held + sentence
        return self._restorer.feed(self._let_through(text, 0 if _ENDS.search(text) else _LONGEST))

    async def end(self) -> str:
        return self._restorer.feed(self._let_through(self._held, 0)) + self._restorer.end()

    def _let_through(self, text: str, held: int) -> str:
        """``text`` but for its last ``held`` characters, and for a number that reaches into them."""
        spans = [(max(0, start), end, label) for start, end, label in self._found(text) if end > 0]
        cut = max(0, len(text) - held)
        cut = min([cut, *(start for start, end, _ in spans if start < cut < end)])
        self._held = text[cut:]
        self._before = (self._before + text[:cut])[-_LONGEST:]
        return _labelled(text[:cut], [span for span in spans if span[1] <= cut])

    def _found(self, text: str) -> list[tuple[int, int, str]]:
        """As ``findings``, places counted from the beginning of ``text``."""
        before = len(self._before)
        found = findings(self._before + text, chinese=self._chinese)
        return [(start - before, end - before, label) for start, end, label in found]


def findings(text: str, *, chinese: bool) -> list[tuple[int, int, str]]:
    """Where ``text`` of a model holds anybody's personal data or a secret, and what stands there instead."""
    seen, found = find(text)
    shown = [(seen.span(one.start, one.end), one.kind) for one in found if one.kind in NOBODYS | {Kind.SECRET}]
    return [(*place, _STARS if kind is Kind.SECRET else _label(kind, chinese=chinese)) for place, kind in shown]


def withhold(text: str, *, chinese: bool) -> str:
    """``text`` of a model with labels instead of anybody's personal data, and stars for secrets; tokens stay."""
    return _labelled(text, findings(text, chinese=chinese))


def _labelled(text: str, spans: Collection[tuple[int, int, str]]) -> str:
    parts, done = list[str](), 0
    for start, end, label in spans:
        parts += (text[done:start], label)
        done = end
    return "".join([*parts, text[done:]])


def _label(kind: Kind, *, chinese: bool) -> str:
    label = LABELS[kind]
    return f"〈{label[0]}〉" if chinese else f"<{label[1]}>"


def _redacted(turn: Turn, vault: Vault) -> Turn:
    if turn.role == "assistant":  # an answer that was shown before is no reason to refuse the next question
        return replace(turn, text=redact_or_mask(turn.text, vault))
    return replace(turn, text=redact(turn.text, vault=vault).text)
