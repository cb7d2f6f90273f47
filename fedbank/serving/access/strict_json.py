"""JSON from outside, read strictly: what two readers could understand differently is refused (RFC 8725, section 2)."""

import json
from typing import Any


def strict_object(content: bytes) -> dict[str, Any]:
    """The one object in ``content``; ``ValueError`` for anything else, a name that is there twice, NaN, or too deep."""
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
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
