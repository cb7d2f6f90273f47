"""The coordinator's optimizer: the banks' average change taken as a gradient (Reddi et al. 2021, Alg. 2).

State and settings are plain values, so a step can be stored with the round it belongs to. NumPy only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedbank.adapter.state import Tensors

STEPS = ("mean", "momentum", "adam")
"""Every kind of server step."""


@dataclass(frozen=True, slots=True)
class ServerStep:
    """``mean``: x += η·Δ; ``momentum``: m = β₁m + Δ, x += η·m; ``adam``: FedAdam with adaptivity τ."""

    kind: str = "mean"
    learning_rate: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3


@dataclass(frozen=True, slots=True)
class StepState:
    """First and second moments by tensor name; empty before the first step and for ``mean``."""

    first: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    second: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def rotated(self, rotations: Mapping[str, NDArray[np.float64]]) -> "StepState":
        """The moments after B ← B·R: exact for the first, R∘R (independent coordinates) for the second."""
        first = {n: (m @ rotations[n]).astype(np.float32) if n in rotations else m for n, m in self.first.items()}
        second = {
            n: (v @ rotations[n] ** 2).astype(np.float32) if n in rotations else v for n, v in self.second.items()
        }
        return StepState(first, second)


def apply_step(
    step: ServerStep, state: StepState, adapter: Tensors, change: Tensors
) -> tuple[dict[str, NDArray[np.float32]], StepState]:
    """The adapter after one server step with the average ``change``, and the step's new state."""
    updated = dict(adapter)
    first, second = dict(state.first), dict(state.second)
    for name, delta in change.items():
        direction: NDArray[np.float32] = delta
        if step.kind == "momentum":
            first[name] = direction = step.beta1 * first.get(name, np.zeros_like(delta)) + delta
        elif step.kind == "adam":
            first[name] = step.beta1 * first.get(name, np.zeros_like(delta)) + (1 - step.beta1) * delta
            second[name] = step.beta2 * second.get(name, np.zeros_like(delta)) + (1 - step.beta2) * delta**2
            direction = (first[name] / (np.sqrt(second[name]) + step.tau)).astype(np.float32)
        updated[name] = (adapter[name] + step.learning_rate * direction).astype(np.float32)
    return updated, StepState(first, second)
