"""One private training step against the same step without privacy, and against Opacus: time and memory.

Same model, same B records of T tokens, same loss function, same optimizer, same threads; a step goes from the records
to the changed weights. ``--trainable`` is what of the adapter is trained (B is FedBank's default).

``ratio_nonprivate``: our time over that of PEFT LoRA with plain summed gradients; the target is at most 1.10.
``ratio_own_nonprivate``: our time over that of this very path without clipping and noise; the aim is 1.05.
``ratio_opacus_hooks``, ``ratio_opacus_ghost``: time of Opacus (``GradSampleModule`` with ``DPOptimizer``; fast gradient
clipping in ghost mode with its optimizer) over ours; the target is above 1. Opacus adds noise of PyTorch's ordinary
generator, ours is from a cryptographic one, on a grid.
Ratios are medians over interleaved repetitions, each repetition's times taken side by side. Time is processor time of
one thread, which on an idle machine is the time on the clock, and is not what others take away on a shared one; with
``--threads`` it is the time on the clock, for an idle machine. The trial that finds out whether records may be computed
together (``fedbank.training.unit_engine``) is made once, before the first repetition, and is not in these times.

``extra_bytes``: peak of PyTorch's allocations during a round of ours, minus that of the non-private one, counted from
every single allocation and release (``torch.profiler``); ``extra_bytes_bound`` is B times the trainable parameters
times 4 bytes, plus 5 %.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

from fedbank.adapter.lora import AdaptedModel, LoraSettings
from fedbank.adapter.state import initial_state
from fedbank.data.encode import EncodedUnits
from fedbank.model.loading import load_base_model
from fedbank.model.spec import ModelSpec
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan, Sampling, TrainingPlan, UnprotectedPlan
from fedbank.training.batches import RecordBatch, collate
from fedbank.training.local import LocalSettings, train_round
from fedbank.training.loss import record_losses
from simulations.benchmarks.harness import argument_parser, write_lines
from simulations.benchmarks.memory import peak_bytes

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, LEARNING_RATE, CLIP_NORM, NOISE = 8, 1e-3, 1.0, 1.0
CPU = torch.device("cpu")


def records(batch: int, length: int, vocabulary: int) -> EncodedUnits:
    """``batch`` customers with one record of ``length`` random tokens each, the last quarter being the answer."""
    tokens = np.random.default_rng(0).integers(4, vocabulary, batch * length).astype(np.int32)
    starts = np.arange(batch + 1, dtype=np.int64)
    return EncodedUnits(tokens, starts * length, np.full(batch, 3 * length // 4, np.int32), starts)


def ours(model: AdaptedModel, data: EncodedUnits, steps: int) -> Callable[[], None]:
    """The production round: sampling, gradients, clipping, noise, optimizer and the check at the end."""
    return _round(model, data, steps, PrivacyPlan.with_noise(_everybody(data, steps), NOISE, CLIP_NORM, 1e-5))


def own_nonprivate(model: AdaptedModel, data: EncodedUnits, steps: int) -> Callable[[], None]:
    """The production round under a plan that neither clips nor adds noise."""
    return _round(model, data, steps, UnprotectedPlan(_everybody(data, steps)))


def _everybody(data: EncodedUnits, steps: int) -> Sampling:
    return Sampling(1.0, float(data.num_units), 1, steps)


def _round(model: AdaptedModel, data: EncodedUnits, steps: int, plan: TrainingPlan) -> Callable[[], None]:
    settings = LocalSettings(steps, LEARNING_RATE, "adam", micro_batch=data.num_units)
    start = model.read()
    return lambda: train_round(model, data, plan, settings, start, stream=RandomStream.secure(), device=CPU) and None


def plain(model: AdaptedModel, data: EncodedUnits, steps: int) -> Callable[[], None]:
    """PEFT's own layers, summed gradients."""

    def run() -> None:
        optimizer = torch.optim.Adam(model.parameters, lr=LEARNING_RATE)
        for _ in range(steps):
            losses = _losses(model, data)
            (losses.sum() / len(losses)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def opacus_hooks(model: AdaptedModel, data: EncodedUnits, steps: int) -> Callable[[], None]:
    """Opacus with per-record gradients."""
    model.peft_model.train()
    GradSampleModule(model.peft_model, batch_first=True, loss_reduction="sum")

    def run() -> None:
        optimizer = DPOptimizer(torch.optim.Adam(model.parameters, lr=LEARNING_RATE), **_opacus(data))
        for _ in range(steps):
            _losses(model, data).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def opacus_ghost(model: AdaptedModel, data: EncodedUnits, steps: int) -> Callable[[], None]:
    """Opacus with ghost clipping: norms in a first backward pass, the clipped sum in a second."""
    model.peft_model.train()
    module = GradSampleModuleFastGradientClipping(
        model.peft_model, batch_first=True, loss_reduction="sum", max_grad_norm=CLIP_NORM, use_ghost_clipping=True
    )

    def run() -> None:
        optimizer = DPOptimizerFastGradientClipping(
            torch.optim.Adam(model.parameters, lr=LEARNING_RATE), **_opacus(data)
        )
        for _ in range(steps):
            DPTensorFastGradientClipping(module, optimizer, _losses(model, data), "sum").backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


CONTENDERS: dict[str, Callable[[AdaptedModel, EncodedUnits, int], Callable[[], None]]] = {
    "ours": ours,
    "nonprivate": plain,
    "own_nonprivate": own_nonprivate,
    "opacus_hooks": opacus_hooks,
    "opacus_ghost": opacus_ghost,
}


def _opacus(data: EncodedUnits) -> dict[str, Any]:
    return {
        "noise_multiplier": NOISE,
        "max_grad_norm": CLIP_NORM,
        "expected_batch_size": data.num_units,
        "loss_reduction": "sum",
    }


def _losses(model: AdaptedModel, data: EncodedUnits) -> torch.Tensor:
    batch: RecordBatch = collate(data, range(data.num_records), [1.0] * data.num_records, CPU)
    return record_losses(model.base, batch)


def measure(arguments: argparse.Namespace, base: Any, trainable: str, length: int) -> dict[str, Any]:
    """One line: all contenders on one case, repetition by repetition."""
    data = records(arguments.batch, length, base.config.vocab_size)
    first = AdaptedModel(base, LoraSettings(RANK, 2.0 * RANK, TARGETS, trainable))
    start = initial_state(first.spec, seed=0)
    first.write(start)
    runs = {name: make(first.replica(), data, arguments.steps) for name, make in CONTENDERS.items()}
    first.peft_model.unload()
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names, clock = list(runs), process_time if arguments.threads == 1 else perf_counter
    for repetition in range(arguments.repetitions):
        for shift in range(len(names)):
            name = names[(repetition + shift) % len(names)]
            begin = clock()
            runs[name]()
            seconds[name].append((clock() - begin) / arguments.steps)
    peaks = {name: peak_bytes(run) for name, run in runs.items()}
    parameters = sum(rows * columns for rows, columns in first.spec.trainable_shapes().values())

    def ratio(above: str, below: str) -> float:
        pairs = zip(seconds[above], seconds[below], strict=True)
        return round(median(one / other for one, other in pairs), 3)

    return {
        "model": arguments.model.name if arguments.model else "tiny",
        "tokens": length,
        "batch": arguments.batch,
        "trainable": trainable,
        "trainable_parameters": parameters,
        "threads": arguments.threads,
        "ratio_nonprivate": ratio("ours", "nonprivate"),
        "ratio_own_nonprivate": ratio("ours", "own_nonprivate"),
        "ratio_opacus_hooks": ratio("opacus_hooks", "ours"),
        "ratio_opacus_ghost": ratio("opacus_ghost", "ours"),
        "extra_bytes": peaks["ours"] - peaks["nonprivate"],
        "extra_bytes_bound": int(1.05 * arguments.batch * parameters * 4),
        "seconds_per_step": {name: round(median(values), 4) for name, values in seconds.items()},
        "peak_bytes": peaks,
        "steps": arguments.steps,
        "repetitions": arguments.repetitions,
    }


def compare(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One line per length and trained part."""
    torch.set_num_threads(arguments.threads)
    path = None if arguments.model is None else str(arguments.model)
    base = load_base_model(ModelSpec("step", path=path, device="cpu")).model
    for trainable in arguments.trainable:
        yield from map(partial(measure, arguments, base, trainable), arguments.lengths)


def parse() -> argparse.Namespace:
    """``--model DIR`` and the sizes of a case."""
    parser = argument_parser("dp_step")
    parser.add_argument("--model", type=Path, help="folder of a Qwen model; default: the tiny one of the package")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 512], help="tokens of a record")
    parser.add_argument("--batch", type=int, default=8, help="records of a step, one per customer")
    parser.add_argument("--trainable", nargs="+", choices=["B", "AB"], default=["B", "AB"])
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, for all contenders")
    parser.add_argument("--steps", type=int, default=3, help="of a round")
    parser.add_argument("--repetitions", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    ARGUMENTS = parse()
    NAME = "dp_step" if ARGUMENTS.model is None else f"dp_step_{ARGUMENTS.model.name}"
    write_lines("dp_step", compare(ARGUMENTS), as_json=ARGUMENTS.json, report=NAME)
