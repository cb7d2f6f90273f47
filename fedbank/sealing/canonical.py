"""One byte form for each JSON value that is signed: what is read must be what would be written.

A subset of RFC 8785: names in ASCII and sorted, no spaces, UTF-8, whole numbers below 2^53, no floating point (its text
differs between programs; write 0.1 as "0.1").
"""

import json
from collections.abc import Mapping
from typing import Any

_MAX_INTEGER = 2**53 - 1


def canonical(value: Mapping[str, Any]) -> bytes:
    """The bytes of ``value``; ``ValueError`` if it holds anything but texts, whole numbers, lists, objects and null."""
    _check(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def read_canonical(content: bytes) -> dict[str, Any]:
    """The object whose ``canonical`` bytes are ``content``; the caller limits their number.

    Raises:
        ValueError: anything else, and why: no JSON, floating point, a name twice, another order, spaces, ...
    """
    try:
        value = json.loads(content.decode(), object_pairs_hook=_object, parse_float=_refuse, parse_constant=_refuse)
        written = canonical(value) if isinstance(value, dict) else b""
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if written != content:
        raise ValueError("it is not written in canonical form")
    return dict(value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it holds a name twice")
    return found


def _refuse(text: str) -> None:
    raise ValueError(f"it holds the floating-point number {text:.20}")


def _check(value: object) -> None:
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) and name.isascii() for name in value):
            raise ValueError("it holds a name that is not in ASCII")
        for inner in value.values():
            _check(inner)
    elif isinstance(value, list):
        for inner in value:
            _check(inner)
    elif type(value) is int:
        if abs(value) > _MAX_INTEGER:
            raise ValueError("it holds a number beyond 2^53")
    elif not (value is None or isinstance(value, bool | str)):
        raise ValueError(f"it holds a value of type {type(value).__name__}")
