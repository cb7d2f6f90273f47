"""What must hold after a bank's round: the agreed adapter moved, nothing else did, and every step had its noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, UntypedStorage

from fedbank.adapter.lora import AdaptedModel
from fedbank.errors import RunError
from fedbank.training.engines import check_trainable


class RoundCheck:
    """Taken before the first step, asked after the last; both in microseconds per tensor.

    Frozen tensors are known by their storage and by PyTorch's count of in-place writes: a write that hides from that
    count (through ``.data``) is not seen.
    """

    def __init__(self, model: AdaptedModel) -> None:
        """Refuse a model that could not train exactly the agreed adapter."""
        self._model = model
        self._frozen = {name: _Mark.of(tensor) for name, tensor in _frozen(model, check_trainable(model)).items()}

    def passed(self, change: Mapping[str, NDArray[np.float32]], last_mean_P: Sequence[Tensor]) -> None:
        """``RunError`` unless every tensor that was given a step has moved and every frozen one has not."""
        named = check_trainable(self._model)
        for (name, moved), mean in zip(change.items(), last_mean_P, strict=True):
            if not moved.any() and bool(mean.any()):
                raise RunError(
                    f"Expected training to move the adapter, got no change of {name}. The adapter is not attached to "
                    "the model that runs, or the learning rate is too small to change it; nothing was sent."
                )
        frozen = _frozen(self._model, named)
        changed = sorted(
            name for name, mark in self._frozen.items() if name not in frozen or mark.differs(frozen[name])
        )
        if changed or len(frozen) != len(self._frozen):
            raise RunError(
                f"Expected the base model to stay as it is, got a change of {changed[0] if changed else 'its parts'}. "
                "Load it again; nothing was sent."
            )
        graded = [name for name, tensor in named.items() if tensor.grad is not None]
        if graded:
            raise RunError(
                f"Expected no gradient outside the agreed adapter, got one of {graded[0]}. Nothing was sent."
            )


def check_releases(releases: Sequence[int], private: bool, num_steps: int, coordinates: int) -> None:
    """``RunError`` unless noise was added once in every agreed step, each time to all ``coordinates``.

    ``releases`` is what the round's stream counted (``RandomStream.releases``); without privacy it must be nothing.
    """
    expected = [coordinates] * (num_steps if private else 0)
    if list(releases) != expected:
        raise RunError(
            f"Expected {len(expected)} releases of noise on {coordinates} values each, as the plan charges, got "
            f"{len(releases)} on {sorted(set(releases))} values. This version of FedBank is damaged: install it "
            "again. Nothing was sent."
        )


@dataclass(frozen=True, slots=True)
class _Mark:
    """What a frozen tensor's values lay in, and how often they had been written to in place.

    The storage itself, not its address: a freed address is given out again.
    """

    storage: UntypedStorage
    writes: int

    @classmethod
    def of(cls, tensor: Tensor) -> "_Mark":
        return cls(tensor.untyped_storage(), tensor._version)

    def differs(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage() is not self.storage or tensor._version != self.writes


def _frozen(model: AdaptedModel, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters that are not trained, and buffers: what a layer remembers of one customer would reach the others."""
    frozen = {name: tensor for name, tensor in named.items() if not tensor.requires_grad}
    return frozen | dict(model.peft_model.named_buffers())
