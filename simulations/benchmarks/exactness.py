"""Both engines against a plain loop over single records: gradients, steps and whole private rounds.

Customers have 1 to 20 records of ragged lengths. ``error_*``: the largest relative L2 distance from the loop, over
customers before clipping (``gradients``) or of the change of the adapter by one step (``step``), and over micro-batches
of 1, 2, 7 and all customers. The target in fp32 is at most 1e-5. In bf16 the loop is as inexact as what is compared
with it: ``loop_bf16_error`` is its own distance from the loop in fp32. ``null``: the engine refuses.

``trained``: rounds of several steps with the same sample, noise and masks; the distance between the changes of the
adapter, relative to the loop's. Under a private plan most of the change is noise, the same on both sides, so the lines
``without noise`` say more.
"""

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from fedbank.adapter.lora import AdaptedModel, LoraSettings
from fedbank.adapter.state import initial_state
from fedbank.data.encode import EncodedUnits
from fedbank.errors import ModelError
from fedbank.model.loading import enable_checkpointing, load_base_model
from fedbank.model.spec import ModelSpec
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan, Sampling, TrainingPlan
from fedbank.training.engines import ENGINES
from fedbank.training.local import LocalSettings, train_round
from simulations.benchmarks.harness import publish
from simulations.benchmarks.plain_loop import WithoutNoise, customer_gradients, loop_round, order, step_change

CUSTOMERS = (1, 2, 20, 3, 1, 1, 2, 4)
MICRO_BATCHES = (1, 2, 7, len(CUSTOMERS))
CLIP_NORM, RATE, STEPS = 1.0, 100.0, 5
CPU = torch.device("cpu")


def make_data(vocabulary: int) -> EncodedUnits:
    """Customers with records of 6 to 45 random tokens."""
    rng = np.random.default_rng(0)
    answers, prompts = rng.integers(1, 16, sum(CUSTOMERS)), rng.integers(5, 30, sum(CUSTOMERS))
    starts = np.concatenate([[0], np.cumsum(answers + prompts)]).astype(np.int64)
    units = np.concatenate([[0], np.cumsum(CUSTOMERS)]).astype(np.int64)
    tokens = rng.integers(4, vocabulary, starts[-1]).astype(np.int32)
    return EncodedUnits(tokens, starts, prompts.astype(np.int32), units)


def make_model(kind: str, trainable: str, dtype: str, dropout: float, checkpointing: str) -> AdaptedModel:
    """The tiny Qwen3 of the package, or a Qwen2 of its size with random weights; B is not zero, so A has a gradient."""
    base = load_base_model(ModelSpec("tiny", device="cpu")).model
    if kind == "qwen2":
        shared = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        sizes = {name: getattr(base.config, name) for name in (*shared, "num_key_value_heads", "pad_token_id")}
        torch.manual_seed(0)
        base = Qwen2ForCausalLM(Qwen2Config(**sizes, initializer_range=0.1)).requires_grad_(False).eval()
    base.to(getattr(torch, dtype))
    enable_checkpointing(base, checkpointing)
    model = AdaptedModel(base, LoraSettings(8, 16.0, ("q_proj", "v_proj", "down_proj"), trainable, dropout=dropout))
    rng = np.random.default_rng(0)
    state = initial_state(model.spec, seed=0)
    model.write(
        {
            name: rng.normal(0, 0.1, tensor.shape).astype(np.float32) if "lora_B" in name else tensor
            for name, tensor in state.items()
        }
    )
    return model


@cache
def by_loop(kind: str, trainable: str, dtype: str, dropout: float) -> Tensor:
    """(U, P) of all customers."""
    model = make_model(kind, trainable, dtype, 0.0, "none")
    return customer_gradients(model, make_data(model.base.config.vocab_size), dropout, RandomStream.derived("masks"))


def relative(ours: Tensor, reference: Tensor) -> float:
    """The largest relative L2 distance of a row."""
    return float(((ours.double() - reference).norm(dim=-1) / reference.norm(dim=-1)).max())


def errors(engine: str, case: tuple[str, str, str, float], checkpointing: str) -> tuple[float, float] | None:
    """Of gradients and of the step, over all micro-batches; ``None`` if the engine refuses."""
    model, reference = make_model(*case, checkpointing), by_loop(*case)
    data, start, worst = make_data(model.base.config.vocab_size), model.read(), (0.0, 0.0)
    for micro_batch in MICRO_BATCHES:
        plan = WithoutNoise(CLIP_NORM, max(CUSTOMERS))
        settings = LocalSettings(1, RATE, "sgd", micro_batch=micro_batch, per_example=engine)
        try:
            change = train_round(model, data, plan, settings, start, stream=RandomStream.derived("masks"), device=CPU)
        except ModelError:
            return None
        flat = torch.cat([torch.from_numpy(tensor).flatten() for tensor in change.values()])
        expected = reference[order(data)]
        found = relative(plan.gradients(), expected), relative(flat, step_change(reference, plan, RATE))
        worst = max(worst[0], found[0]), max(worst[1], found[1])
    return worst


def gradient_lines() -> Iterator[dict[str, Any]]:
    """One line per model, trained part, precision, dropout and checkpointing mode."""
    parts = product(("qwen2", "qwen3"), ("B", "AB"), ("float32", "bfloat16"), (0.0, 0.1))
    for case, checkpointing in product(parts, ("none", "reentrant", "non-reentrant")):
        kind, trainable, dtype, dropout = case
        line: dict[str, Any] = {
            "model": kind,
            "trainable": trainable,
            "dtype": dtype,
            "dropout": dropout,
            "checkpointing": checkpointing,
        }
        for engine in ENGINES:
            found = errors(engine, case, checkpointing)
            for what, error in zip(("gradients", "step"), found or (None, None), strict=True):
                line[f"error_{engine}_{what}"] = None if error is None else float(f"{error:.1e}")
        if dtype == "bfloat16":
            exact = by_loop(kind, trainable, "float32", dropout)
            line["loop_bf16_error"] = float(f"{relative(by_loop(*case), exact):.1e}")
        yield line


def training_lines() -> Iterator[dict[str, Any]]:
    """Whole rounds with each engine."""
    plans: dict[str, TrainingPlan] = {
        "private": PrivacyPlan.with_noise(Sampling(0.6, 5.0, 4, STEPS), 1.0, CLIP_NORM, 1e-5),
        "without noise": WithoutNoise(CLIP_NORM, max(CUSTOMERS)),
    }
    for (name, plan), kind, dropout in product(plans.items(), ("qwen2", "qwen3"), (0.0, 0.1)):
        model = make_model(kind, "AB", "float32", dropout, "none")
        data, start = make_data(model.base.config.vocab_size), model.read()
        reference = loop_round(model, data, plan, STEPS, 0.1, start, RandomStream.derived("round"))
        line: dict[str, Any] = {
            "trained": f"{STEPS} steps, {name}",
            "model": kind,
            "trainable": "AB",
            "dropout": dropout,
        }
        for engine in ENGINES:
            settings = LocalSettings(STEPS, 0.1, "sgd", micro_batch=3, per_example=engine)
            change = train_round(model, data, plan, settings, start, stream=RandomStream.derived("round"), device=CPU)
            apart = sum(float(np.square(change[name] - reference[name]).sum()) for name in change) ** 0.5
            length = sum(float(np.square(tensor).sum()) for tensor in reference.values()) ** 0.5
            line[f"error_{engine}"] = float(f"{apart / length:.1e}")
        yield line


def compare() -> Iterator[dict[str, Any]]:
    """The rounds, then the table of gradients."""
    torch.set_num_threads(1)
    yield from training_lines()
    yield from gradient_lines()


if __name__ == "__main__":
    publish("exactness", compare())
