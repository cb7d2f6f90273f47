"""A release on its base model. Loads torch: whoever only verifies imports nothing from here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file

from fedbank.adapter.lora import AdaptedModel, LoraSettings
from fedbank.config import ClientConfig
from fedbank.errors import ModelError
from fedbank.model.loading import opened_base
from fedbank.release.contents import WEIGHTS
from fedbank.release.manifest import Manifest
from fedbank_client.loading import model_spec


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
    about = manifest.adapter
    with opened_base(model_spec(config.model)) as opened:
        opened.folder.expect(manifest.base["digest"], f"{manifest.base['name']}, of this release")
        tokenizer, base = opened.tokenizer(), opened.model()
    settings = LoraSettings(
        about["rank"], float(about["alpha"]), tuple(about["target_modules"]), "AB", last_layers=len(about["layers"])
    )
    model = AdaptedModel(base.model, settings)
    if model.spec.shapes() != manifest.shapes():
        raise ModelError("Expected an adapter that fits this base model, got tensors of other names or shapes.")
    return ReleasedModel(folder, model, tokenizer, base.device)
