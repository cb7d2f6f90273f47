"""The adapter as named tensors, and its byte form. NumPy only: the coordinator needs no model and no torch."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NewType

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedbank.errors import UpdateError
from fedbank.strict_json import read_json, read_object

Tensors = Mapping[str, NDArray[np.float32]]
Released = NewType("Released", Tensors)
"""Changes of trainable tensors that went through a plan's release: the only tensors of a bank that may leave it.

Made where a round of training ends and where an update is parsed, nowhere else.
"""


class NotFiniteError(UpdateError):
    """Tensors of the agreed names and shapes that hold NaN or infinity."""


PEFT_PREFIX = "base_model.model."
"""What PEFT puts before the names of a model's layers."""

MAX_HEADER_BYTES = 1 << 20
"""Of a safetensors file from outside, so that nothing large is ever parsed."""


@dataclass(frozen=True, slots=True)
class LoraPair:
    """Names and sizes of one adapted layer: A (r, n_in) and B (n_out, r); the layer adds s·B(Ax)."""

    name: str
    num_in: int
    num_out: int

    @property
    def a_name(self) -> str:
        """The tensor name of A, as PEFT writes it."""
        return f"{self.name}.lora_A.weight"

    @property
    def b_name(self) -> str:
        """The tensor name of B, as PEFT writes it."""
        return f"{self.name}.lora_B.weight"


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """Shape of a LoRA adapter (Hu et al. 2021, arXiv:2106.09685): s = alpha / rank for every pair.

    ``trainable`` is ``"B"`` (A frozen) or ``"AB"``.
    """

    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    pairs: tuple[LoraPair, ...]
    trainable: str

    @property
    def scale(self) -> float:
        """s = alpha / rank."""
        return self.alpha / self.rank

    def layers(self) -> list[int]:
        """Numbers of the adapted layers, ascending, read off the pairs' names."""
        return sorted({int(part) for pair in self.pairs for part in pair.name.split(".") if part.isdecimal()})

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Shape of every tensor of the adapter, by name."""
        shapes = {}
        for pair in self.pairs:
            shapes[pair.a_name] = (self.rank, pair.num_in)
            shapes[pair.b_name] = (pair.num_out, self.rank)
        return shapes

    def trainable_shapes(self) -> dict[str, tuple[int, int]]:
        """Shape of every tensor that banks train, by name, in the order of training."""
        if self.trainable == "AB":
            return self.shapes()
        return {pair.b_name: (pair.num_out, self.rank) for pair in self.pairs}

    def num_trainable(self) -> int:
        """Parameters that banks train."""
        return sum(rows * columns for rows, columns in self.trainable_shapes().values())


def initial_state(spec: AdapterSpec, *, seed: int) -> dict[str, NDArray[np.float32]]:
    """A with orthonormal rows, B = 0: the adapted model equals the base model.

    Rows of A are the Q factor of a Gaussian matrix, drawn from ``seed``, which is public.
    """
    rng = np.random.default_rng(seed)
    state: dict[str, NDArray[np.float32]] = {}
    for pair in spec.pairs:
        q, _ = np.linalg.qr(rng.standard_normal((pair.num_in, spec.rank)))
        state[pair.a_name] = np.ascontiguousarray(q.T, dtype=np.float32)
        state[pair.b_name] = np.zeros((pair.num_out, spec.rank), np.float32)
    return state


def to_bytes(tensors: Tensors, metadata: Mapping[str, Any]) -> bytes:
    """One safetensors file: fp32 tensors and ``metadata`` as canonical JSON in its header."""
    header = {"fedbank": json.dumps(metadata, sort_keys=True, separators=(",", ":"))}
    plain = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}
    return bytes(save(plain, metadata=header))


def from_bytes(
    content: bytes, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Tensors and metadata of bytes from outside; ``UpdateError`` unless names, shapes and dtype are ``shapes``.

    The header is checked before any tensor is built, so that the size of what is allocated is bounded by
    what was agreed. All values must be finite.
    """
    header = read_header(content)
    metadata = header.pop("__metadata__", {})
    found = {name: (entry.get("dtype"), _as_shape(entry.get("shape"))) for name, entry in header.items()}
    expected = {name: ("F32", tuple(shape)) for name, shape in shapes.items()}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise UpdateError(
            f"Expected {len(expected)} fp32 tensors of the agreed names and shapes, got {len(found)}; "
            f"the first difference is {wrong[0]!r:.160}: expected {expected.get(wrong[0])}, "
            f"got {found.get(wrong[0])!r:.80}. "
            "Nothing was used."
        )
    try:
        tensors = load(content)
        parsed = read_json(metadata["fedbank"], MAX_HEADER_BYTES)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UpdateError(f"Expected a well-formed adapter file, got: {error!s:.200}. Nothing was used.") from error
    if {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()} != _as_arrays(shapes):
        raise UpdateError("Expected the tensors that the file's header lists, got others. Nothing was used.")
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise NotFiniteError(f"Expected finite values, got NaN or infinity in {name!r}. Nothing was used.")
    return tensors, parsed


def _as_arrays(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[np.dtype[np.float32], tuple[int, ...]]]:
    return {name: (np.dtype(np.float32), tuple(shape)) for name, shape in shapes.items()}


def _as_shape(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def read_header(content: bytes) -> dict[str, dict[str, Any]]:
    """The JSON header of a safetensors file from outside; ``UpdateError`` unless it lists objects by name."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(MAX_HEADER_BYTES, len(content) - 8):
        raise UpdateError(f"Expected a safetensors header of at most {MAX_HEADER_BYTES} bytes, got {length}.")
    try:
        header = read_object(content[8 : 8 + length], MAX_HEADER_BYTES)
    except ValueError as error:
        raise UpdateError("Expected a safetensors header in JSON, got something else. Nothing was used.") from error
    if not all(isinstance(entry, dict) for entry in header.values()):
        raise UpdateError("Expected a safetensors header that lists tensors, got something else. Nothing was used.")
    return header


def digest(tensors: Tensors) -> str:
    """SHA-256 over names, shapes and values in name order, hexadecimal."""
    sha = hashlib.sha256(b"fedbank-adapter/1")
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name], "<f4")
        sha.update(f"{name}{tensor.shape}".encode())
        sha.update(tensor.data)
    return sha.hexdigest()
