"""What a base model's folder says without loading it: its digest and the shapes that an adapter needs. No torch.

The coordinator handles adapters only, but must know their shapes; a bank must know that its base model is the one that
was agreed on, to the byte.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from fedbank.errors import ModelError
from fedbank.model.contents import counted_names
from fedbank.model.reading import opened, unreadable
from fedbank.model.settings import check_settings
from fedbank.model.weights import tensors

_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The adaptable layers of a Qwen block, in the order in which they run."""
_WEIGHT = re.compile(r"(model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+))\.weight")


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """A linear layer by its ``name`` in the model: ``module`` of block number ``block``, weight (num_out, num_in)."""

    name: str
    block: int
    module: str
    num_in: int
    num_out: int


def tiny_folder() -> Path:
    """Where the model is that ships with FedBank."""
    return Path(str(files("fedbank") / "assets" / "tiny_qwen3"))


def base_digest(folder: Path) -> str:
    """SHA-256 over names and SHA-256 of every file in ``folder`` that a loader acts on.

    Two folders with the same digest compute the same; documentation does not count, anything else is refused.

    Raises:
        ModelError: a file is missing or cannot be read, or is none that may be in a base model's folder.
    """
    return digest_of(file_digests(folder))


def digest_of(files: Mapping[str, str]) -> str:
    """The base model's digest from the SHA-256 of each of its ``files`` (``file_digests``)."""
    total = hashlib.sha256(b"fedbank-base-model/1\n")
    for name in sorted(files):
        total.update(f"{name} {files[name]}\n".encode())
    return total.hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that ``base_digest`` counts, by name; raises as it does."""
    found = {}
    for name in counted_names(folder):
        try:
            with opened(folder / name) as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise unreadable(folder, error) from error
    check_contents(folder)
    return found


def check_contents(folder: Path) -> None:
    """Refuse a base model that leads a loader out of its ``folder``, or holds a tensor twice.

    Raises:
        ModelError: names what is wrong and what to do.
    """
    check_settings(folder)
    tensors(folder)


def adaptable_layers(
    folder: Path, target_modules: tuple[str, ...], last_layers: int | None = None
) -> tuple[LinearLayer, ...]:
    """The layers named ``target_modules`` of all blocks or the ``last_layers`` nearest the output, in running order.

    Raises:
        ModelError: the folder holds no such layers.
    """
    found = {(layer.block, layer.module): layer for layer in _linear_layers(folder)}
    blocks = sorted({block for block, _ in found})
    if last_layers is not None:
        if not 1 <= last_layers <= len(blocks):
            raise ModelError(
                f"Expected adapter.last_layers from 1 to {len(blocks)}, the base model's layers, got {last_layers}. "
                "Leave it empty to adapt all layers."
            )
        blocks = blocks[-last_layers:]
    wanted = [(block, module) for block in blocks for module in _MODULES if module in target_modules]
    layers = tuple(found[place] for place in wanted if place in found)
    if not layers:
        raise ModelError(f"Expected layers named {', '.join(target_modules)} in the model at {folder}, got none.")
    return layers


def _linear_layers(folder: Path) -> Iterator[LinearLayer]:
    """Every adaptable layer, from the headers of the weight files."""
    for name, entry in tensors(folder).items():
        matched = _WEIGHT.fullmatch(name)
        if matched and matched[3] in _MODULES:
            num_out, num_in = _sizes(folder, name, entry)
            yield LinearLayer(matched[1], int(matched[2]), matched[3], num_in, num_out)


def _sizes(folder: Path, name: str, entry: Any) -> tuple[int, int]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if isinstance(shape, list) and len(shape) == 2 and all(type(size) is int and size > 0 for size in shape):
        return shape[0], shape[1]
    raise ModelError(f"Expected {name} in {folder} to be a matrix, got something else. Copy the model again.")
