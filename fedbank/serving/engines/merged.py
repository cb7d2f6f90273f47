"""A base model with a release's adapter merged in: W + (alpha / r) B A (Hu et al. 2021, arXiv:2106.09685, section 4.1).

Every copy shares the weights that its adapter does not touch with the base model, so that a second release beside the
stable one costs what its adapted layers weigh. It runs at the base model's speed; an adapter that stays unmerged adds
two small products to each adapted layer of every step, and rows of different releases could not share one anyway
without kernels of their own.
"""

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fedbank.errors import ModelError
from fedbank.release.contents import WEIGHTS
from fedbank.release.inspection import inspect
from fedbank.serving.engines.kernels import Linear
from fedbank.serving.engines.originals import Originals

_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


def read_adapter(folder: Path, base: str) -> tuple[dict[str, Tensor], float]:
    """A release's tensors and their scale alpha / r, inspected anew. ``base``: digest of the base model served.

    Raises:
        ReleaseError: the folder is not exactly a release.
        ModelError: it is for another base model, or changed while it was read.
    """
    inspected = inspect(folder)
    expected = inspected.manifest.base["digest"]
    if expected != base:
        raise ModelError(
            f"Expected a release for the base model that is served, {base[:16]}, got one for {expected[:16]} "
            f"({inspected.manifest.base['name']}). Serve that base model, or another release."
        )
    try:
        content = (folder / WEIGHTS).read_bytes()
        if hashlib.sha256(content).hexdigest() != inspected.hashes[WEIGHTS]:
            raise ModelError(
                f"Expected the weights that were inspected in {folder}, got others. Sync the release again."
            )
        about = inspected.manifest.adapter
        return safetensors.torch.load(content), float(about["alpha"]) / about["rank"]
    except (OSError, SafetensorError) as error:
        raise ModelError(f"Expected readable weights in {folder}, got none. Sync the release again.") from error


def merge(base: Any, tensors: Mapping[str, Tensor], scale: float, originals: Originals | None = None) -> Any:
    """A model of its own with the adapter's ``tensors`` merged in, times ``scale``; ``base`` stays as it is.

    ``originals``: what the layers of ``base`` were made of, if they are ours.

    Raises:
        ModelError: the adapter does not fit the base model.
    """
    names = [name.removeprefix(_PREFIX).removesuffix(_A) for name in tensors if name.endswith(_A)]
    linear: dict[str, Any] = {name: one for name, one in base.named_modules() if isinstance(one, nn.Linear | Linear)}
    adapted = {name: linear[name] for name in names if name in linear}
    if len(adapted) != len(names) or 2 * len(names) != len(tensors):
        raise ModelError("Expected an adapter for layers of this base model, got one for others. Sync it again.")
    model = copy.deepcopy(base, {id(one): one for one in (*base.parameters(), *base.buffers())})
    with torch.no_grad():
        for name, layer in adapted.items():
            a, b = (tensors[_PREFIX + name + end] for end in (_A, _B))
            if originals is None:
                made: nn.Module = _like(layer, _sum(layer.weight.float(), a, b, scale))
            else:
                made = originals.layer(name, _sum(originals.read(name), a, b, scale), layer.bias)
            model.set_submodule(name, made)
    return model


def _sum(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """In float32, rounded once: bfloat16 would lose an adapter that is small beside the weights."""
    if (b.shape[0], a.shape[1]) != tuple(weight.shape) or a.shape[0] != b.shape[1]:
        raise ModelError("Expected an adapter that fits this base model, got tensors of other shapes. Sync it again.")
    a, b = a.to(weight.device, torch.float32), b.to(weight.device, torch.float32)
    return weight + scale * (b @ a)


def _like(layer: Any, weight: Tensor) -> nn.Linear:
    """A layer of torch's as ``layer``, its bias shared, with ``weight``."""
    made = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    made.weight = nn.Parameter(weight.to(layer.weight.dtype), requires_grad=False)
    made.bias = layer.bias
    return made.eval()
