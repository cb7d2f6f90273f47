"""A place in a JSON or YAML document that knows its own address, so that an error can name it.

Knows how to read numbers, words and containers strictly; knows nothing about what they mean.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import yaml

from fedbank.errors import RunError

_ADVICE = "Point at the folder of a finished run, or run the simulation again."


@dataclass(frozen=True, slots=True)
class Node:
    """One value with the file and the dotted path that it was read from."""

    value: object
    where: str

    def at(self, key: str) -> Node:
        """The value under ``key``; an absent key and ``null`` are the same."""
        return Node(self._mapping().get(key), f"{self.where}.{key}")

    def entries(self) -> dict[str, Node]:
        """Every entry of a mapping; empty when the value is absent."""
        return {key: Node(value, f"{self.where}.{key}") for key, value in self._mapping().items()}

    def items(self) -> list[Node]:
        """Every element of a list; empty when the value is absent."""
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            raise self._refuse("a list")
        return [Node(value, f"{self.where}[{index}]") for index, value in enumerate(self.value)]

    def number(self) -> float:
        """A number that must be there (infinite and undefined values of a diverged run included)."""
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float)):
            raise self._refuse("a number")
        return float(self.value)

    def optional_number(self) -> float | None:
        """A number, or None where the document holds ``null`` or nothing."""
        return None if self.value is None else self.number()

    def number_or_nan(self) -> float:
        """A number; ``null`` is how a diverged run writes an undefined one."""
        return math.nan if self.value is None else self.number()

    def count(self) -> int:
        """A whole number that must be there."""
        number = self.number()
        if not number.is_integer():
            raise self._refuse("a whole number")
        return int(number)

    def text(self) -> str:
        """A string that must be there."""
        if not isinstance(self.value, str):
            raise self._refuse("a text")
        return self.value

    def flag(self) -> bool:
        """``true`` or ``false``, and nothing that merely looks like it."""
        if not isinstance(self.value, bool):
            raise self._refuse("true or false")
        return self.value

    def _mapping(self) -> dict[str, object]:
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise self._refuse("a mapping")
        return {str(key): value for key, value in self.value.items()}

    def _refuse(self, expected: str) -> RunError:
        found = "nothing" if self.value is None else f"{self.value!r:.60}"
        return RunError(f"Expected {expected} at {self.where}, got {found}. {_ADVICE}")


def read_json(path: Path) -> Node:
    """The one document of a JSON file."""
    return _parse_json(_read(path), str(path))


def read_json_lines(path: Path) -> list[Node]:
    """The documents of a JSON-lines file, in order; a missing file holds none."""
    if not path.is_file():
        return []
    lines = enumerate(_read(path).splitlines(), start=1)
    return [_parse_json(line, f"{path}:{number}") for number, line in lines if line.strip()]


def read_yaml(path: Path) -> tuple[Node, str]:
    """The one document of a YAML file, and its text as it stands there."""
    text = _read(path)
    try:
        return Node(yaml.safe_load(text), str(path)), text
    except yaml.YAMLError as error:
        raise RunError(f"Expected YAML in {path}, got something else ({error}). {_ADVICE}") from error


def _parse_json(text: str, where: str) -> Node:
    try:
        return Node(json.loads(text), where)
    except json.JSONDecodeError as error:
        raise RunError(f"Expected JSON in {where}, got something else ({error}). {_ADVICE}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"Expected a readable UTF-8 file {path}, got: {error}. {_ADVICE}") from error
