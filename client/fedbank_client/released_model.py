"""A release on its base model. Loads torch: whoever only verifies imports nothing from here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file

from fedbank.adapter.lora import AdaptedModel, LoraSettings
from fedbank.config import ClientConfig
from fedbank.errors import ModelError
from fedbank.model.folder import base_digest
from fedbank.model.loading import load_base_model, load_tokenizer
from fedbank.release.contents import WEIGHTS
from fedbank.release.manifest import Manifest
from fedbank_client.loading import model_folder, model_spec


@dataclass(frozen=True, slots=True)
class ReleasedModel:
    """``model`` computes what the base model does until ``put_on``."""

    folder: Path
    model: AdaptedModel
    tokenizer: Any
    device: torch.device

    def put_on(self) -> None:
        """Let the model hold the release's adapter."""
        self.model.write(load_file(self.folder / WEIGHTS))


def open_release(folder: Path, manifest: Manifest, config: ClientConfig) -> ReleasedModel:
    """The release in ``folder``, whose ``manifest`` is that of its inspection, and the base model of ``config``.

    Raises:
        ModelError: the base model is another one, or the adapter does not fit it.
    """
    here = base_digest(model_folder(config.model))
    if here != manifest.base["digest"]:
        raise ModelError(
            f"Expected the base model {manifest.base['digest'][:16]} ({manifest.base['name']}) of this release, got "
            f"{here[:16]}. Name its folder: model=path model.path=DIR"
        )
    spec, about = model_spec(config.model), manifest.adapter
    base = load_base_model(spec)
    settings = LoraSettings(
        about["rank"], float(about["alpha"]), tuple(about["target_modules"]), "AB", last_layers=len(about["layers"])
    )
    model = AdaptedModel(base.model, settings)
    if model.spec.shapes() != manifest.shapes():
        raise ModelError("Expected an adapter that fits this base model, got tensors of other names or shapes.")
    return ReleasedModel(folder, model, load_tokenizer(spec), base.device)
