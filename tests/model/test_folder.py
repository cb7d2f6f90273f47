"""What a folder says about a base model, without torch, is what PEFT and transformers find when they load it."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedbank.adapter.lora import AdaptedModel, LoraSettings
from fedbank.errors import ModelError
from fedbank.model.folder import adaptable_layers, base_digest, tiny_folder
from fedbank.model.loading import ModelSpec, load_base_model

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder(), tmp_path / "model"))


@pytest.mark.parametrize("modules", [ALL, ("v_proj", "q_proj"), ("down_proj",)])
@pytest.mark.parametrize(("trainable", "last_layers"), [("B", None), ("AB", 2)])
def test_the_adapter_of_the_folder_is_the_one_that_peft_attaches(
    modules: tuple[str, ...], trainable: str, last_layers: int | None
) -> None:
    base = load_base_model(ModelSpec("tiny"))
    attached = AdaptedModel(base.model, LoraSettings(4, 8.0, modules, trainable, last_layers)).spec
    found = adaptable_layers(tiny_folder(), modules, last_layers)
    assert [(f"base_model.model.{layer.name}", layer.num_in, layer.num_out) for layer in found] == [
        (pair.name, pair.num_in, pair.num_out) for pair in attached.pairs
    ]


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_weights_in_several_files_are_one_model(make_base: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    model = make_base(kind)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    attached = AdaptedModel(model, LoraSettings(2, 4.0, ALL, "B")).spec
    assert [f"base_model.model.{layer.name}" for layer in adaptable_layers(tmp_path, ALL)] == [
        pair.name for pair in attached.pairs
    ]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json", "model.safetensors"])
def test_a_changed_byte_changes_the_digest(folder: Path, name: str) -> None:
    before = base_digest(folder)
    content = bytearray((folder / name).read_bytes())
    last_digit = max(place for place, byte in enumerate(content) if chr(byte).isdigit())
    content[last_digit] ^= 1  # another digit: what is no JSON any more is refused
    (folder / name).write_bytes(content)
    assert base_digest(folder) != before


def test_a_renamed_copy_with_other_documentation_is_the_same_model(folder: Path) -> None:
    (folder / "README.md").write_text("downloaded on Monday")
    assert base_digest(folder) == base_digest(tiny_folder())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda folder: [path.unlink() for path in folder.glob("*.safetensors")], "Expected weights"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), "safetensors header"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x04" + b"\0" * 7 + b"nope" * 4), "damaged"),
    ],
)
def test_a_folder_that_is_no_model_is_a_plain_error(folder: Path, change: Callable[[Path], object], match: str) -> None:
    change(folder)
    with pytest.raises(ModelError, match=match):
        adaptable_layers(folder, ALL)


@pytest.mark.parametrize("last", [0, 99])
def test_blocks_that_the_model_has_not_are_a_plain_error(last: int) -> None:
    with pytest.raises(ModelError, match=r"adapter\.last_layers"):
        adaptable_layers(tiny_folder(), ALL, last)


def test_the_coordinator_reads_a_folder_without_torch() -> None:
    code = (
        "import sys; from fedbank.model.folder import *; base_digest(tiny_folder()); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'peft')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
