"""Releases for the tiny model that ships with FedBank: random weights, large enough to change every answer."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from fedbank.adapter.lora import AdaptedModel, LoraSettings
from fedbank.adapter.state import digest
from fedbank.model.folder import base_digest, file_digests, tiny_folder
from fedbank.model.loading import load_base_model
from fedbank.model.spec import ModelSpec
from fedbank.release.build import adapter_fields, write_release
from fedbank.release.contents import MANIFEST
from fedbank.release.inspection import inspect
from fedbank.release.manifest import Manifest
from fedbank.serving.engines.interface import Turn
from fedbank.serving.engines.text import encode
from fedbank.serving.engines.transformers_engine import LocalModel
from fedbank.serving.rollout.desk import Offered
from simulations.benchmarks.released import REST

_SETTINGS = LoraSettings(4, 8.0, ("q_proj", "v_proj"), "AB", last_layers=2)


class TinyRelease:
    """A release in ``folder``, whose name is the folder's; ``offered`` as the service takes it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._model = AdaptedModel(load_base_model(ModelSpec("tiny")).model, _SETTINGS)
        rng, shapes = np.random.default_rng(seed), self._model.spec.shapes()
        weights = {name: rng.uniform(-0.5, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
        self._model.write(weights)
        about: dict[str, Any] = {
            "digest": digest(weights),
            "rank": _SETTINGS.rank,
            "alpha": "8.0",
            "target_modules": list(_SETTINGS.target_modules),
            "layers": self._model.spec.layers(),
        }
        content = save(weights)
        base = {"name": "fedbank/tiny-qwen3", "revision": "1", "files": file_digests(tiny_folder())}
        changed = {
            "base": base | {"digest": base_digest(tiny_folder())},
            "adapter": adapter_fields(content, shapes, about),
        }
        write_release(folder, Manifest(release=folder.name, parent=None, **(REST | changed)), content)
        self.offered = Offered(folder.name, inspect(folder).hashes[MANIFEST], folder)

    def says(self, local: LocalModel, question: str, most: int) -> str:
        """Its greedy answer of ``most`` tokens at most, by transformers alone and with the adapter unmerged."""
        tokens = encode(local.tokenizer, (Turn("user", question),), 400)
        with torch.inference_mode():
            found = self._model.peft_model.generate(torch.tensor([tokens]), max_new_tokens=most, do_sample=False)
        said: str = local.tokenizer.decode(found[0][len(tokens) :], skip_special_tokens=True)
        return said
