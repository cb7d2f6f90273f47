"""A release for the tiny model that ships with FedBank, signed by two of three banks and adopted by one."""

from pathlib import Path
from typing import Any

import numpy as np
from bank_world import MemberBank
from release_world import World, manifest_of
from safetensors.numpy import save

from fedbank.adapter.lora import AdaptedModel, LoraSettings
from fedbank.adapter.state import digest
from fedbank.model.folder import base_digest, file_digests, tiny_folder
from fedbank.model.loading import ModelSpec, load_base_model
from fedbank.release.build import adapter_fields, write_release

NAME = "tiny-1"
SETTINGS = LoraSettings(4, 8.0, ("q_proj", "v_proj"), "AB", last_layers=2)


def adopted_release(folder: Path) -> tuple[World, Path]:
    """The members' world, and the release with its signatures as a bank keeps it."""
    world = World(folder)
    made = folder / "made" / NAME
    write_tiny_release(made)
    change, files = world.release_change(made)
    world.publish(change, ("bank1", "bank2"), files)
    world.move("stable", NAME)
    bank = MemberBank(world, folder / "member")
    bank.sync()
    return world, bank.home.of(NAME)


def write_tiny_release(folder: Path) -> None:
    """The four files; the weights are random, and large enough to change every answer."""
    model = AdaptedModel(load_base_model(ModelSpec("tiny")).model, SETTINGS)
    rng = np.random.default_rng(11)
    weights = {name: rng.uniform(-0.5, 0.5, shape).astype(np.float32) for name, shape in model.spec.shapes().items()}
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
            "digest": base_digest(tiny_folder()),
            "files": file_digests(tiny_folder()),
        },
        adapter=adapter_fields(content, model.spec.shapes(), about),
    )
    write_release(folder, manifest, content)
