"""What runs is what was hashed: for every doctored folder, and for whoever writes while it is loaded or afterwards."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from doctored import CHANGED, add, agreed, edit, other_weights, sharded
from safetensors.torch import load_file, save_file

from fedbank.errors import ModelError
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.model.loading import ModelSpec, OpenedBase, load_base_model, load_tokenizer, opened_base
from fedbank.model.verified import verified_folder

TURNS = [{"role": "user", "content": "hi"}]


def spec(folder: Path, dtype: str = "bfloat16") -> ModelSpec:
    return ModelSpec("path", path=str(folder), dtype=dtype, device="cpu")


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    """The agreed weights, read without FedBank."""
    return load_file(tiny_folder() / "model.safetensors")


def same(model: Any, expected: dict[str, torch.Tensor]) -> bool:
    found = model.state_dict()
    return all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def same_file(path: Path, expected: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(expected[name], tensor) for name, tensor in load_file(path).items())


def test_a_sharded_model_is_loaded_as_its_index_says(tmp_path: Path, expected: dict[str, torch.Tensor]) -> None:
    folder = sharded(tmp_path / "model")
    base = load_base_model(spec(folder))
    assert same(base.model, expected) and base.digest == base_digest(folder)


DOCTORED: dict[str, Callable[[Path], object]] = {
    "another end of text": edit("special_tokens_map.json", eos_token="a"),
    "a template among the tokens": edit("special_tokens_map.json", chat_template="EVIL"),
    "a template in the settings": edit("tokenizer_config.json", chat_template="EVIL"),
    "a template in a folder": add("additional_chat_templates/default.jinja", "EVIL"),
    "an adapter": add("adapter_config.json", '{"peft_type": "LORA", "r": 4, "target_modules": ["down_proj"]}'),
    "code": edit("config.json", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}),
    "a tokenizer elsewhere": edit("tokenizer_config.json", fast_tokenizer_files=["../x.json"]),
}


@pytest.mark.parametrize("change", DOCTORED.values(), ids=DOCTORED.keys())
def test_what_is_loaded_under_the_agreed_digest_is_the_agreed_model(
    tmp_path: Path, expected: dict[str, torch.Tensor], change: Callable[[Path], object]
) -> None:
    """Refused, or under another digest, or the agreed model: never the agreed digest with anything else."""
    folder = agreed(tmp_path / "model")
    change(folder)
    with suppress(ModelError), opened_base(spec(folder)) as opened:
        tokenizer, base = opened.tokenizer(), opened.model()
        if base.digest == base_digest(tiny_folder()):
            assert same(base.model, expected) and len(base.model.state_dict()) == len(expected) + 1
            assert (tokenizer.eos_token_id, tokenizer.apply_chat_template(TURNS, tokenize=False)) == (3, "<|user|>hi")


def test_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    folder = agreed(tmp_path / "model")
    DOCTORED["code"](folder)
    add("evil.py", f"open({str(tmp_path / 'ran')!r}, 'w').write('x')\n")(folder)
    for load in (load_base_model, load_tokenizer):
        with pytest.raises(ModelError, match="code"):
            load(spec(folder))
    assert not (tmp_path / "ran").exists()


def test_weights_that_the_model_does_not_use_are_refused(tmp_path: Path, expected: dict[str, torch.Tensor]) -> None:
    folder = agreed(tmp_path / "model")
    extra = {"model.layers.3.mlp.extra_proj.weight": torch.ones(4, 4)}
    save_file({**expected, **extra}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 others, model\.layers\.3\.mlp\.extra_proj\.weight"):
        load_base_model(spec(folder))


@pytest.mark.parametrize("factor", [1.0, -3.0])
def test_an_output_layer_that_is_said_to_be_the_embedding_is_it(
    tmp_path: Path, expected: dict[str, torch.Tensor], factor: float
) -> None:
    """Some programs would use the embedding, others what the file has: one digest, two models."""
    folder = agreed(tmp_path / "model")
    head = {"lm_head.weight": (factor * expected["model.embed_tokens.weight"]).contiguous()}
    save_file({**expected, **head}, folder / "model.safetensors", metadata={"format": "pt"})
    if factor == 1.0:
        load_base_model(spec(folder))
        return
    with pytest.raises(ModelError, match="as tie_word_embeddings says, got another one"):
        load_base_model(spec(folder))


def test_the_folders_name_chooses_no_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers takes another class of tokenizer for folders of certain names, whatever is in them."""
    agreed(tmp_path / "model")
    edit("tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")(tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "deepseek-ai" / "deepseek-coder-x")
    monkeypatch.chdir(tmp_path)
    here, there = (load_tokenizer(spec(Path(name))) for name in ("model", "deepseek-ai/deepseek-coder-x"))
    assert type(here) is type(there)
    assert here.name_or_path == "model"


@pytest.fixture(params=[0, 16 << 20], ids=["linked", "copied"])
def held(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenedBase]:
    """The agreed model after it was hashed and before it is loaded, its weights linked (as large ones) or copied."""
    folder = agreed(tmp_path / "model")
    with verified_folder(folder, most_copied=request.param) as verified:
        yield OpenedBase(spec(folder), verified)


def test_the_private_folder_holds_the_counted_files_and_is_gone_afterwards(tmp_path: Path) -> None:
    folder = agreed(tmp_path / "model")
    add(".cache/chat_template.jinja", "EVIL")(folder)
    with verified_folder(folder, most_copied=0) as verified:
        assert {path.name for path in verified.path.iterdir()} == set(verified.files)
        assert verified.path.parent.stat().st_mode & 0o777 == 0o700
        assert [path.name for path in verified.path.iterdir() if path.is_symlink()] == ["model.safetensors"]
    assert not verified.path.parent.exists()


def test_files_that_are_exchanged_after_hashing_are_not_loaded(
    held: OpenedBase, tmp_path: Path, expected: dict[str, torch.Tensor]
) -> None:
    folder = held.folder.source
    other_weights(folder / "model.safetensors", tmp_path / "other")
    (tmp_path / "other").rename(folder / "model.safetensors")
    edit("special_tokens_map.json", eos_token="a")(folder)
    add("chat_template.jinja", "EVIL")(folder)
    add("adapter_config.json", "{}")(folder)
    tokenizer = held.tokenizer()
    if held.folder.marks:  # the weights that were hashed are open, but their file is nowhere any more: told, not used
        assert same_file(held.folder.path / "model.safetensors", expected)
        with pytest.raises(ModelError, match="stay as it is while it is loaded"):
            held.model()
    else:
        base = held.model()
        assert same(base.model, expected) and base.digest == base_digest(tiny_folder())
    assert (tokenizer.eos_token_id, tokenizer.apply_chat_template(TURNS, tokenize=False)) == (3, "<|user|>hi")
    assert not torch.equal(load_file(folder / "model.safetensors")[CHANGED], expected[CHANGED])


def write_into(path: Path) -> None:
    """Other weights in the same file, its size and its time of modification as they were."""
    before = path.stat()
    other_weights(path, path.with_name("other"))
    with path.open("r+b") as file:
        file.write(path.with_name("other").read_bytes())

    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def test_a_file_that_is_written_into_after_hashing_is_not_used(
    held: OpenedBase, expected: dict[str, torch.Tensor]
) -> None:
    write_into(held.folder.source / "model.safetensors")
    if held.folder.marks:
        with pytest.raises(ModelError, match="stay as it is while it is loaded"):
            held.model()
    else:
        assert same(held.model().model, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_file_that_is_written_into_after_loading_changes_no_weight(tmp_path: Path, dtype: str) -> None:
    folder = agreed(tmp_path / "model")
    with verified_folder(folder, most_copied=0) as verified:
        base = OpenedBase(spec(folder, dtype), verified).model()
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    write_into(folder / "model.safetensors")
    assert same(base.model, before)


def test_whoever_expects_another_base_model_is_told_both_digests(held: OpenedBase) -> None:
    held.folder.expect(held.digest, "the agreed one")
    with pytest.raises(ModelError, match=f"{'0' * 16} .the agreed one.*{held.digest[:16]}"):
        held.folder.expect("0" * 64, "the agreed one")
