"""What a base model's folder says without loading it: its digest and the shapes that an adapter needs. No torch.

The coordinator handles adapters only, but must know their shapes; a bank must know that its base model is the one that
was agreed on, to the byte.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from fedbank.adapter.state import AdapterSpec, LoraPair
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
    named = [folder / name for name in _CONFIGURATION if (folder / name).is_file()]
    try:
        for path in sorted([*named, *_shards(folder)]):
            with path.open("rb") as file:
                total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    except OSError as error:
        raise _unreadable(folder, error) from error
    return total.hexdigest()


def adapter_spec(
    folder: Path,
    rank: int,
    alpha: float,
    target_modules: tuple[str, ...],
    trainable: str,
    last_layers: int | None = None,
) -> AdapterSpec:
    """The adapter that PEFT would attach to the model in ``folder``: same tensors, same order.

    Raises:
        ModelError: the folder holds no such layers.
    """
    found = dict(_linear_layers(folder))
    layers = sorted({number for number, _ in found})
    if last_layers is not None:
        if not 1 <= last_layers <= len(layers):
            raise ModelError(
                f"Expected adapter.last_layers from 1 to {len(layers)}, the base model's layers, got {last_layers}. "
                "Leave it empty to adapt all layers."
            )
        layers = layers[-last_layers:]
    pairs = tuple(
        found[layer, module]
        for layer in layers
        for module in _MODULES
        if module in target_modules and (layer, module) in found
    )
    if not pairs:
        raise ModelError(f"Expected layers named {', '.join(target_modules)} in the model at {folder}, got none.")
    narrowest = min(min(pair.num_in, pair.num_out) for pair in pairs)
    if rank > narrowest:
        raise ModelError(
            f"Expected adapter.rank of at most {narrowest}, the width of the narrowest adapted layer, got {rank}. "
            "Lower adapter.rank."
        )
    return AdapterSpec(rank, alpha, target_modules, pairs, trainable)


def _linear_layers(folder: Path) -> Iterator[tuple[tuple[int, str], LoraPair]]:
    """Number and name of every adaptable layer with its sizes, from the headers of the weight files."""
    for shard in _shards(folder):
        for name, entry in _header(shard).items():
            matched = _WEIGHT.fullmatch(name)
            if matched and matched[3] in _MODULES:
                num_out, num_in = entry["shape"]
                yield (int(matched[2]), matched[3]), LoraPair(f"base_model.model.{matched[1]}", num_in, num_out)


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
