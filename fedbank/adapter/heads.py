"""The head of a bank's ledger as it travels, and what a call says to one bank alone: fixed lengths, read strictly."""

import re
from dataclasses import dataclass

from fedbank.errors import UpdateError

_NO_LINE = "0" * 64
_DIGITS = 12
_HEAD = re.compile(rf"([0-9]{{{_DIGITS}}}):([0-9a-f]{{64}})")
_NOTE = re.compile(rf"fedbank-note/1 (\S{{1,200}}) ([0-9]{{{_DIGITS}}}:[0-9a-f]{{64}}) ([01])")


@dataclass(frozen=True, slots=True)
class LedgerHead:
    """How many ``lines`` a bank's ledger has, and the SHA-256 of the last one (hexadecimal; zeros if there is none).

    The lines are a hash chain, so a head stands for the whole ledger up to that line.
    """

    lines: int = 0
    hash: str = _NO_LINE

    def to_text(self) -> str:
        """The same number of characters whatever the head: its length tells nothing."""
        return f"{self.lines:0{_DIGITS}d}:{self.hash}"

    @classmethod
    def from_text(cls, text: object) -> "LedgerHead":
        """Parse a head; ``UpdateError`` if it is anything else."""
        found = _HEAD.fullmatch(text) if isinstance(text, str) else None
        if found is None or (int(found[1]) == 0) != (found[2] == _NO_LINE):
            raise UpdateError(f"Expected the head of a ledger, got {text!r:.80}. Nothing was used.")
        return cls(int(found[1]), found[2])


NO_LINES = LedgerHead()
"""The head of a ledger in which nothing was ever charged."""


@dataclass(frozen=True, slots=True)
class CallNote:
    """What a call says to one bank alone, masked.

    ``plan_digest`` names its plan; ``head`` is what the coordinator last saw of its ledger, from this process or from
    another; ``twin``: the coordinator heard this process and another one in turn, under one identity.
    """

    plan_digest: str
    head: LedgerHead = NO_LINES
    twin: bool = False

    def to_text(self) -> str:
        """The note as it is masked."""
        return f"fedbank-note/1 {self.plan_digest} {self.head.to_text()} {int(self.twin)}"

    @classmethod
    def from_text(cls, text: str) -> "CallNote":
        """Parse a note; ``UpdateError`` if it is anything else, such as one that another mask was taken off."""
        found = _NOTE.fullmatch(text)
        if found is None:
            raise UpdateError("Expected what a call says to this bank, got something else. Nothing was used.")
        return cls(found[1], LedgerHead.from_text(found[2]), found[3] == "1")
