"""What a release is for programs that know nothing of FedBank: peft and transformers load it and compute the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from release_world import World
from tiny_release import adopted_release
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedbank.cli import main
from fedbank.config import load_client
from fedbank.model.folder import tiny_folder
from fedbank.release.contents import FILES
from fedbank.release.inspection import inspect
from fedbank_client.released_model import open_release

_QUESTION = "My card was charged twice. What should I do?"
_MERGED = 2e-5
"""Merging rounds every weight once: the logits, of size 1 to 10 in float32, differ in their last bits."""


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    return adopted_release(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def release(adopted: tuple[World, Path]) -> Path:
    return adopted[1]


@pytest.fixture(scope="module")
def tokens(release: Path) -> torch.Tensor:
    return torch.tensor([AutoTokenizer.from_pretrained(tiny_folder())(_QUESTION)["input_ids"]])


@pytest.fixture(scope="module")
def own(release: Path, tokens: torch.Tensor) -> torch.Tensor:
    """FedBank's own logits with the adapter, which differ from the base model's by much more than any tolerance."""
    adapter = release / "adapter"
    released = open_release(adapter, inspect(adapter).manifest, load_client([]))
    before = _logits(released.model.peft_model, tokens)
    released.put_on()
    after = _logits(released.model.peft_model, tokens)
    assert float((after - before).abs().max()) > 0.1
    return after


def test_peft_computes_the_same_with_the_folder_that_a_bank_adopted(
    release: Path, tokens: torch.Tensor, own: torch.Tensor
) -> None:
    loaded = PeftModel.from_pretrained(_base(), release / "adapter")
    assert torch.equal(_logits(loaded, tokens), own)


def test_peft_computes_the_same_with_an_exported_folder(
    release: Path, tokens: torch.Tensor, own: torch.Tensor, tmp_path: Path
) -> None:
    output = tmp_path / "peft"
    assert main(["release", "export", str(release), str(output)]) == 0
    assert {path.name: path.read_bytes() for path in output.iterdir()} == {
        name: (release / "adapter" / name).read_bytes() for name in FILES
    }
    assert torch.equal(_logits(PeftModel.from_pretrained(_base(), output), tokens), own)


def test_transformers_computes_the_same_with_a_merged_export_alone(
    adopted: tuple[World, Path], tokens: torch.Tensor, own: torch.Tensor, tmp_path: Path
) -> None:
    world, release = adopted
    output, root = tmp_path / "merged", tmp_path / "root.json"
    root.write_bytes(world.pinned)
    assert main(["release", "export", str(release), str(output), "--merged", "--root", str(root)]) == 0
    merged = AutoModelForCausalLM.from_pretrained(output, local_files_only=True)
    assert not [name for name, _ in merged.named_modules() if "lora" in name]
    assert float((_logits(merged, tokens) - own).abs().max()) <= _MERGED
    assert AutoTokenizer.from_pretrained(output)(_QUESTION)["input_ids"] == tokens[0].tolist()
    assert not [path.name for path in output.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")]


def _base() -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_folder(), dtype=torch.float32, local_files_only=True)


def _logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=tokens).logits
    return found
