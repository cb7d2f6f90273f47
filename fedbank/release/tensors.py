"""Shapes of an adapter's tensors as a manifest writes them: what all layers have alike is written once.

``a.layers.*.b`` stands for ``a.layers.N.b`` for every N of the manifest's ``layers``. Written one by one, the tensors
of a model of 7 billion parameters would take 30 kB of each release.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
_EVERY = ".layers.*."
_ONE = re.compile(r"\.layers\.(0|[1-9][0-9]{0,8})\.")
MAX_TENSORS = 1 << 15
"""More than a header of a mebibyte can list."""


def written(shapes: Shapes, layers: Sequence[int]) -> dict[str, list[int]]:
    """The shorter form of ``shapes``, of which ``expanded`` makes the same again."""
    groups: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        groups.setdefault(_ONE.sub(_EVERY, name, count=1), {})[name] = shape
    found: dict[str, list[int]] = {}
    for every, members in groups.items():
        alike = set(members) == set(_names(every, layers)) and len(set(members.values())) == 1
        kept = {every: next(iter(members.values()))} if alike else members
        found |= {name: list(shape) for name, shape in kept.items()}
    return found


def expanded(tensors: Mapping[str, Any], layers: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by name.

    Raises:
        ValueError: a tensor is there twice, or they are more than any adapter has.
    """
    every = sum(_EVERY in name for name in tensors)
    count = len(tensors) - every + every * len(layers)
    if count > MAX_TENSORS:
        raise ValueError(f"it has more than {MAX_TENSORS} tensors")
    found = {one: tuple(shape) for name, shape in tensors.items() for one in _names(name, layers)}
    if len(found) != count:
        raise ValueError("it has a tensor twice")
    return found


def _names(name: str, layers: Sequence[int]) -> list[str]:
    return [name.replace(_EVERY, f".layers.{layer}.", 1) for layer in layers] if _EVERY in name else [name]
