"""What a bank's process loads once, when it starts: base model, tokenizer, customers."""

from collections.abc import Callable
from pathlib import Path

import torch

from fedbank.config import ClientConfig
from fedbank.config.schema import ModelConfig
from fedbank.model.loading import check_model_source, opened_base
from fedbank.model.spec import ModelSpec, located_folder
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
    with opened_base(spec) as opened:
        say(f"Base model {opened.digest[:16]}: loading ...")
        tokenizer, base = opened.tokenizer(), opened.model()
    say(f"Base model {base.digest[:16]}: ready on {base.device}.")
    return Resources(base, base.digest, tokenizer, units)


def model_folder(model: ModelConfig) -> Path:
    """Where the base model's files are: what is agreed on is their content."""
    return located_folder(model_spec(model))


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
