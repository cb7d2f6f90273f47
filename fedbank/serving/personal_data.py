"""The stage that keeps personal data from the model, and gives each customer only their own back."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from fedbank.data.redact import PERSONAL, Kind, Policy, RefusedTextError, Restorer, Vault, mask, redact
from fedbank.data.redaction.kinds import LABELS
from fedbank.serving.engine import Turn
from fedbank.serving.pipeline import Notice, Passage

MASKED = Notice(
    "personal-data-masked",
    "您提供的个人信息已做脱敏处理，模型看不到原文。",
    "Personal data in your question were masked; the model does not see them.",
)
NOBODYS = frozenset({Kind.IDENTITY_CARD, Kind.BANK_CARD, Kind.MOBILE, Kind.EMAIL, Kind.PASSPORT, Kind.IBAN})
"""What a model never has to say by itself: it would be somebody's from its training. Hotlines and branches stay."""


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
        passage = replace(passage, turns=turns, personal=len(vault) > 0)
        if vault:
            passage = passage.noted(MASKED)
        return passage.filtered(_OwnDataOnly(vault, self.restored, chinese=passage.language == "zh"))


class _OwnDataOnly:
    """Out of an answer: whatever the customer did not give; then their own data back in."""

    def __init__(self, vault: Vault, restored: Collection[Kind], *, chinese: bool) -> None:
        self._restorer = Restorer(vault, restored)
        self._chinese = chinese

    async def feed(self, sentence: str) -> str:
        return self._restorer.feed(withhold(sentence, chinese=self._chinese))

    async def end(self) -> str:
        return self._restorer.end()


def withhold(text: str, *, chinese: bool) -> str:
    """``text`` of a model with labels instead of anybody's personal data; tokens stay. Codes are starred."""
    try:
        found = redact(text, policy=_NOBODYS).spans
    except RefusedTextError:
        return mask(text)
    parts, done = list[str](), 0
    for span in found:
        label = LABELS[span.kind]
        parts += (text[done : span.start], f"〈{label[0]}〉" if chinese else f"<{label[1]}>")
        done = span.end
    return "".join([*parts, text[done:]])


_NOBODYS = Policy(NOBODYS)


def _redacted(turn: Turn, vault: Vault) -> Turn:
    if turn.role != "assistant":
        return replace(turn, text=redact(turn.text, vault=vault).text)
    try:
        return replace(turn, text=redact(turn.text, vault=vault).text)
    except RefusedTextError:  # an answer that was shown before is no reason to refuse the next question
        return replace(turn, text=mask(turn.text))
