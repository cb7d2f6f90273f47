"""The tiny model as an engine serves it, a release for it, and questions in two languages and of many lengths."""

import functools
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from fedbank.adapter.lora import AdaptedModel, LoraSettings
from fedbank.adapter.state import digest
from fedbank.model.folder import base_digest, file_digests, tiny_folder
from fedbank.model.loading import ModelSpec, load_base_model
from fedbank.release.build import adapter_fields, write_release
from fedbank.serving.engines.interface import Generation, Piece, Turn
from fedbank.serving.engines.text import encode
from fedbank.serving.engines.transformers_engine import LocalModel

sys.path.insert(0, str(Path(__file__).parents[1] / "release"))
from release_world import manifest_of

QUESTIONS = (
    "How do I open an account?",
    "我要开户，需要带什么材料？",
    "What is the fee for a transfer abroad, and how long does it take until the money arrives at the other bank?",
    "信用卡丢了怎么办",
    "Why?",
    "请问定期存款提前支取利息怎么算？我存了三年，现在过了一年半，急用钱，想知道会损失多少。",
    "Can I change my phone number in the app?",
    "loan",
)
SETTINGS = LoraSettings(4, 8.0, ("q_proj", "v_proj"), "AB", last_layers=2)


@functools.cache
def local_tiny() -> LocalModel:
    return LocalModel.load(ModelSpec("tiny"), base_digest(tiny_folder()))


def asking(text: str, most: int = 24, release: str | None = None, **more: Any) -> Generation:
    return Generation("r-1", (Turn("user", text),), most, release, **more)


async def collected(pieces: AsyncIterator[Piece]) -> list[Piece]:
    return [piece async for piece in pieces]


def answer_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def expected_tokens(model: Any, text: str, most: int = 24) -> list[int]:
    """What transformers' own greedy decoding says: no batch, no cache of ours."""
    tokens = encode(local_tiny().tokenizer, (Turn("user", text),), 400)
    with torch.inference_mode():
        found = model.generate(torch.tensor([tokens]), max_new_tokens=most, do_sample=False)
    answer: list[int] = found[0][len(tokens) :].tolist()
    return answer


def expected_text(model: Any, text: str, most: int = 24) -> str:
    said: str = local_tiny().tokenizer.decode(expected_tokens(model, text, most), skip_special_tokens=True)
    return said


def adapted_tiny(seed: int = 11) -> tuple[AdaptedModel, dict[str, np.ndarray[Any, Any]]]:
    """The model as PEFT adapts it, unmerged, and its adapter: large enough to change every answer."""
    model = AdaptedModel(load_base_model(ModelSpec("tiny")).model, SETTINGS)
    rng = np.random.default_rng(seed)
    weights = {name: rng.uniform(-0.5, 0.5, shape).astype(np.float32) for name, shape in model.spec.shapes().items()}
    model.write(weights)
    return model, weights


def write_tiny_adapter(folder: Path, seed: int = 11, base: str | None = None) -> AdaptedModel:
    """A release's folder with that adapter; ``base``: another base model's digest."""
    model, weights = adapted_tiny(seed)
    about: dict[str, Any] = {
        "digest": digest(weights),
        "rank": SETTINGS.rank,
        "alpha": "8.0",
        "target_modules": list(SETTINGS.target_modules),
        "layers": model.spec.layers(),
    }
    content = save(weights)
    manifest = manifest_of(
        folder.name,
        0.5,
        base={
            "name": "fedbank/tiny-qwen3",
            "revision": "1",
            "digest": base or base_digest(tiny_folder()),
            "files": file_digests(tiny_folder()),
        },
        adapter=adapter_fields(content, model.spec.shapes(), about),
    )
    write_release(folder, manifest, content)
    return model
