"""A base model's weights as its files have them: what a layer is made of, and made of again when a release is merged.

A quantised layer cannot take an adapter in: the sum of the original and the adapter is what is quantised. The originals
stay on disk rather than in memory, and whatever is read again must be what was read first.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fedbank.errors import ModelError
from fedbank.serving.engines.kernels import Linear, layer_of
from fedbank.serving.engines.plan import Precision

_OUTPUT, _EMBEDDING = "lm_head", "model.embed_tokens"


class Originals:
    """The weights in the files of ``folder``, for layers in ``precision``."""

    def __init__(self, folder: Path, precision: Precision) -> None:
        self._precision = precision
        self._seen: dict[str, bytes] = {}
        self._files: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with _opened(path) as file:
                self._files |= dict.fromkeys(file.keys(), path)

    def read(self, layer: str) -> Tensor:
        """A linear layer's weight as float32.

        Raises:
            ModelError: there is none, or it is no longer what it was.
        """
        name = layer + ".weight"
        if layer == _OUTPUT and name not in self._files:
            name = _EMBEDDING + ".weight"  # tied
        if name not in self._files:
            raise ModelError("Expected the weights of every layer in the model's folder, got none of some. Copy it.")
        with _opened(self._files[name]) as file:
            tensor: Tensor = file.get_tensor(name)
        found = hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().data).digest()
        if self._seen.setdefault(name, found) != found:
            raise ModelError(
                f"Expected the base model's weights in {self._files[name].parent} as they were, got others. Start the "
                "service again: it verifies them."
            )
        return tensor.float()

    def moved(self, folder: Path) -> None:
        """From now on the same files are read in ``folder``; what was read before must be the same there."""
        self._files = {name: folder / path.name for name, path in self._files.items()}

    def layer(self, name: str, weight: Tensor, bias: Tensor | None) -> Linear:
        """The layer ``name`` with ``weight`` (float32) instead of its own."""
        return layer_of(weight, bias, self._precision, output=name == _OUTPUT)

    def use_in(self, model: Any) -> None:
        """Put such a layer in the place of every linear layer of ``model``, one after the other."""
        layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        for name, module in layers:
            model.set_submodule(name, self.layer(name, self.read(name), module.bias))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ModelError(f"Expected readable weights in {path}, got none. Copy the model again.") from error
