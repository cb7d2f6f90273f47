"""A real model in this process against the real vLLM on the same CPU, in the same run; lines for ``serving``.

``batch1_over_vllm``: tokens a second of one client, whole answers with their prefill, ours over vLLM's; every turn asks
both one after the other, and the median of the turns' ratios counts. ``share_of_bandwidth_ceiling``: the decoding speed
over what the memory's bandwidth allows, which is measured by reading a large array in between.
``merged_share_of_base_speed_1``: the release's decoding speed over the base model's, question by question.
``eight clients``: tokens a second of eight at once. What the greedy answers are: ``serving_answers``.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedbank.model.folder import base_digest
from fedbank.model.spec import ModelSpec
from fedbank.serving.engines.interface import Engine, Generation, Turn
from fedbank.serving.engines.plan import PRECISIONS, Precision, Shape
from fedbank.serving.engines.transformers_engine import LocalModel, TransformersEngine
from fedbank.serving.engines.vllm import Vllm, VllmProcess
from simulations.benchmarks.serving_answers import agreements

BATCH1_OVER_VLLM, MERGED_SHARE = 1.0, 0.98
RELEASE = "release"
NEW_TOKENS = 48
_READ_BYTES = 512 << 20
QUESTIONS = (
    "My card was charged twice. What should I do?",
    "信用卡丢了怎么办？",
    "How do I open a savings account for my child?",
    "请问定期存款提前支取利息怎么算？",
    "What is the difference between a debit card and a credit card?",
    "我想提前还清房贷，需要注意什么？",
    "Why was my transfer abroad declined?",
    "手机银行密码忘了怎么重置？",
)
Line = dict[str, Any]
_Case = tuple[str, str | None]
"""An engine's name, and a release or the base model."""


@dataclass(frozen=True, slots=True)
class Real:
    """A base ``model`` and ``adapter``, a release for it. ``vllm``: the command, ``library``: what is preloaded,
    ``options``: more words of it. ``answers``: compare what is said, with fp32 too, not how fast.
    """

    model: Path
    adapter: Path | None
    turns: int
    vllm: str | None = None
    vllm_precision: Precision = "bf16"
    library: str | None = None
    options: tuple[str, ...] = ()
    answers: bool = False


@dataclass(frozen=True, slots=True)
class _Speed:
    whole: float
    """Tokens a second of a whole answer, prefill included."""
    decoding: float
    """From its first token on."""
    tokens: int
    prompt: int


_Found = dict[_Case, list[_Speed]]


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine, what it computes in, and whether it is in this process."""

    engine: Engine
    precision: Precision
    own: bool


def measure(real: Real, precisions: Sequence[Precision]) -> Iterator[Line]:
    """The lines; without a vLLM those that need none."""
    wanted: list[Precision] = ["fp32", *precisions] if real.answers else [*precisions]
    models = {precision: _load(real, precision) for precision in wanted}
    with asyncio.Runner() as runner:  # one loop for all of them, lines as they come
        lines = _lines(real, models)
        try:
            while (line := runner.run(_next(lines))) is not None:
                yield line
        finally:
            runner.run(lines.aclose())


def _load(real: Real, precision: Precision) -> LocalModel:
    spec = ModelSpec("path", path=str(real.model), device="cpu")
    return LocalModel.load(spec, base_digest(real.model), precision)


async def _next(lines: AsyncGenerator[Line]) -> Line | None:
    return await anext(lines, None)


async def _lines(real: Real, models: Mapping[Precision, LocalModel]) -> AsyncGenerator[Line]:
    engines = {str(name): Opened(TransformersEngine(local), name, True) for name, local in models.items()}
    log = Path(tempfile.mkdtemp()) / "vllm.log"
    process = VllmProcess(_settings(real, log)) if real.vllm else None
    try:
        if process is not None:
            engines["vllm"] = Opened(await process.start(), real.vllm_precision, False)
        if real.adapter is not None:
            for one in engines.values():
                await one.engine.load(RELEASE, real.adapter)
        if not real.answers:
            for line in await _speeds(real, engines):
                yield line
            for name, one in engines.items():
                yield await _eight(name, one)
        exact = models.get("fp32") or _load(real, "fp32")
        async for line in agreements(engines, exact, real.adapter, QUESTIONS, NEW_TOKENS):
            yield line
    finally:
        for one in engines.values():
            await one.engine.close()
        if process is not None:
            await process.stop()


def _settings(real: Real, log: Path) -> Vllm:
    """On all processors, with little memory for its cache. ``PYTHONPATH``: its packages are others than ours."""
    environment = {"VLLM_CPU_KVCACHE_SPACE": "2", "PYTHONPATH": "", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    environment["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{torch.get_num_threads() - 1}"
    if real.library is not None:
        environment["LD_PRELOAD"] = real.library
    return Vllm(
        real.model,
        log,
        str(real.vllm),
        real.vllm_precision,
        1024,
        memory_share=0.5,
        more=real.options,
        environment=environment,
    )


async def _speeds(real: Real, engines: Mapping[str, Opened]) -> list[Line]:
    """Every engine asked the same question in turn, the base model and the release, the order turned round."""
    releases = [None, RELEASE] if real.adapter else [None]
    cases = [(name, release) for name in engines for release in releases]
    found: _Found = {case: [] for case in cases}
    bandwidths = []
    for name, release in cases:
        await _asked(engines[name].engine, QUESTIONS[-1], release, 4)  # the first run is cold
    for turn in range(real.turns):
        bandwidths.append(bandwidth())
        for case in cases[:: 1 if turn % 2 else -1]:
            found[case].append(await _asked(engines[case[0]].engine, QUESTIONS[turn % len(QUESTIONS)], case[1]))
    shape, best = Shape.read(real.model), max(bandwidths)
    return [_line(engines[name], found, (name, release), shape, best) for name, release in cases]


def _line(opened: Opened, found: _Found, case: _Case, shape: Shape, best: float) -> Line:
    speeds, read = found[case], shape.read_bytes(opened.precision, opened.own)
    decoding = statistics.median(one.decoding for one in speeds)
    line = _about(case[0], opened) | {
        "case": "one client",
        "model": "release" if case[1] else "base",
        "prompt_tokens": round(statistics.median(one.prompt for one in speeds)),
        "new_tokens": round(statistics.median(one.tokens for one in speeds)),
        "turns": len(speeds),
        "tokens_per_s": round(statistics.median(one.whole for one in speeds), 2),
        "decoding_tokens_per_s": round(decoding, 2),
        "bytes_per_token": read,
        "bandwidth_gb_per_s": round(best / 1e9, 1),
        "share_of_bandwidth_ceiling": round(decoding * read / best, 3),
    }
    theirs = found.get(("vllm", case[1]), [])
    if opened.own and theirs:
        ratio = statistics.median(ours.whole / other.whole for ours, other in zip(speeds, theirs, strict=True))
        line["vllm_tokens_per_s"] = round(statistics.median(one.whole for one in theirs), 2)
        line["batch1_over_vllm"] = round(ratio, 3)
        line["target"] = BATCH1_OVER_VLLM
    if case[1] is not None:
        shares = [one.decoding / base.decoding for one, base in zip(speeds, found[case[0], None], strict=True)]
        line["merged_share_of_base_speed_1" if opened.own else "unmerged_share_of_base_speed_1"] = round(
            statistics.median(shares), 3
        )
    return line


def _about(name: str, opened: Opened) -> Line:
    return {"engine": "in process" if opened.own else name, "precision": opened.precision}


async def _asked(engine: Engine, text: str, release: str | None, most: int = NEW_TOKENS) -> _Speed:
    began = time.perf_counter()
    first, tokens, at_first, prompt = 0.0, 0, 0, 0
    last = began
    async for piece in engine.generate(Generation("r", (Turn("user", text),), most, release)):
        tokens, prompt = tokens + piece.token_count, prompt + piece.prompt_tokens
        last = time.perf_counter()
        if not first:
            first, at_first = last, tokens
    return _Speed(tokens / (last - began), (tokens - at_first) / (last - first), tokens, prompt)


async def _eight(name: str, opened: Opened) -> Line:
    began = time.perf_counter()
    found = await asyncio.gather(*(_asked(opened.engine, text, None) for text in QUESTIONS))
    speed = sum(one.tokens for one in found) / (time.perf_counter() - began)
    return _about(name, opened) | {"case": "eight clients", "new_tokens": NEW_TOKENS, "tokens_per_s": round(speed, 1)}


def bandwidth() -> float:
    """Bytes a second that all threads read from memory: the best of five sums over an array that no cache holds."""
    array = torch.ones(_READ_BYTES // 4)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        array.sum()
        seconds.append(time.perf_counter() - began)
    return _READ_BYTES / min(seconds)


def real_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``Real`` needs."""
    parser.add_argument("--model", type=Path, help="folder of a real base model")
    parser.add_argument("--answers", action="store_true", help="compare the greedy answers instead of the speed")
    parser.add_argument("--release", type=Path, help="folder of a release for it")
    parser.add_argument("--precisions", nargs="*", choices=PRECISIONS[1:], default=["bf16", "int8", "int4"])
    parser.add_argument("--vllm", help="the command of a real vLLM for this processor")
    parser.add_argument("--vllm-precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--vllm-preload", help="a library to preload, such as its libiomp5.so")
    parser.add_argument("--vllm-options", default="", help="more words for it, such as --enforce-eager")


def real_of(chosen: argparse.Namespace) -> Real | None:
    """From the arguments; says what is left out."""
    if chosen.model is None or chosen.vllm is None:
        sys.stderr.write("No --model and --vllm: nothing is said about the real vLLM.\n")
    if chosen.model is None:
        return None
    return Real(
        chosen.model,
        chosen.release,
        chosen.turns,
        chosen.vllm,
        chosen.vllm_precision,
        chosen.vllm_preload,
        tuple(chosen.vllm_options.split()),
        chosen.answers,
    )
