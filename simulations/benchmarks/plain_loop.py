"""Per-customer gradients and rounds by the plainest means: one record, one forward and one backward pass at a time.

Nothing of the engines but the dropout masks: PEFT's own layers, no batches, no padding, fp64 sums. U customers, P
trainable parameters. What the engines are compared with, in tests and in the table of ``exactness``.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.state import Tensors
from fedbank.data.encode import EncodedUnits
from fedbank.privacy.clipping import ClippedSum, clip_and_sum
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import Sampling, TrainingPlan
from fedbank.training.batches import shape_of
from fedbank.training.dropout import DropoutMasks, record_dropout


class WithoutNoise:
    """A plan for measuring: all customers with all records, clipped, neither noised nor rounded.

    Keeps what it was given to clip; the divisor is no possible number of customers.
    """

    private = False

    def __init__(self, clip_norm: float, records_per_customer: int, divisor: float = 6.5) -> None:
        self.sampling = Sampling(1.0, divisor, records_per_customer, 1_000)
        self.clip_norm = clip_norm
        self._given: list[Tensor] = []

    def clip(self, grads_UP: Sequence[Tensor]) -> ClippedSum:
        """Clip; remember the gradients."""
        self._given.append(torch.cat([grad.flatten(1) for grad in grads_UP], dim=1))
        return clip_and_sum(grads_UP, self.clip_norm)

    def release(self, total: ClippedSum, stream: RandomStream) -> tuple[Tensor, ...]:
        """The clipped sum over the divisor."""
        return tuple(tensor / self.sampling.expected_batch_size for tensor in total.tensors)

    def digest(self) -> str:
        """Nobody agrees to it."""
        return ""

    def guarantee(self) -> str:
        """There is none."""
        return "NONE: for measuring only."

    def gradients(self) -> Tensor:
        """(U, P) of all micro-batches, in their order."""
        return torch.cat(self._given)


def mask_seed(stream: RandomStream) -> int:
    """What a round with dropout draws first."""
    return int(stream.uniform(1)[0] * 2**52)


def order(data: EncodedUnits) -> list[int]:
    """All customers as a round takes them: those of one shape together."""
    return sorted(range(data.num_units), key=lambda unit: shape_of(data, np.asarray(records_of(data, unit))))


def records_of(data: EncodedUnits, unit: int) -> range:
    """The numbers of one customer's records."""
    return range(int(data.unit_starts[unit]), int(data.unit_starts[unit + 1]))


def customer_gradient(model: AdaptedModel, data: EncodedUnits, records: Sequence[int], masks: Any, step: int) -> Tensor:
    """(P,): the mean over ``records`` of the gradient of each one's mean cross-entropy per answer token."""
    mean = torch.zeros(sum(parameter.numel() for parameter in model.parameters), dtype=torch.float64)
    for record in records:
        tokens = torch.from_numpy(data.record(record).astype(np.int64))[None]
        masks.begin(step, [record], [tokens.shape[1]])
        logits, first = model.base(input_ids=tokens).logits[0].float(), int(data.answer_offsets[record])
        loss = nn.functional.cross_entropy(logits[first - 1 : -1], tokens[0, first:])
        grads = torch.autograd.grad(loss, model.parameters)
        mean += torch.cat([grad.flatten() for grad in grads]).double() / len(records)
    return mean


def customer_gradients(model: AdaptedModel, data: EncodedUnits, dropout: float, stream: RandomStream) -> Tensor:
    """(U, P) of all customers with all their records, in the first step of a round."""
    masks = DropoutMasks(dropout, mask_seed(stream))
    with record_dropout(model, masks):
        return torch.stack(
            [customer_gradient(model, data, records_of(data, unit), masks, 0) for unit in range(data.num_units)]
        )


def step_change(grads_UP: Tensor, plan: WithoutNoise, learning_rate: float) -> Tensor:
    """(P,) what one SGD step with ``plan`` adds to the adapter."""
    coefficient_U = (plan.clip_norm / grads_UP.norm(dim=1, keepdim=True)).clamp(max=1.0)
    return -learning_rate * (grads_UP * coefficient_U).sum(0) / plan.sampling.expected_batch_size


def loop_round(
    model: AdaptedModel, data: EncodedUnits, plan: TrainingPlan, steps: int, rate: float, start: Tensors, stream: Any
) -> dict[str, NDArray[np.float32]]:
    """What ``train_round`` does with SGD, one record at a time; same sample, noise and masks from the same stream."""
    model.write(start)
    masks = DropoutMasks(model.dropout, mask_seed(stream) if model.dropout else 0)
    with record_dropout(model, masks):
        for step in range(steps):
            chosen = plan.sampling.draw(data.records_per_unit(), stream)
            rows = [
                customer_gradient(model, data, (data.unit_starts[unit] + records).tolist(), masks, step).float()
                for unit, records in chosen
            ]
            rows = rows or [torch.zeros(0)]
            released = plan.release(plan.clip(_split(torch.stack(rows), model.parameters)), stream)
            with torch.no_grad():
                for parameter, mean in zip(model.parameters, released, strict=True):
                    parameter.sub_(rate * mean)
    end = model.read()
    return {name: end[name] - start[name] for name in model.spec.trainable_shapes()}


def _split(grads_UP: Tensor, parameters: Iterable[Tensor]) -> list[Tensor]:
    shapes = [parameter.shape for parameter in parameters]
    parts = torch.split(grads_UP, [shape.numel() for shape in shapes], dim=1)
    return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
