"""JSON of another party, read strictly: what two readers could understand differently is refused, and so is what only
some of our code could bear.

Refused are: other encodings than UTF-8, NaN and infinity (also as 1e999), whole numbers of 64 bits and more, a name
twice in one object, half a character (a lone surrogate), and nesting of more than 32 levels. RFC 8259 warns of all of
them as not interoperable (sections 4, 6, 8 and 9).
"""

import json
import math
from typing import Any

MAX_DEPTH = 32
MAX_INTEGER = 2**63 - 1
_MAX_DIGITS = 20


def read_json(content: bytes | str, max_bytes: int) -> Any:
    """The one JSON value in ``content``, of at most ``max_bytes`` bytes (characters of a text).

    Raises:
        ValueError: anything else, and why. It is the only exception.
    """
    if len(content) > max_bytes:
        raise ValueError(f"it has more than {max_bytes} bytes")
    try:
        value = json.loads(
            content if isinstance(content, str) else content.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_bounded,
        )
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    _check(value)
    return value


def read_object(content: bytes | str, max_bytes: int) -> dict[str, Any]:
    """The one object in ``content``; ``ValueError`` as ``read_json``, and if it is another value."""
    value = read_json(content, max_bytes)
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text:.20} is too large")
    return number


def _bounded(text: str) -> int:
    number = int(text) if len(text) <= _MAX_DIGITS else MAX_INTEGER + 1
    if abs(number) > MAX_INTEGER:
        raise ValueError(f"the whole number {text:.20} has more than 63 bits")
    return number


def _check(value: object) -> None:
    """Every text can be written, and nothing lies deeper than ``MAX_DEPTH``; without recursion of its own."""
    level, depth = [value], 0
    while level:
        containers: list[dict[str, object] | list[object]] = []
        for found in level:
            if isinstance(found, str):
                _check_text(found)
            elif isinstance(found, dict | list):
                containers.append(found)
        if containers and depth == MAX_DEPTH:
            raise ValueError("it is nested too deep")
        depth += 1
        level = [part for found in containers for part in _parts(found)]


def _parts(container: dict[str, object] | list[object]) -> list[object]:
    return [*container, *container.values()] if isinstance(container, dict) else container


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half a character (a lone surrogate)") from None
