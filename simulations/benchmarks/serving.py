"""How fast a bank answers its customers with the tiny model, in this process.

``batched``: tokens a second of 8 clients that ask one question after another, with 8 slots against 1 slot, turn by
turn; ``ratio_batched_8`` is the median of the turns' ratios, with answers drawn at a temperature at which they seldom
end early; ``ratio_batched_8_short`` with the tiny model's likeliest answers, nine tokens on average, half of whose
time is prefill. ``merged``: a step of a batch with a release merged in against the base model's, alone and 8 at once,
step by step, sides swapped each time; the lower quartile of each, since what else the machine does only adds time.
``--model DIR`` measures a real model instead, with ``--release DIR``, a release for it, and against the real vLLM with
``--vllm COMMAND``: see ``serving_real``; and with ``--answers`` ``serving_answers``; four minutes each.
``python -m simulations.benchmarks.serving [--turns 7] [--json]``; a minute. Exit code 1 if a target is missed.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from fedbank.adapter.lora import AdaptedModel, LoraSettings
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.model.loading import load_base_model
from fedbank.model.quiet import quiet_libraries
from fedbank.model.spec import ModelSpec
from fedbank.serving.engines.batching import Limits
from fedbank.serving.engines.decoding import Batch, Start
from fedbank.serving.engines.interface import Generation, Turn
from fedbank.serving.engines.merged import merge
from fedbank.serving.engines.text import encode
from fedbank.serving.engines.transformers_engine import LocalModel, TransformersEngine
from simulations.benchmarks.reporting import argument_parser, write_lines
from simulations.benchmarks.serving_real import measure as measure_real
from simulations.benchmarks.serving_real import real_arguments, real_of

CLIENTS, RATIO_BATCHED, MERGED_SHARE = 8, 3.0, 0.98
"""The targets: throughput against unbatched, and a merged release's speed against the base model's."""
_NEW_TOKENS, _STEPS, _QUESTIONS_EACH = 48, 64, 4
_HOT = 5.0
_SETTINGS = LoraSettings(8, 16.0, ("q_proj", "k_proj", "v_proj", "o_proj"), "AB")
_QUESTIONS = (
    "How do I open an account?",
    "我要开户，需要带什么材料？",
    "What is the fee for a transfer abroad, and how long does it take?",
    "信用卡丢了怎么办",
)
Line = dict[str, Any]


def batched(local: LocalModel, turns: int, temperature: float) -> Line:
    """Eight clients at eight slots against eight clients at one."""
    one, many = [], []
    for _ in range(turns):
        one.append(asyncio.run(_throughput(local, 1, temperature)))
        many.append(asyncio.run(_throughput(local, CLIENTS, temperature)))
    ratio = statistics.median(fast / slow for fast, slow in zip(many, one, strict=True))
    return {
        "case": "batched" if temperature else "batched, short greedy answers",
        "clients": CLIENTS,
        "precision": "fp32",
        "max_new_tokens": _NEW_TOKENS,
        "tokens_per_s_unbatched": round(statistics.median(one), 1),
        "tokens_per_s_batched": round(statistics.median(many), 1),
        "ratio_batched_8" if temperature else "ratio_batched_8_short": round(ratio, 2),
        "target": RATIO_BATCHED,
        "ok": ratio >= RATIO_BATCHED,
    }


def merged(local: LocalModel, turns: int, rows: int) -> Line:
    """A step of the base model's batch and of a release's."""
    models = {"base": local.model, "merged": _with_adapter(local)}
    found: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(turns):
        batches = {name: _begun(model, local, rows) for name, model in models.items()}
        for step in range(_STEPS):
            for name in sorted(batches, reverse=bool(step % 2)):
                began = time.perf_counter()
                batches[name].step()
                found[name].append(time.perf_counter() - began)
    step_s = {name: statistics.quantiles(times, n=4)[0] for name, times in found.items()}
    share = step_s["base"] / step_s["merged"]
    return {
        "case": "merged",
        "rows": rows,
        "precision": "fp32",
        "base_step_ms": round(1000 * step_s["base"], 3),
        "merged_step_ms": round(1000 * step_s["merged"], 3),
        "merged_share_of_base_speed": round(share, 4),
        "target": MERGED_SHARE,
        "ok": share >= MERGED_SHARE,
    }


async def _throughput(local: LocalModel, slots: int, temperature: float) -> float:
    engine = TransformersEngine(local, Limits(max_running=slots))
    try:
        began = time.perf_counter()
        counts = await asyncio.gather(*(_client(engine, number, temperature) for number in range(CLIENTS)))
        return sum(counts) / (time.perf_counter() - began)
    finally:
        await engine.close()


async def _client(engine: TransformersEngine, number: int, temperature: float) -> int:
    """One question after another; the tokens of the answers."""
    count = 0
    for turn in range(_QUESTIONS_EACH):
        text = _QUESTIONS[(number + turn) % len(_QUESTIONS)]
        asked = Generation(
            f"{number}-{turn}", (Turn("user", text),), _NEW_TOKENS, None, temperature=temperature, seed=number
        )
        count += sum([piece.token_count async for piece in engine.generate(asked)])
    return count


def _begun(model: Any, local: LocalModel, rows: int) -> Batch:
    tokens = encode(local.tokenizer, (Turn("user", _QUESTIONS[0]),), 400)
    batch = Batch(model)
    batch.join([Start(str(row), tokens) for row in range(rows)])
    return batch


def _with_adapter(local: LocalModel) -> Any:
    """A release of random weights on every attention layer."""
    adapted = AdaptedModel(load_base_model(ModelSpec("tiny")).model, _SETTINGS)
    rng = np.random.default_rng(3)
    shapes = adapted.spec.shapes()
    tensors = {name: torch.from_numpy(rng.normal(0, 0.01, shape).astype("f4")) for name, shape in shapes.items()}
    return merge(local.model, tensors, _SETTINGS.alpha / _SETTINGS.rank)


def measure(turns: int) -> Iterator[Line]:
    """One line a case."""
    quiet_libraries()
    local = LocalModel.load(ModelSpec("tiny"), base_digest(tiny_folder()))
    asyncio.run(_throughput(local, CLIENTS, 0.0))  # the first run is cold
    yield batched(local, turns, _HOT)
    yield batched(local, turns, 0.0)
    for rows in (1, CLIENTS):
        yield merged(local, turns, rows)


def main() -> int:
    """Print the lines; 1 if a target is missed."""
    parser = argument_parser("serving")
    parser.add_argument("--turns", type=int, default=7, help="of everything that is timed; the median counts")
    real_arguments(parser)
    chosen = parser.parse_args()
    real = real_of(chosen)
    missed: list[str] = []

    def watched() -> Iterator[Line]:
        for line in measure_real(real, chosen.precisions) if real else measure(chosen.turns):
            missed.extend([line["case"]] if not line.get("ok", True) else [])
            yield line

    report = None if real is None else "serving_answers" if real.answers else "serving_real"
    write_lines("serving", watched(), as_json=chosen.json, report=report)
    if missed:
        sys.stderr.write(f"Missed: {', '.join(missed)}\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
