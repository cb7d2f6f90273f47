"""One entry of a log of evidence: exactly six fields, each of a limited form, in one canonical line of JSON."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from fedbank.evidence.errors import EvidenceError
from fedbank.foreign import printable
from fedbank.strict_json import read_object

MAX_LINE_BYTES, MAX_RESULT = 2048, 300
_FORMS = {
    "utc": re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}\+00:00"),
    "actor": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"),
    "action": re.compile(r"[a-z][a-z0-9._-]{0,63}"),
    "object": re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """``actor`` did ``action`` to ``object`` (a hexadecimal digest or a public name), and how it ended.

    ``seq`` counts from 0, ``utc`` is when it was written, ``result`` one printable line of at most 300 characters.

    Raises:
        EvidenceError, ValueError: a field is of another form. What needs more room does not belong into a log.
    """

    seq: int
    utc: str
    actor: str
    action: str
    object: str
    result: str

    def __post_init__(self) -> None:
        for name, form in _FORMS.items():
            if not form.fullmatch(getattr(self, name)):
                raise EvidenceError(f"Expected {name} to be like {form.pattern}, got {getattr(self, name)!r:.80}.")
        datetime.fromisoformat(self.utc)
        if not self.result.isprintable() or not 1 <= len(self.result) <= MAX_RESULT:
            raise EvidenceError(
                f"Expected a result of 1 to {MAX_RESULT} printable characters, got {self.result!r:.80}."
            )

    def line(self) -> bytes:
        """The entry as it is hashed and stored, without its newline."""
        return json.dumps(self.fields(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    def fields(self) -> dict[str, str | int]:
        """The six fields by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_line(cls, line: bytes) -> "Entry":
        """The entry in ``line``; ``ValueError``, ``TypeError`` or ``EvidenceError`` if it is not one, written so."""
        entry = cls(**read_object(line, MAX_LINE_BYTES))
        if type(entry.seq) is not int or entry.line() != line:
            raise ValueError("it is not written in canonical form")
        return entry


def stamp(now: datetime) -> str:
    """``now`` as entries write it: UTC with milliseconds."""
    return now.astimezone(UTC).isoformat(timespec="milliseconds")


def one_line(text: str) -> str:
    """``text`` as a result: unprintable characters become question marks, a long text ends in "…", none is "-"."""
    plain = printable(text[: MAX_RESULT + 1] or "-")
    return plain if len(plain) <= MAX_RESULT else plain[: MAX_RESULT - 1] + "…"
