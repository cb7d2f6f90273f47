"""One bank, one round: a fixed public number of steps on Poisson samples of its customers.

Every step is sample → per-customer gradients → clip → sum → noise → optimizer; which of these protect and how
much is the plan's business. After the last step the round is checked: what should have moved has, nothing else did.
P trainable parameters.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.state import Released, Tensors
from fedbank.data.encode import EncodedUnits
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import TrainingPlan
from fedbank.training.checks import RoundCheck, check_releases
from fedbank.training.clipped import sum_of_step
from fedbank.training.settings import LocalSettings
from fedbank.training.unit_engine import unit_engine

__all__ = ["LocalSettings", "train_round"]


def train_round(
    model: AdaptedModel,
    data: EncodedUnits,
    plan: TrainingPlan,
    settings: LocalSettings,
    start: Tensors,
    *,
    stream: RandomStream,
    device: torch.device,
    on_step: Callable[[int], None] = lambda done: None,
) -> Released:
    """The change of the trainable tensors after ``settings.num_steps`` steps from the global adapter ``start``.

    ``stream`` supplies the sample, the noise and the dropout masks. The result is private under ``plan`` and may
    leave the bank. ``on_step`` gets the number of steps that are done, for whoever watches. ``RunError`` if the round
    trained anything else than the agreed adapter, or not that, or if not every step had its noise exactly once.
    """
    model.write(start)
    check, before = RoundCheck(model), len(stream.releases)
    optimizer = _optimizer(model.parameters, settings)
    mask_seed = int(stream.uniform(1)[0] * 2**52) if model.dropout else None
    with unit_engine(model, settings.per_example, device, mask_seed) as engine:
        for step in range(settings.num_steps):
            chosen = plan.sampling.draw(data.records_per_unit(), stream)
            total = sum_of_step(engine, data, chosen, plan, settings.micro_batch, step)
            mean_P = plan.release(total, stream)
            for parameter, gradient in zip(model.parameters, mean_P, strict=True):
                parameter.grad = gradient.to(parameter)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            on_step(step + 1)
    end = model.read()
    change = {name: end[name] - start[name] for name in model.spec.trainable_shapes()}
    check.passed(change, mean_P)
    coordinates = sum(parameter.numel() for parameter in model.parameters)
    check_releases(stream.releases[before:], plan.private, settings.num_steps, coordinates)
    return Released(change)


def _optimizer(parameters: Sequence[Tensor], settings: LocalSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.Adam(parameters, lr=settings.learning_rate)
