"""What a base model's folder says without loading it: its digest and the shapes that an adapter needs. No torch.

The coordinator handles adapters only, but must know their shapes; a bank must know that its base model is the one that
was agreed on, to the byte.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fedbank.errors import ModelError

_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The adaptable layers of a Qwen block, in the order in which they run."""
_WEIGHT = re.compile(r"(model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+))\.weight")
_CONFIGURATION = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""Beside the weights, what decides what the model computes from a text."""
_MAX_HEADER_BYTES = 64 << 20


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
    """SHA-256 over names and SHA-256 of the weights, configuration and tokenizer in ``folder``.

    Two folders with the same digest compute the same; documentation and generation settings do not count.

    Raises:
        ModelError: a file is missing or cannot be read.
    """
    total = hashlib.sha256(b"fedbank-base-model/1\n")
    for name, found in file_digests(folder).items():
        total.update(f"{name} {found}\n".encode())
    return total.hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that ``base_digest`` counts, by name; raises as it does."""
    named = [folder / name for name in _CONFIGURATION if (folder / name).is_file()]
    found = {}
    try:
        for path in sorted([*named, *_shards(folder)]):
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(folder, error) from error
    return found


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
    for shard in _shards(folder):
        for name, entry in _header(shard).items():
            matched = _WEIGHT.fullmatch(name)
            if matched and matched[3] in _MODULES:
                num_out, num_in = entry["shape"]
                yield LinearLayer(matched[1], int(matched[2]), matched[3], num_in, num_out)


def _shards(folder: Path) -> list[Path]:
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise ModelError(
            f"Expected weights (*.safetensors) in {folder}, got none. Set model.path to the folder of a Qwen model."
        )
    return shards


def _header(shard: Path) -> dict[str, dict[str, list[int]]]:
    """The header of a safetensors file: 8 bytes of length, little-endian, and as much JSON."""
    try:
        with shard.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(_MAX_HEADER_BYTES, shard.stat().st_size - 8):
                raise ModelError(f"Expected a safetensors header in {shard}, got something else. Copy the file again.")
            header: dict[str, dict[str, list[int]]] = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(shard, error) from error
    return header


def _unreadable(path: Path, error: Exception) -> ModelError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged"
    return ModelError(f"Expected to read the base model at {path}, got: {reason}. Copy the model again.")
