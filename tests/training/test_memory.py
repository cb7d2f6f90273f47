"""What per-customer gradients cost in memory, where they outweigh everything else."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fedbank.adapter.lora import AdaptedModel
from fedbank.data.encode import EncodedUnits
from fedbank.training.batches import collate
from fedbank.training.loss import record_losses
from fedbank.training.per_example import RecordGroups, per_record_gradients
from simulations.benchmarks.memory import peak_bytes

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize("counts", [[1] * 24, [3] * 8, [1, 1, 2, 2, 2, 4, 6, 6]], ids=["one", "even", "ragged"])
def test_extra_memory_is_one_fp32_gradient_per_customer(
    make_model: Callable[..., AdaptedModel], make_units: Callable[..., EncodedUnits], counts: list[int]
) -> None:
    """The gradients of single records never exist at once, however many records a customer has."""
    model, data = make_model("qwen3", "AB", rank=8, targets=TARGETS), make_units([1] * sum(counts))
    batch = collate(data, range(sum(counts)), [1.0] * sum(counts), torch.device("cpu"))
    groups = RecordGroups(tuple(int(unit) for unit in np.repeat(np.arange(len(counts)), counts)), len(counts))

    def plain() -> None:
        record_losses(model.base, batch).sum().backward()
        for parameter in model.parameters:
            parameter.grad = None

    def ours() -> None:
        gradients.begin(groups)
        record_losses(model.base, batch).sum().backward()
        gradients.take()

    plain()
    without = peak_bytes(plain)
    with per_record_gradients(model) as gradients:
        ours()
        extra = peak_bytes(ours) - without
    trainable = sum(parameter.numel() for parameter in model.parameters)
    assert extra <= 1.05 * len(counts) * trainable * 4
