"""Whether engines give the same greedy answers, and how much it says if they do not.

All questions at once. Every engine against the first in this process, float32 if that is there, and vLLM against its
own precision in this process. Where two answers part, ``partings`` has the first token that differs (from 0) and its
``margin``: by how much the float32 model's logits prefer the one token to the other, after the words that both have in
common. A margin that is small against ``typical_margin``, the median distance of the two likeliest tokens, is a matter
of rounding.
"""

import asyncio
import statistics
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from fedbank.serving.engines.interface import Engine, Generation, Turn
from fedbank.serving.engines.merged import merge, read_adapter
from fedbank.serving.engines.text import encode
from fedbank.serving.engines.transformers_engine import LocalModel

Line = dict[str, Any]


class Opened(Protocol):
    """See ``serving_real.Opened``."""

    @property
    def engine(self) -> Engine:
        """Answers."""
        ...

    @property
    def precision(self) -> str:
        """What it computes in."""
        ...


async def agreements(
    engines: Mapping[str, Opened], exact: LocalModel, adapter: Path | None, questions: Sequence[str], most: int
) -> AsyncGenerator[Line]:
    """A line for each two that are compared; ``exact``: the float32 model."""
    for release in (None, "release") if adapter else (None,):
        judge = _Judge(exact, adapter if release else None, questions)
        answers: dict[str, list[str]] = {}
        for name, one in engines.items():
            asked = [Generation("r", (Turn("user", text),), most, release) for text in questions]
            answers[name] = list(await asyncio.gather(*(_answer(one.engine, each) for each in asked)))
        against = "fp32" if "fp32" in engines else next(iter(engines))
        pairs = [(name, against) for name in engines if name != against]
        if "vllm" in engines and (same := engines["vllm"].precision) in engines and same != against:
            pairs.append(("vllm", same))
        for one_name, other in pairs:
            about = {"engine": one_name, "precision": engines[one_name].precision, "against": f"in process, {other}"}
            found = judge.compared(answers[one_name], answers[other])
            yield {"case": "same answers", "model": release or "base"} | about | found


async def _answer(engine: Engine, asked: Generation) -> str:
    return "".join([piece.text async for piece in engine.generate(asked)])


class _Judge:
    """The float32 model, with the release merged in if there is one."""

    def __init__(self, exact: LocalModel, adapter: Path | None, questions: Sequence[str]) -> None:
        self._model, self._tokenizer = exact.model, exact.tokenizer
        if adapter is not None:
            self._model = merge(exact.model, *read_adapter(adapter, exact.digest), exact.originals)
        self._prompts = [encode(self._tokenizer, (Turn("user", text),), 1000) for text in questions]

    def compared(self, ours: Sequence[str], theirs: Sequence[str]) -> Line:
        """How many answers are the same, and where the others part."""
        partings, typical = [], []
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            a, b = self._tokens(one), self._tokens(other)
            typical += self._gaps(self._prompts[number], b)
            if a != b:
                place = next(place for place in range(len(a)) if a[place : place + 1] != b[place : place + 1])
                margin = self._margin(self._prompts[number] + b[:place], b[place], a[place])
                partings.append({"question": number, "token": place, "margin": round(margin, 3)})
        return {
            "answers": len(ours),
            "same": len(ours) - len(partings),
            "partings": partings,
            "typical_margin": round(statistics.median(typical), 2),
        }

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*tokens, self._tokenizer.eos_token_id]

    def _gaps(self, prompt: list[int], answer: list[int]) -> list[float]:
        """Between the two likeliest tokens, at each place of the answer."""
        logits = self._logits(prompt + answer)[len(prompt) - 1 : -1]
        best = logits.topk(2, -1).values
        gaps: list[float] = (best[:, 0] - best[:, 1]).tolist()
        return gaps

    def _margin(self, tokens: list[int], wanted: int, found: int) -> float:
        logits = self._logits(tokens)[-1]
        return abs(float(logits[wanted] - logits[found]))

    @torch.inference_mode()
    def _logits(self, tokens: list[int]) -> torch.Tensor:
        found: torch.Tensor = self._model(torch.tensor([tokens])).logits[0].float()
        return found
