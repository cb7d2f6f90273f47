"""What a bank's process loads once, when it starts: base model, tokenizer, customers."""

from collections.abc import Callable
from pathlib import Path

import torch

from fedbank.config import ClientConfig
from fedbank.config.schema import ModelConfig
from fedbank.errors import ModelError
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.model.loading import ModelSpec, check_model_source, load_base_model, load_tokenizer
from fedbank_client.customers import load_training_units
from fedbank_client.desk import Resources


def load_resources(config: ClientConfig, say: Callable[[str], None]) -> Resources:
    """Everything that training needs; ``say`` gets a line for each part, since a large model takes minutes.

    Raises:
        ModelError, DataError: a part cannot be used.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    spec = model_spec(config.model)
    check_model_source(spec)
    units, held_out = load_training_units(config.data, config.held_out_fraction, seed=config.seed)
    say(f"{len(units)} customers to train on, {len(held_out)} held out.")
    digest = base_digest(model_folder(config.model))
    say(f"Base model {digest[:16]}: loading ...")
    base = load_base_model(spec)
    say(f"Base model {digest[:16]}: ready on {base.device}.")
    return Resources(base, digest, load_tokenizer(spec), units)


def model_folder(model: ModelConfig) -> Path:
    """Where the base model's files are: what is agreed on is their content."""
    if model.path is not None:
        return Path(model.path)
    if model.identifier is None:
        return tiny_folder()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model.identifier, revision=model.revision))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ModelError(
            f"Expected the files of {model.identifier}, got none from the hub. Copy the model to this machine and set "
            "model=path model.path=DIR."
        ) from error


def model_spec(model: ModelConfig) -> ModelSpec:
    """Which base model the settings name."""
    return ModelSpec(
        model.name,
        model.path,
        model.identifier,
        model.revision,
        model.dtype,
        model.quantisation,
        model.gradient_checkpointing,
        model.device,
    )
