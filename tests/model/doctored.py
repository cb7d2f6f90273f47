"""Base model folders as a hostile supplier would prepare them. Nothing here knows how FedBank reads a folder."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from fedbank.model.folder import tiny_folder

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
CHANGED = "model.layers.3.mlp.down_proj.weight"


def agreed(target: Path) -> Path:
    """The tiny model, as everybody agreed on it, in files that can be written."""
    target.mkdir(parents=True)
    for path in tiny_folder().iterdir():
        shutil.copyfile(path, target / path.name)
    return target


def sharded(target: Path) -> Path:
    """The same model in two files with an index, as every model above 5 GB is published."""
    agreed(target)
    tensors = load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = dict(zip(SHARDS, (names[: len(names) // 2], names[len(names) // 2 :]), strict=True))
    for file, half in halves.items():
        save_file({name: tensors[name] for name in half}, target / file, metadata={"format": "pt"})
    write_index(target, {name: file for file, half in halves.items() for name in half})
    return target


def write_index(folder: Path, places: dict[str, Any]) -> None:
    """An index that says ``places``."""
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))


def places(folder: Path) -> dict[str, str]:
    """What the index says."""
    found: dict[str, str] = json.loads((folder / INDEX).read_bytes())["weight_map"]
    return found


def other_weights(path: Path, target: Path) -> None:
    """The weights in ``path`` with one matrix drawn anew, in ``target``, as long to the byte."""
    tensors = load_file(path)
    name = CHANGED if CHANGED in tensors else next(iter(tensors))
    drawn = torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(1))
    tensors[name] = drawn.to(tensors[name].dtype)
    save_file(tensors, target, metadata={"format": "pt"})


def edit(name: str, **changes: Any) -> Callable[[Path], object]:
    """A change of the settings in the file ``name``, which may not be there yet."""

    def change(folder: Path) -> None:
        path = folder / name
        said = json.loads(path.read_bytes()) if path.exists() else {}
        path.write_text(json.dumps({**said, **changes}))

    return change


def add(name: str, content: str = "{}") -> Callable[[Path], object]:
    """A file of that name, in a folder of its own if the name has one."""

    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)

    return change


def digest_by_hand(folder: Path, names: list[str]) -> str:
    """As docs/formats/base-model.md defines it, over ``names``."""
    lines = [f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n" for name in sorted(names)]
    return hashlib.sha256(("fedbank-base-model/1\n" + "".join(lines)).encode()).hexdigest()
