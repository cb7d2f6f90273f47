"""A YAML file of a person, read strictly: nothing is guessed, and every error names the file and the key.

Aliases, duplicate keys, unknown keys, tags and files above 64 KiB are refused (YAML 1.1 with JSON's numbers: PyYAML
takes ``1e-5`` for text, which nobody who writes it means).
"""

import difflib
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from fedbank.errors import ConfigError
from fedbank.foreign import printable

_MAX_FILE = 64 * 1024
_LARGEST = sys.float_info.max
"""A whole number beyond it has no floating-point form."""


class Settings:
    """The checked values of one mapping. Every method raises ``ConfigError`` naming file, key, expected and got."""

    def __init__(self, values: object, where: str, known: Collection[str]) -> None:
        if not isinstance(values, Mapping):
            raise ConfigError(f"Expected {where} to hold lines of the form 'name: value', got {_shown(values)}.")
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(known)}."
                raise ConfigError(f"Expected a known name in {where}, got {key!r:.80}. {hint}")
        self._values, self._where = values, where

    @classmethod
    def read(cls, path: Path, known: Collection[str]) -> "Settings":
        """The file at ``path``, whose names must be among ``known``."""
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_FILE + 1)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise ConfigError(f"Expected the file {path}, got none.") from None
        return cls.parse(content, str(path), known)

    @classmethod
    def parse(cls, content: bytes, where: str, known: Collection[str]) -> "Settings":
        """The YAML mapping in ``content``."""
        if len(content) > _MAX_FILE:
            raise ConfigError(f"Expected at most {_MAX_FILE} bytes in {where}, got more.")
        try:
            values = yaml.load(content.decode("utf-8"), Loader=_Loader)  # stricter than yaml.safe_load
        except Exception as error:  # noqa: BLE001 - a decode boundary: tags make PyYAML raise errors of many classes
            mark = getattr(error, "problem_mark", None)
            line = f" (line {mark.line + 1})" if mark else ""
            problem = getattr(error, "problem", None) or "no readable YAML"
            raise ConfigError(f"Expected readable settings in {where}{line}, got: {printable(problem, 200)}.") from None
        return cls(values, where, known)

    def number(self, key: str, *, above: float = 0.0, below: float = _LARGEST) -> float:
        """A finite number strictly between ``above`` and ``below``."""
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < below:
            span = f"above {above:g}" if below == _LARGEST else f"between {above:g} and {below:g}"
            raise self._error(key, f"a number {span}", value)
        return float(value)

    def integer(self, key: str, *, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``."""
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._error(key, f"a whole number from {low} to {high}", value)
        return value

    def flag(self, key: str) -> bool:
        """``true`` or ``false``."""
        value = self._get(key)
        if not isinstance(value, bool):
            raise self._error(key, "true or false", value)
        return value

    def choice(self, key: str, choices: Collection[str]) -> str:
        """One of ``choices``."""
        value = self._get(key)
        if not isinstance(value, str) or value not in choices:
            raise self._error(key, " or ".join(choices), value)
        return value

    def text(self, key: str, pattern: str = r"[^\x00-\x1f\x7f]{1,200}", meaning: str = "a line of text") -> str:
        """Text that matches ``pattern`` as a whole; ``meaning`` says in an error what was expected."""
        value = self._get(key)
        if not isinstance(value, str) or not re.fullmatch(pattern, value) or not value.isprintable():
            raise self._error(key, meaning, value)
        return value

    def texts(self, key: str, pattern: str, meaning: str, *, least: int = 0) -> tuple[str, ...]:
        """A list of ``least`` to 64 texts."""
        value = self._get(key)
        whole = isinstance(value, list) and least <= len(value) <= 64
        if not whole or not all(isinstance(item, str) and re.fullmatch(pattern, item) for item in value):
            raise self._error(key, f"a list of {meaning}", value)
        return tuple(value)

    def section(self, key: str, known: Collection[str]) -> "Settings":
        """The mapping under ``key``."""
        return Settings(self._get(key), f"{self._where}, {key}", known)

    def given(self, key: str) -> bool:
        """Whether ``key`` is there with a value (``null`` is none)."""
        return self._values.get(key) is not None

    def equals(self, key: str, word: str) -> bool:
        """Whether ``key`` has the value ``word``."""
        return bool(self._get(key) == word)

    def _get(self, key: str) -> Any:
        if key not in self._values:
            raise ConfigError(f"Expected {key} in {self._where}, got none. Add a line {key}: VALUE.")
        return self._values[key]

    def _error(self, key: str, expected: str, value: object) -> ConfigError:
        return ConfigError(f"Expected {key} in {self._where} to be {expected}, got {_shown(value)}.")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases and duplicate keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias (*name)", None)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(names) != len(node.value) or len(set(names)) != len(names):
            raise yaml.constructor.ConstructorError(
                None, None, "a name twice, or a name that is no text", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)[eE][-+]?\d+\Z"), list("-+.0123456789")
)


def _shown(value: object) -> str:
    return (
        "nothing" if value is None else repr(value)[:80] if not isinstance(value, dict | list) else "a list or section"
    )
