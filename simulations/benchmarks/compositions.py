"""Random sets of customers, in random order and micro-batches: is their clipped sum that of each alone, to the bit?

One line per model, trained part, engine, number of threads and adapter: ``compositions`` that were tried, ``unequal``
ones (the target is 0), ``longest_unit`` in clip norms (at most 1), and how many sizes of batches the engine tried and
does not use on this machine. Adapters are harmless or those of a coordinator who lies (``fedbank.audit.adversarial``).
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.state import initial_state
from fedbank.audit.adversarial import Attack, make_adapter
from fedbank.audit.separators import Separators
from fedbank.data.encode import EncodedUnits
from fedbank.privacy.clipping import GRID_STEPS
from fedbank.privacy.plan import PrivacyPlan, Sampling
from fedbank.training.clipped import clipped_sum
from fedbank.training.local import LocalSettings
from simulations.benchmarks.exactness import make_model
from simulations.benchmarks.reporting import argument_parser, write_lines

CUSTOMERS, MOST_RECORDS, LONGEST = 24, 3, 48
PLAN = PrivacyPlan.with_noise(Sampling(1.0, float(CUSTOMERS), MOST_RECORDS, 1), 1.0, 0.2, 1e-5)
ADAPTERS = ("harmless", "padding", "cancelling", "exploding", "sinks")
CPU = torch.device("cpu")


def make_data(vocabulary: int) -> EncodedUnits:
    """Customers of one to three records of 2 to 48 random tokens."""
    rng = np.random.default_rng(0)
    units = np.concatenate([[0], np.cumsum(rng.choice([1, 1, 1, 2, 3], CUSTOMERS))]).astype(np.int64)
    lengths = rng.integers(2, LONGEST, units[-1])
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    answers = np.array([rng.integers(1, length) for length in lengths], np.int32)
    return EncodedUnits(rng.integers(0, vocabulary, starts[-1]).astype(np.int32), starts, answers, units)


def lie(model: AdaptedModel, data: EncodedUnits, adapter: str) -> None:
    """Give ``model`` an adapter of that kind."""
    start = initial_state(model.spec, seed=0)
    rng = np.random.default_rng(0)
    model.write({name: t if t.any() else rng.normal(0, 0.1, t.shape).astype(np.float32) for name, t in start.items()})
    if adapter != "harmless":
        model.write(make_adapter(Attack.usual(adapter), model.spec, start, Separators(model, data, CPU)))


def one_sum(model: AdaptedModel, data: EncodedUnits, units: list[int], micro_batch: int, engine: str) -> Tensor:
    """The clipped sum over ``units`` in steps of the grid, flattened."""
    chosen = [(unit, np.arange(data.records_per_unit()[unit])) for unit in units]
    settings = LocalSettings(1, 1.0, "sgd", micro_batch=micro_batch, per_example=engine)
    total = clipped_sum(model, data, chosen, PLAN, settings, device=CPU)
    return torch.cat([tensor.flatten() for tensor in total.steps])


def lines(compositions: int, numbers: list[int]) -> Iterator[dict[str, Any]]:
    """All cases, ``compositions`` shared out among them."""
    cases = list(product((("qwen2", "B"), ("qwen3", "AB")), ("direct", "opacus"), numbers, ADAPTERS))
    for number, ((kind, trainable), engine, threads, adapter) in enumerate(cases):
        torch.set_num_threads(threads)
        model = make_model(kind, trainable, "float32", 0.0, "none")
        data, rng = make_data(model.base.config.vocab_size), np.random.default_rng(number)
        lie(model, data, adapter)
        alone = [one_sum(model, data, [unit], 1, engine) for unit in range(CUSTOMERS)]
        unequal, tried = 0, compositions // len(cases)
        for _ in range(tried):
            units = rng.permutation(CUSTOMERS)[: rng.integers(2, 9)].tolist()
            found = one_sum(model, data, units, int(rng.choice([1, 2, 7, 64])), engine)
            unequal += not torch.equal(found, torch.stack([alone[unit] for unit in units]).sum(0))
        verdicts = model.shared.verdicts.values()
        yield {
            "model": kind,
            "trainable": trainable,
            "engine": engine,
            "threads": threads,
            "adapter": adapter,
            "compositions": tried,
            "unequal": unequal,
            "longest_unit": max(float(row.double().norm()) for row in alone) / GRID_STEPS,
            "sizes_tried": len(verdicts),
            "sizes_not_used": sum(not verdict for verdict in verdicts),
        }


if __name__ == "__main__":
    parser = argument_parser("compositions")
    parser.add_argument("--compositions", type=int, default=10_000)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 3, 4])
    chosen = parser.parse_args()
    write_lines("compositions", lines(chosen.compositions, chosen.threads), as_json=chosen.json)
