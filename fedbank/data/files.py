"""Read a bank's log of answered inquiries from a JSON Lines or CSV file.

It knows bytes, lines and columns; it does not know redaction, customers' groups or tokens. Everything that
is wrong with a file becomes a :class:`~fedbank.errors.DataError` that names the file and the line (counted
from 1) and quotes column names but never a row, so that an error can be logged without showing an inquiry.
(The first row of a CSV file is taken for its header.)
JSON Lines: one RFC 8259 object a line. CSV: RFC 4180 with a header row. Both UTF-8, with or without a
byte-order mark; blank lines are skipped.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedbank.data.inquiry import Inquiry
from fedbank.errors import ConfigError, DataError

_UNUSABLE = re.compile("[\0\ud800-\udfff]")  # no tokenizer or UTF-8 writer takes these
_JSON_NAMES: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true/false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the CSV columns or JSON fields that hold each part of an inquiry.

    Two parts may name one column. ``language=None`` means that the file does not say the language.
    """

    question: str
    answer: str
    customer: str
    key: str
    language: str | None = None

    def mapped(self) -> dict[str, str]:
        """Part of the inquiry → column name, without a language that is not mapped."""
        parts = {"question": self.question, "answer": self.answer, "customer": self.customer, "key": self.key}
        return parts if self.language is None else parts | {"language": self.language}


def read_inquiries(path: Path, format: Literal["jsonl", "csv"], columns: Columns) -> list[Inquiry]:
    """All inquiries of the file at ``path``, in file order.

    Questions and answers are kept as written. Customer, key and language lose surrounding white space and a
    number becomes its decimal text (in JSON, ``17`` and ``17.0`` are one customer: splitting a customer in two would
    halve their protection). An empty key or language is ``""``; every other part must be there.

    Raises:
        DataError: the file or one of its rows cannot be used; nothing is returned for the good rows.
        ConfigError: ``format`` is not one of the two.
    """
    if format not in ("jsonl", "csv"):
        raise ConfigError(f"Expected the data format jsonl or csv, got {format!r}.")
    rows = _json_rows(path) if format == "jsonl" else _csv_rows(path, columns)
    inquiries = [_inquiry(row, columns) for row in rows]
    if not inquiries:
        raise DataError(f"{path} holds no inquiry: expected at least one row. Export it again.")
    return inquiries


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of the file and the line it starts on."""

    path: Path
    line: int
    cells: Mapping[str, object]

    def error(self, problem: str) -> DataError:
        return DataError(f"{self.path}, line {self.line}: {problem}")

    def cell(self, part: str, column: str) -> object:
        if column not in self.cells:
            raise self.error(
                f"expected a field {column!r} for the {part}, got {_listed(self.cells)}. "
                f"Add it or name another one with data.columns.{part}=NAME."
            )
        return self.cells[column]

    def text(self, part: str, column: str) -> str:
        """A question or an answer: text that is not blank, unchanged."""
        value = self.cell(part, column)
        if value is not None and not isinstance(value, str):
            raise self._wrong_type(part, column, "text", value)
        return self._filled(part, column, value or "")

    def name(self, part: str, column: str) -> str:
        """A customer, key or language: text or a number, as stripped text; null is ``""``."""
        value = self.cell(part, column)
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self._wrong_type(part, column, "text or a number", value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return self._checked(part, column, str(value).strip())

    def required_name(self, part: str, column: str) -> str:
        return self._filled(part, column, self.name(part, column))

    def _filled(self, part: str, column: str, text: str) -> str:
        if not text.strip():
            raise self.error(
                f"the {part} in column {column!r} is empty. "
                f"Fill or remove the row, or name another column with data.columns.{part}=NAME."
            )
        return self._checked(part, column, text)

    def _checked(self, part: str, column: str, text: str) -> str:
        if _UNUSABLE.search(text):
            raise self.error(
                f"the {part} in column {column!r} holds a NUL character or half a surrogate pair. "
                "Remove it, or export the file again as UTF-8."
            )
        return text

    def _wrong_type(self, part: str, column: str, expected: str, value: object) -> DataError:
        got = _JSON_NAMES.get(type(value), type(value).__name__)
        return self.error(
            f"expected {expected} as the {part} in column {column!r}, got {got}. "
            f"Correct the row or name another column with data.columns.{part}=NAME."
        )


def _inquiry(row: _Row, columns: Columns) -> Inquiry:
    return Inquiry(
        question=row.text("question", columns.question),
        answer=row.text("answer", columns.answer),
        customer=row.required_name("customer", columns.customer),
        key=row.name("key", columns.key),
        language="" if columns.language is None else _language(row, columns.language),
    )


def _language(row: _Row, column: str) -> str:
    """The primary subtag of a BCP 47 tag: ``zh-CN`` and ``zh_CN`` are ``zh``."""
    language = re.split("[-_]", row.name("language", column).lower())[0]
    if language not in ("zh", "en", ""):
        raise row.error(
            f"expected zh, en or nothing as the language in column {column!r}, got something else. "
            "Correct or remove the row or leave data.columns.language unset."
        )
    return language


def _json_rows(path: Path) -> Iterator[_Row]:
    for line, text in _text_lines(path):
        if not text.strip():
            continue
        row = _Row(path, line, {})
        try:
            # NaN is no JSON, but it is what data-frame libraries write for a missing value.
            value = json.loads(text, parse_constant=lambda _: None)
        except json.JSONDecodeError as error:
            raise row.error(
                f"expected one JSON object, got malformed JSON ({error.msg} at character {error.pos + 1}). "
                "Write one complete object a line, or set the data format to csv if this is a CSV file."
            ) from None  # the decoder's error carries the whole row
        except (ValueError, RecursionError) as error:  # a number of 5000 digits, deeply nested brackets
            raise row.error("the JSON is too deep or a number in it too long. Correct the row.") from error
        if not isinstance(value, dict):
            raise row.error(
                f'expected a JSON object such as {{"question": …}}, got {_JSON_NAMES[type(value)]}. '
                "Write one object a line."
            )
        yield _Row(path, line, value)


def _csv_rows(path: Path, columns: Columns) -> Iterator[_Row]:
    records = _csv_records(path)
    line, header = next(records, (1, []))
    if not header:
        return
    header = [name.strip() for name in header]
    _check_header(_Row(path, line, {}), header, columns)
    for line, cells in records:
        if len(cells) != len(header):
            raise _Row(path, line, {}).error(
                f"expected {len(header)} cells as in the header, got {len(cells)}. "
                'Put cells that contain commas, quotes or line breaks in double quotes ("").'
            )
        yield _Row(path, line, dict(zip(header, cells, strict=True)))


def _check_header(row: _Row, header: list[str], columns: Columns) -> None:
    for part, column in columns.mapped().items():
        if column not in header:
            comma = " Separate the columns by commas." if len(header) == 1 else ""
            raise row.error(
                f"expected a column {column!r} for the {part} in the header, got {_listed(header)}. "
                f"Name another one with data.columns.{part}=NAME.{comma}"
            )
        if header.count(column) > 1:
            raise row.error(
                f"expected one column {column!r} for the {part}, got {header.count(column)}. "
                f"Rename all but one, or name another one with data.columns.{part}=NAME."
            )


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each non-blank record and the line it starts on (a quoted cell may span lines)."""
    reader = csv.reader((text for _, text in _text_lines(path)), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _Row(path, line, {}).error(
                f"the row that starts here is not valid CSV ({str(error).partition(' - ')[0]}). "
                "Check that every double quote is closed and that quotes inside a cell are doubled."
            ) from error
        if len(cells) > 1 or "".join(cells).strip():
            yield line, cells


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and decoded line, its end included; one line in memory at a time."""
    try:
        with path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                yield line, _decoded(_Row(path, line, {}), raw)
    except FileNotFoundError as error:
        raise DataError(f"Expected a data file at {path}, got nothing there. Check the path.") from error
    except IsADirectoryError as error:
        raise DataError(f"Expected a data file at {path}, got a folder. Name one file in it.") from error
    except OSError as error:
        raise DataError(f"The data file {path} cannot be read: {error.strerror}. Check it.") from error


def _decoded(row: _Row, raw: bytes) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise row.error(
            f"expected UTF-8, got byte 0x{raw[error.start]:02x} at position {error.start + 1} of the line. "
            "Export the file again as UTF-8 (not GB 18030, UTF-16 or Latin-1)."
        ) from None  # the decoder's error carries the whole line
    if "\0" in text:
        raise row.error(
            f"expected text, got a NUL byte at position {raw.index(0) + 1} of the line. "
            "Export the file again as UTF-8; a spreadsheet or an archive must be converted first."
        )
    return text.removeprefix("\ufeff") if row.line == 1 else text


def _listed(names: Iterable[str], limit: int = 12) -> str:
    """Names for a message, bounded and escaped: the file chooses them."""
    found = list(names)
    shown = ", ".join(_short(name) for name in found[:limit])
    return (shown or "none") + (f" and {len(found) - limit} more" if len(found) > limit else "")


def _short(name: str, limit: int = 40) -> str:
    return repr(name if len(name) <= limit else name[:limit] + "…")
