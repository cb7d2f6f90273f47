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
from torch import Tensor

from fedbank.errors import ModelError
from fedbank.release.contents import WEIGHTS
from fedbank.release.inspection import inspect

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


def merge(base: Any, tensors: Mapping[str, Tensor], scale: float) -> Any:
    """A model of its own with the adapter's ``tensors`` merged in, times ``scale``; ``base`` stays as it is.

    Raises:
        ModelError: the adapter does not fit the base model.
    """
    names = [name.removeprefix(_PREFIX).removesuffix(_A) + ".weight" for name in tensors if name.endswith(_A)]
    adapted = {name: parameter for name, parameter in base.named_parameters() if name in set(names)}
    if len(adapted) != len(names) or 2 * len(names) != len(tensors):
        raise ModelError("Expected an adapter for layers of this base model, got one for others. Sync it again.")
    own = {id(parameter) for parameter in adapted.values()}
    shared = [one for one in (*base.parameters(), *base.buffers()) if id(one) not in own]
    model = copy.deepcopy(base, {id(one): one for one in shared})
    with torch.no_grad():
        for name in names:
            key = _PREFIX + name.removesuffix(".weight")
            _add(model.get_parameter(name), tensors[key + _A], tensors[key + _B], scale)
    return model


def _add(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> None:
    """In float32, rounded once: bfloat16 would lose an adapter that is small beside the weights."""
    if (b.shape[0], a.shape[1]) != tuple(weight.shape) or a.shape[0] != b.shape[1]:
        raise ModelError("Expected an adapter that fits this base model, got tensors of other shapes. Sync it again.")
    a, b = a.to(weight.device, torch.float32), b.to(weight.device, torch.float32)
    weight.copy_(weight.float() + scale * (b @ a))
