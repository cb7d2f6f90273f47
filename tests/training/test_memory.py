"""What per-customer gradients cost in memory."""

import numpy as np
import pytest
import torch

from fedbank.training.per_example import DirectGradients, RecordGroups, _Collected, _MicroBatch
from simulations.benchmarks.memory import peak_bytes


@pytest.mark.parametrize(
    ("counts", "copies"),
    [([1] * 24, 1), ([3] * 8, 1), ([1, 1, 2, 2, 2, 4, 6, 6], 2)],
    ids=["one", "even", "ragged"],
)
def test_a_layer_holds_one_gradient_per_customer_however_many_records_it_has(counts: list[int], copies: int) -> None:
    """Ragged customers are joined at the end: two copies, of this one layer, for a moment."""
    batch = _MicroBatch()
    collected = _Collected(batch)
    units = tuple(int(unit) for unit in np.repeat(np.arange(len(counts)), counts))
    DirectGradients(["layer"], [collected], batch).begin(RecordGroups(units, len(counts)))
    g_NTO, x_NTI = torch.randn(sum(counts), 2, 100), torch.randn(sum(counts), 2, 200)
    assert peak_bytes(lambda: collected.add(g_NTO, x_NTI)) <= copies * 1.05 * len(counts) * 100 * 200 * 4
