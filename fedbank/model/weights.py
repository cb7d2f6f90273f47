"""What the weight files of a base model say of themselves: every tensor once, where the index says it is. No torch."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedbank.errors import ModelError
from fedbank.model.contents import INDEX, counted_names, is_weights
from fedbank.model.reading import MOST_BYTES, opened, parse_object, read_small, unreadable


def tensors(folder: Path) -> dict[str, dict[str, Any]]:
    """Every tensor of the weights in ``folder`` by name: its ``shape``, ``dtype`` and place, from the files' headers.

    Raises:
        ModelError: the files cannot be read, a tensor is there twice, or the index says something else.
    """
    found: dict[str, dict[str, Any]] = {}
    places: dict[str, str] = {}
    names = counted_names(folder)
    for name in filter(is_weights, names):
        for tensor, entry in _header(folder / name).items():
            if tensor == "__metadata__":
                continue
            if tensor in found:
                raise ModelError(
                    f"Expected every tensor once in {folder}, got {tensor!r:.120} in {places[tensor]} and in {name}. "
                    "Copy the model again."
                )
            found[tensor], places[tensor] = entry, name
    if INDEX in names:
        _check_index(folder, places)
    return found


def _check_index(folder: Path, places: Mapping[str, str]) -> None:
    """The index names what the files hold, no more, no less, and no file elsewhere."""
    said = parse_object(read_small(folder / INDEX), folder / INDEX).get("weight_map")
    if said == dict(places):
        return
    pairs = said.items() if isinstance(said, dict) else ()
    wrong = next((key for key, file in pairs if places.get(key) != file), None)
    wrong = wrong or next((key for key in places if not isinstance(said, dict) or key not in said), "its weight_map")
    raise ModelError(
        f"Expected {folder / INDEX} to say of every tensor in which file of this folder it is, got something else for "
        f"{wrong!r:.120}. Copy the model again from its origin."
    )


def _header(shard: Path) -> dict[str, Any]:
    """The header of a safetensors file: 8 bytes of length, little-endian, and as much JSON."""
    try:
        with opened(shard) as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(MOST_BYTES, os.fstat(file.fileno()).st_size - 8):
                raise ModelError(f"Expected a safetensors header in {shard}, got something else. Copy the file again.")
            return parse_object(file.read(length), shard)
    except OSError as error:
        raise unreadable(shard, error) from error
