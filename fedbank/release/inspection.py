"""The static check of a release's folder, before any library of models sees it. Nothing is executed or unpacked.

Only the four files, each a plain file of bounded size; a safetensors header (at most 1 MiB) that lists exactly the
tensors of the manifest, without gaps or overlaps; a configuration of exactly the fields that FedBank writes. The
weights are read once, in pieces, for their digest, that all are finite, and their norm.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fedbank.release.contents import CARD, CONFIG, FILES, MANIFEST, MAX_BYTES, WEIGHTS
from fedbank.release.errors import ReleaseError
from fedbank.release.manifest import Manifest
from fedbank.strict_json import read_object

_MAX_HEADER_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20
_ITEM_BYTES: Mapping[str, int] = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class Inspected:
    """A folder that passed: its ``manifest``, and the SHA-256 and size of each of its files by name."""

    manifest: Manifest
    hashes: Mapping[str, str]
    sizes: Mapping[str, int]


def inspect(folder: Path, *, max_norm: float | None = None) -> Inspected:
    """Check everything in ``folder`` that can be checked without the base model. ``max_norm``: the most that the L2
    norm of all weights may be, beside what the manifest says.

    Raises:
        ReleaseError: names the check, what was expected and what was found.
    """
    _check_names(folder)
    small = {name: read_plain(folder / name, MAX_BYTES[name]) for name in (CONFIG, CARD, MANIFEST)}
    manifest = Manifest.from_bytes(small[MANIFEST])
    _check_config(small[CONFIG], manifest)
    with open_plain(folder / WEIGHTS) as file:
        weights, size = _check_weights(file, manifest, max_norm)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in small.items()} | {WEIGHTS: weights}
    sizes = {name: len(content) for name, content in small.items()} | {WEIGHTS: size}
    return Inspected(manifest, hashes, sizes)


def adapter_config(manifest: Manifest) -> bytes:
    """The one configuration that belongs to ``manifest``: what PEFT reads, nothing that could load anything else."""
    adapter = manifest.adapter
    fields: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": manifest.base["name"],
        "r": adapter["rank"],
        "lora_alpha": float(adapter["alpha"]),
        "target_modules": adapter["target_modules"],
        "layers_to_transform": adapter["layers"],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    return json.dumps(fields, indent=2, sort_keys=True).encode()


def _check_names(folder: Path) -> None:
    """No other file, no folder, no link, no device: whatever else lies there is not looked into."""
    try:
        found = {entry.name: entry.stat(follow_symlinks=False).st_mode for entry in os.scandir(folder)}
    except OSError as error:
        raise ReleaseError("files", f"Expected the folder of a release in {folder}, got: {error.strerror}.") from error
    if set(found) != set(FILES):
        other, missing = sorted(set(found) - set(FILES)), sorted(set(FILES) - set(found))
        raise ReleaseError(
            "files",
            f"Expected exactly {', '.join(FILES)}, got {len(other)} others ({', '.join(other)[:80] or 'none'}) and "
            f"missed {', '.join(missing) or 'none'}.",
        )
    for name, mode in found.items():
        if not stat.S_ISREG(mode):
            raise ReleaseError("files", f"Expected {name} to be a plain file, got a link, a folder or a device.")


def open_plain(path: Path) -> BinaryIO:
    """The file itself, never one that a link points to."""
    try:
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    except OSError as error:
        raise ReleaseError("files", f"Expected to read {path}, got: {error.strerror}.") from error


def read_plain(path: Path, most: int) -> bytes:
    """All of a file that no link points to; ``ReleaseError`` if it has more than ``most`` bytes."""
    with open_plain(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ReleaseError("files", f"Expected at most {most} bytes in {path}, got more.")
    return content


def _check_config(content: bytes, manifest: Manifest) -> None:
    """Not parsed for anything but the message: it is right to the byte, or it is refused."""
    expected = adapter_config(manifest)
    if content == expected:
        return
    try:
        said, due = json.loads(content), json.loads(expected)
        other = sorted(key for key in {*said, *due} if said.get(key, _ABSENT) != due.get(key, _ABSENT))
    except (ValueError, TypeError, AttributeError, RecursionError):
        other = []
    first = f", which differs in {other[0]!r:.60}" if other else ""
    raise ReleaseError(
        "config", f"Expected the {CONFIG} that follows from the manifest, to the byte, got another{first}."
    )


_ABSENT = object()


def _check_weights(file: BinaryIO, manifest: Manifest, max_norm: float | None) -> tuple[str, int]:
    sha, size = hashlib.sha256(), os.fstat(file.fileno()).st_size
    data_bytes = _expected_bytes(manifest)
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= length <= _MAX_HEADER_BYTES or size != 8 + length + data_bytes:
        raise ReleaseError(
            "weights",
            f"Expected a safetensors header of at most {_MAX_HEADER_BYTES} bytes and {data_bytes} bytes of weights, "
            f"got a header of {length} and a file of {size}.",
        )
    header = file.read(length)
    _check_header(header, manifest)
    sha.update(head + header)
    squares = 0.0
    for piece in _pieces(file, data_bytes):
        sha.update(piece)
        squares += _sum_of_squares(piece, manifest.adapter["dtype"])
    norm, said = float(np.sqrt(squares)), float(manifest.adapter["norm"])
    if abs(norm - said) > 1e-3 * max(said, 1e-6):
        raise ReleaseError("norm", f"Expected weights of norm {said:g}, as the manifest says, got {norm:g}.")
    if max_norm is not None and norm > max_norm:
        raise ReleaseError("norm", f"Expected weights of norm at most {max_norm:g}, got {norm:g}.")
    return sha.hexdigest(), size


def _expected_bytes(manifest: Manifest) -> int:
    return sum(rows * columns for rows, columns in manifest.shapes().values()) * _ITEM_BYTES[manifest.adapter["dtype"]]


def _check_header(content: bytes, manifest: Manifest) -> None:
    try:
        header = read_object(content, _MAX_HEADER_BYTES)
        header.pop("__metadata__", None)
        found = {
            name: (entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"]) for name, entry in header.items()
        }
        if any(set(entry) != {"dtype", "shape", "data_offsets"} for entry in header.values()):
            raise ValueError("it has other fields")
        if not all(type(size) is int for _, shape, *offsets in found.values() for size in (*shape, *offsets)):
            raise TypeError("a size is no whole number")
        spans = sorted((begin, end) for _, _, begin, end in found.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReleaseError(
            "weights", "Expected a safetensors header that lists tensors, got something else."
        ) from error
    dtype, shapes = manifest.adapter["dtype"], manifest.shapes()
    expected = {name: (dtype, shape) for name, shape in shapes.items()}
    if {name: entry[:2] for name, entry in found.items()} != expected:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name, ())[:2] != expected.get(name))
        raise ReleaseError("weights", f"Expected exactly the manifest's tensors, got another {wrong[0]!r:.120}.")
    ends = [0, *(end for _, end in spans)]
    sized = all(end - begin == int(np.prod(shape)) * _ITEM_BYTES[dtype] for _, shape, begin, end in found.values())
    if not sized or [begin for begin, _ in spans] != ends[:-1]:
        raise ReleaseError("weights", "Expected tensors one after another, each of its size, got gaps or overlaps.")


def _pieces(file: BinaryIO, left: int) -> Iterator[bytes]:
    while left:
        piece = file.read(min(left, _PIECE_BYTES))
        if not piece:
            raise ReleaseError("weights", "Expected a whole file of weights, got its end while reading.")
        left -= len(piece)
        yield piece


def _sum_of_squares(piece: bytes, dtype: str) -> float:
    """Of all values, which must be finite; pieces are cut between values (their size divides by 4)."""
    total = 0.0
    for values in _values(piece, dtype):
        squares = float(np.dot(values, values))
        if not np.isfinite(squares) and not np.isfinite(values).all():
            raise ReleaseError("finite", "Expected finite weights, got NaN or infinity.")
        total += squares
    return total


def _values(piece: bytes, dtype: str) -> Iterator[NDArray[np.float32]]:
    """The values of ``piece``, in no order that counts."""
    if dtype == "F32":
        yield np.frombuffer(piece, "<f4")
    elif dtype == "F16":
        yield np.frombuffer(piece, "<f2").astype(np.float32)
    else:  # bfloat16 is the upper half of a float32; two lie in a word, which is five times as fast as one by one
        words = np.frombuffer(piece + bytes(-len(piece) % 4), "<u4")
        yield (words << np.uint32(16)).view(np.float32)
        yield (words & np.uint32(0xFFFF0000)).view(np.float32)
