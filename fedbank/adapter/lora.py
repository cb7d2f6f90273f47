"""PEFT LoRA on a loaded base model: attach, read, write."""

import copy
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

from fedbank.adapter.state import AdapterSpec, LoraPair, Tensors
from fedbank.errors import ModelError

ADAPTER = "default"
"""PEFT's name for the one adapter of a model."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """What a user chooses: rank r, alpha (scale s = alpha / r), names of adapted modules, what is trained.

    ``last_layers`` adapts only that many layers nearest the output, ``None`` all of them. ``dropout`` is the chance
    of an input of A to be dropped in training.
    """

    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    trainable: str
    last_layers: int | None = None
    dropout: float = 0.0


@dataclass(slots=True)
class Shared:
    """What all replicas of a model have in common: what was found out about how it computes on this machine.

    ``verdicts`` are kept by what was tried; ``lock`` is held while something is tried.
    """

    verdicts: dict[Hashable, bool] = field(default_factory=dict)
    lock: Any = field(default_factory=RLock)
    _twin: "AdaptedModel | None" = None

    def twin(self, model: "AdaptedModel", prepare: "Callable[[AdaptedModel], None]") -> "AdaptedModel":
        """A replica of ``model`` to try things on, made once and given to ``prepare`` then."""
        with self.lock:
            if self._twin is None:
                self._twin = model.replica()
                prepare(self._twin)
            return self._twin


class AdaptedModel:
    """A base model with one LoRA adapter whose tensors can be read and set as NumPy arrays.

    ``parameters`` are the trainable ones, in the order of ``spec.trainable_shapes()``; ``lora_layers`` are PEFT's
    layers, in the order of ``spec.pairs``.
    """

    def __init__(self, model: Any, settings: LoraSettings) -> None:
        """Attach; ``model`` must already be on its device and frozen."""
        _check_base(model)
        if not 0 <= settings.dropout < 1:
            raise ModelError(f"Expected adapter.dropout from 0 to below 1, got {settings.dropout}. 0 is the default.")
        layers = _adapted_layers(model.config.num_hidden_layers, settings.last_layers)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            layers_to_transform=layers,
            r=settings.rank,
            lora_alpha=settings.alpha,
            target_modules=list(settings.target_modules),
            lora_dropout=settings.dropout,
            bias="none",
        )
        try:
            self.peft_model = get_peft_model(model, config)
        except ValueError as error:
            raise ModelError(
                "Expected adapter.target_modules to name layers of the base model, got "
                f"{list(settings.target_modules)}. "
                "Qwen layers have q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj."
            ) from error
        self.peft_model.eval()  # what PEFT adds is in training mode: its dropout would be active in every forward pass
        self.base = self.peft_model.get_base_model()
        self.dropout = settings.dropout
        adapted = {name: module for name, module in self.peft_model.named_modules() if isinstance(module, LoraLayer)}
        _check_adapted(adapted)
        self.lora_layers: tuple[Any, ...] = tuple(adapted.values())
        pairs = tuple(LoraPair(name, layer.in_features, layer.out_features) for name, layer in adapted.items())
        narrowest = min(min(pair.num_in, pair.num_out) for pair in pairs)
        if settings.rank > narrowest:
            raise ModelError(
                f"Expected adapter.rank of at most {narrowest}, the width of the narrowest adapted layer, "
                f"got {settings.rank}. Lower adapter.rank."
            )
        self.spec = AdapterSpec(
            settings.rank, settings.alpha, tuple(settings.target_modules), pairs, settings.trainable
        )
        self._parameters = self._by_name()
        trainable = self.spec.trainable_shapes()
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in trainable)
        self.parameters = tuple(self._parameters[name] for name in trainable)
        self.shared = Shared()

    def replica(self) -> "AdaptedModel":
        """Another model with an adapter of its own, equal for now; the frozen base weights are shared, not copied."""
        own = {id(parameter) for parameter in self._parameters.values()}
        frozen = [
            tensor for tensor in (*self.peft_model.parameters(), *self.peft_model.buffers()) if id(tensor) not in own
        ]
        return copy.deepcopy(self, {id(kept): kept for kept in (*frozen, self.shared)})

    def trainable_linears(self) -> list[tuple[nn.ModuleDict, nn.Linear]]:
        """The trainable LoRA layers with the container each sits in, in the order of ``parameters``."""
        found = []
        for layer in self.lora_layers:
            for container in (layer.lora_A, layer.lora_B):
                if container[ADAPTER].weight.requires_grad:
                    found.append((container, container[ADAPTER]))
        return found

    def read(self) -> dict[str, NDArray[np.float32]]:
        """A copy of all adapter tensors."""
        return {name: p.detach().float().cpu().numpy().copy() for name, p in self._parameters.items()}

    @torch.no_grad()
    def write(self, tensors: Tensors) -> None:
        """Set adapter tensors; names and shapes must be those of the spec."""
        shapes = self.spec.shapes()
        for name, tensor in tensors.items():
            if tensor.shape != shapes[name]:
                raise ValueError(f"{name}: expected shape {shapes[name]}, got {tensor.shape}")
            self._parameters[name].copy_(torch.from_numpy(np.ascontiguousarray(tensor)))

    def _by_name(self) -> dict[str, nn.Parameter]:
        parameters = {}
        for pair, layer in zip(self.spec.pairs, self.lora_layers, strict=True):
            parameters[pair.a_name] = layer.lora_A[ADAPTER].weight
            parameters[pair.b_name] = layer.lora_B[ADAPTER].weight
        return parameters


def _check_base(model: Any) -> None:
    """In fp16 gradients overflow; the scaler that is usual against it skips steps that are charged all the same."""
    if any(parameter.dtype == torch.float16 for parameter in model.parameters()):
        raise ModelError("Expected a base model in float32 or bfloat16, got float16. Set model.dtype=bfloat16.")


def _check_adapted(layers: Mapping[str, LoraLayer]) -> None:
    """Only linear layers that see records as rows: embeddings have no A, the output layer sees answer tokens."""
    for name, layer in layers.items():
        if ADAPTER not in layer.lora_A or ".layers." not in name:
            raise ModelError(
                f"Expected adapter.target_modules to name linear layers of the decoder, got {name.split('.')[-1]!r}, "
                "for which per-record gradients are not defined. "
                "Qwen layers have q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj."
            )


def _adapted_layers(num_layers: int, last_layers: int | None) -> list[int] | None:
    if last_layers is None:
        return None
    if not 1 <= last_layers <= num_layers:
        raise ModelError(
            f"Expected adapter.last_layers from 1 to {num_layers}, the base model's layers, got {last_layers}. "
            "Leave it empty to adapt all layers."
        )
    return list(range(num_layers - last_layers, num_layers))
