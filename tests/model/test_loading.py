"""Loading a base model: what is refused before anything is opened, and that what is loaded is whole and frozen."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedbank.errors import ModelError
from fedbank.model.loading import (
    ModelSpec,
    check_model_source,
    checkpointing_mode,
    load_base_model,
    load_tokenizer,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, make_base: Callable[..., Any], byte_tokenizer: Any) -> Path:
    """A complete model folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_base("qwen3", vocabulary=300).save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in saved.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def _spec(folder: Path, **changes: Any) -> ModelSpec:
    return ModelSpec(**{"name": "path", "path": str(folder), "device": "cpu", **changes})


def test_a_model_comes_frozen_and_as_it_was_saved(saved: Path, make_base: Callable[..., Any]) -> None:
    check_model_source(_spec(saved))
    base = load_base_model(_spec(saved))
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.reference == "tiny"
    assert base.device == torch.device("cpu")
    tokens = torch.tensor([[1, 2, 3, 4]])
    reference = make_base("qwen3", vocabulary=300)
    with torch.no_grad():
        torch.testing.assert_close(base.model(tokens).logits, reference(tokens).logits, rtol=1e-4, atol=1e-4)
    tokenizer = load_tokenizer(_spec(saved))
    assert tokenizer.decode(tokenizer("Ω?")["input_ids"]) == "Ω?"


def test_the_model_is_loaded_in_the_asked_precision(saved: Path) -> None:
    base = load_base_model(_spec(saved, dtype="bfloat16"))
    assert {parameter.dtype for parameter in base.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("asked", "mode"),
    [(False, "none"), (True, "non-reentrant"), *((mode, mode) for mode in ("none", "reentrant", "non-reentrant"))],
)
def test_gradient_checkpointing_is_in_the_asked_mode(saved: Path, asked: bool | str, mode: str) -> None:
    check_model_source(_spec(saved, gradient_checkpointing=asked))
    model = load_base_model(_spec(saved, gradient_checkpointing=asked)).model
    assert checkpointing_mode(model) == mode
    assert not model.training


def test_the_mode_of_a_model_that_somebody_else_set_up_is_known(make_base: Callable[..., Any]) -> None:
    model = make_base()
    assert checkpointing_mode(model) == "none"
    for reentrant, mode in ((True, "reentrant"), (False, "non-reentrant")):
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        assert checkpointing_mode(model) == mode
    model.gradient_checkpointing_disable()
    assert checkpointing_mode(model) == "none"


def test_the_base_never_drops_attention_whatever_its_folder_says(copied: Path) -> None:
    """Checkpointing runs the base in training mode, where attention dropout would be active."""
    _config(lambda config: config.update(attention_dropout=0.5))(copied)
    model = load_base_model(_spec(copied, gradient_checkpointing="reentrant")).model.train()
    tokens = torch.arange(2, 40)[None]
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, model(tokens).logits)


def _config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_bytes())
        replaced = change(config)
        path.write_text(replaced if isinstance(replaced, str) else json.dumps(config))

    return damage


def _rename_weights(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


BAD_FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no-config": (lambda folder: (folder / "config.json").unlink(), "config.json"),
    "config-not-json": (_config(lambda config: "{"), "config.json"),
    "config-a-list": (_config(lambda config: "[]"), "config.json"),
    "config-deep": (_config(lambda config: "[" * 100_000), "config.json"),
    "config-not-utf8": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json"),
    "no-model-type": (_config(lambda config: config.pop("model_type") and None), "model_type"),
    "llama": (_config(lambda config: config.update(model_type="llama")), "Qwen"),
    "model-type-a-list": (_config(lambda config: config.update(model_type=["qwen3"])), "Expected"),
    "model-type-null": (_config(lambda config: config.update(model_type=None)), "Qwen"),
    "no-weights": (lambda folder: (folder / "model.safetensors").unlink(), "weights"),
    "pickled-bin": (_rename_weights("pytorch_model.bin"), "pickled"),
    "pickled-pt": (_rename_weights("model.pt"), "pickled"),
}


@pytest.mark.parametrize(("damage", "says"), BAD_FOLDERS.values(), ids=BAD_FOLDERS.keys())
def test_a_bad_folder_is_refused_before_anything_is_opened(
    copied: Path, damage: Callable[[Path], Any], says: str
) -> None:
    damage(copied)
    with pytest.raises(ModelError, match=says):
        check_model_source(_spec(copied))


BAD_SPECS = {
    "absent-folder": ({"path": "absent"}, "nothing"),
    "a-file": ({"path": "file"}, "a file"),
    "no-path": ({"path": None}, "model.path"),
    "empty-path": ({"path": ""}, "model.path"),
    "unknown-dtype": ({"dtype": "float8"}, "dtype"),
    "half-precision": ({"dtype": "float16"}, "float32, bfloat16, got 'float16'"),
    "unknown-checkpointing": ({"gradient_checkpointing": "always"}, "none, reentrant or non-reentrant, got 'always'"),
    "unknown-quantisation": ({"quantisation": "int3"}, "quantisation"),
}


@pytest.mark.parametrize(("changes", "says"), BAD_SPECS.values(), ids=BAD_SPECS.keys())
def test_a_bad_setting_is_refused(
    copied: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str
) -> None:
    monkeypatch.chdir(copied)
    (copied / "file").write_text("x")
    with pytest.raises(ModelError, match=says):
        check_model_source(_spec(copied, **changes))


@pytest.mark.parametrize("device", ["tpu9", "", "cuda:banana"])
def test_an_unknown_device_is_refused(saved: Path, device: str) -> None:
    with pytest.raises(ModelError, match=r"model\.device"):
        load_base_model(_spec(saved, device=device))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("changes", [{"device": "cuda"}, {"quantisation": "nf4"}], ids=["cuda", "nf4"])
def test_what_needs_a_gpu_says_so(saved: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"GPU|CUDA"):
        load_base_model(_spec(saved, **changes))


def _edit_weights(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        edit(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return damage


LAYER = "model.layers.1.mlp.up_proj.weight"
DAMAGED_WEIGHTS: dict[str, Callable[[Path], Any]] = {
    "cut": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]),
    "not-safetensors": lambda f: (f / "model.safetensors").write_bytes(b"hello"),
    "a-layer-missing": _edit_weights(lambda tensors: tensors.pop(LAYER)),
    "a-layer-of-another-shape": _edit_weights(lambda tensors: tensors.update({LAYER: tensors[LAYER][:-1].clone()})),
}


@pytest.mark.parametrize("damage", DAMAGED_WEIGHTS.values(), ids=DAMAGED_WEIGHTS.keys())
def test_damaged_weights_are_refused_and_never_replaced_by_random_ones(
    copied: Path, damage: Callable[[Path], Any]
) -> None:
    damage(copied)
    with pytest.raises(ModelError, match="Expected"):
        load_base_model(_spec(copied))


@pytest.mark.parametrize("content", [None, b"{", b"[]"], ids=["absent", "cut", "a-list"])
def test_a_folder_without_its_tokenizer_is_refused(copied: Path, content: bytes | None) -> None:
    for path in copied.glob("*token*"):
        path.unlink()
    if content is not None:
        (copied / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError, match="Expected"):
        load_tokenizer(_spec(copied))
