"""What must hold after a bank's round: the agreed adapter moved, and nothing else did."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

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
        named = check_trainable(model)
        self._frozen = _fingerprints(named)
        # An address says whose storage it is only while that storage lives: a freed one is given out again.
        self._storages = [tensor.untyped_storage() for tensor in named.values()]

    def passed(self, change: Mapping[str, NDArray[np.float32]], last_mean_P: Sequence[Tensor]) -> None:
        """``RunError`` unless every tensor that was given a step has moved and every frozen one has not."""
        named = check_trainable(self._model)
        for (name, moved), mean in zip(change.items(), last_mean_P, strict=True):
            if not moved.any() and bool(mean.any()):
                raise RunError(
                    f"Expected training to move the adapter, got no change of {name}. The adapter is not attached to "
                    "the model that runs, or the learning rate is too small to change it; nothing was sent."
                )
        found = _fingerprints(named)
        if found != self._frozen:
            changed = sorted(name for name, mark in found.items() if self._frozen.get(name) != mark)
            raise RunError(
                f"Expected the base model to stay as it is, got a change of {changed[0] if changed else 'its parts'}. "
                "Load it again; nothing was sent."
            )
        graded = [name for name, tensor in named.items() if tensor.grad is not None]
        if graded:
            raise RunError(
                f"Expected no gradient outside the agreed adapter, got one of {graded[0]}. Nothing was sent."
            )


def _fingerprints(named: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Storage and number of in-place writes of every tensor that is not trained."""
    return {name: (tensor.data_ptr(), tensor._version) for name, tensor in named.items() if not tensor.requires_grad}
