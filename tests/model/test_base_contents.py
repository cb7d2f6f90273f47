"""Every file that a loader would act on changes the digest or is refused by name; documentation does neither."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import peft.utils.constants
import pytest
import transformers.utils
from doctored import (
    CHANGED,
    INDEX,
    SHARDS,
    add,
    agreed,
    digest_by_hand,
    edit,
    other_weights,
    places,
    sharded,
    write_index,
)
from safetensors.torch import load_file, save_file
from transformers import tokenization_utils_base, tokenization_utils_tokenizers

from fedbank.errors import ModelError
from fedbank.model.folder import adaptable_layers, base_digest, digest_of, file_digests, tiny_folder

ADAPTER = json.dumps({"peft_type": "LORA", "r": 4, "target_modules": ["down_proj"]})
OWN = ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_the_digest_is_the_one_that_the_format_defines(tmp_path: Path) -> None:
    folder = agreed(tmp_path / "model")
    assert base_digest(folder) == digest_by_hand(folder, [*OWN, "generation_config.json"])
    assert base_digest(folder) == digest_of(file_digests(folder)) == base_digest(tiny_folder())


def test_a_folder_of_files_that_always_counted_keeps_its_digest(tmp_path: Path) -> None:
    folder = agreed(tmp_path / "model")
    (folder / "generation_config.json").unlink()
    assert base_digest(folder) == "1287f5481dc835353d942405b18dc8c54afb01e6b1599d1d9d36c23a89ef15c8"


COUNTED: dict[str, Callable[[Path], object]] = {
    "another end of text by special_tokens_map.json": edit("special_tokens_map.json", eos_token="a"),
    "a token more by added_tokens.json": edit("added_tokens.json", more=1500),
    "a vocabulary": add("vocab.json"),
    "merges": add("merges.txt", "a b"),
    "another template": add("chat_template.jinja", "EVIL"),
    "a template in the tokenizer's settings": edit("tokenizer_config.json", chat_template="EVIL"),
    "sampling by generation_config.json": edit("generation_config.json", do_sample=True, temperature=2.0),
    "other ends by generation_config.json": edit("generation_config.json", eos_token_id=[3, 4]),
    "no generation settings": lambda folder: (folder / "generation_config.json").unlink(),
}


@pytest.mark.parametrize("change", COUNTED.values(), ids=COUNTED.keys())
def test_what_a_loader_acts_on_changes_the_digest(tmp_path: Path, change: Callable[[Path], object]) -> None:
    folder = agreed(tmp_path / "model")
    before = base_digest(folder)
    change(folder)
    assert base_digest(folder) != before


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "an adapter's settings": (add("adapter_config.json", ADAPTER), "adapter"),
    "an adapter's weights": (add("adapter_model.safetensors"), "adapter"),
    "an adapter's pickle": (add("adapter_model.bin"), "adapter_model.bin"),
    "a pickle beside the weights": (add("pytorch_model.bin"), "pickled"),
    "a pickle's index": (add("pytorch_model.bin.index.json"), "pytorch_model.bin.index.json"),
    "a variant of the weights": (add("model.fp16.safetensors"), "model.fp16.safetensors"),
    "an index beside one file": (add(INDEX), "both"),
    "a template of another name": (add("additional_chat_templates/default.jinja", "EVIL"), "additional_chat_templates"),
    "a template of another format": (add("chat_template.json"), "chat_template.json"),
    "code": (add("evil.py", "raise SystemExit"), "code"),
    "code to generate with": (add("custom_generate/generate.py"), "custom_generate"),
    "a SentencePiece model": (add("tokenizer.model"), "tokenizer.model"),
    "Mistral's tokenizer": (add("tekken.json"), "tekken.json"),
    "Mistral's settings": (add("params.json"), "params.json"),
    "a processor": (add("preprocessor_config.json"), "preprocessor_config.json"),
    "another version's settings": (add("config.4.0.0.json"), "config.4.0.0.json"),
    "another version's tokenizer": (add("tokenizer.4.0.0.json"), "tokenizer.4.0.0.json"),
    "quantisation beside the settings": (add("hf_quant_config.json"), "hf_quant_config.json"),
    "weights of llama.cpp": (add("model.gguf"), "model.gguf"),
    "a name in other letters": (add("Config.json"), "Config.json"),
    "a name that looks alike": (add("\uff43onfig.json"), "onfig.json"),
    "a name with a blank": (add("config.json "), "config.json "),
    "a name that forges a line": (add(f"a {'0' * 64}\nb.safetensors"), "only files"),
    "a folder called documentation": (add("figures.md/config.json"), "figures.md"),
    "code of the settings": (edit("config.json", auto_map={"AutoConfig": "evil.Config"}), "auto_map"),
    "code of a hub": (edit("tokenizer_config.json", auto_map=["x--y", None]), "auto_map"),
    "settings elsewhere": (edit("config.json", configuration_files=["config.4.0.0.json"]), "configuration_files"),
    "weights elsewhere": (edit("config.json", transformers_weights="adapter_model.bin"), "transformers_weights"),
    "another way of computing": (edit("config.json", quantization_config={"bits": 4}), "quantization_config"),
    "a tokenizer elsewhere": (edit("tokenizer_config.json", fast_tokenizer_files=["../x"]), "fast_tokenizer_files"),
    "merges elsewhere": (edit("tokenizer_config.json", merges_file="/etc/passwd"), "merges_file"),
    "a vocabulary elsewhere": (edit("tokenizer_config.json", vocab="/tmp/vocab.json", merges="/tmp/merges"), "vocab"),
    "a tokenizer of another kind": (edit("tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer"), "Japanese"),
    "a vocabulary of llama.cpp": (edit("tokenizer_config.json", gguf_file="/x"), "gguf_file"),
    "a template among the tokens": (edit("special_tokens_map.json", chat_template="EVIL"), "chat_template"),
    "a file among the tokens": (edit("special_tokens_map.json", tokenizer_file="/x"), "tokenizer_file"),
    "positions that remember": (edit("config.json", rope_parameters={"rope_type": "dynamic"}), "dynamic"),
    "positions by length": (edit("config.json", rope_scaling={"type": "longrope"}), "longrope"),
    "positions of one layer": (edit("config.json", rope_parameters={"full_attention": {"type": "dynamic"}}), "dynamic"),
    "another class": (edit("config.json", architectures=["LlamaForCausalLM"]), "architectures"),
    "a model that drafts": (edit("config.json", speculators_config={"verifier": {}}), "speculators_config"),
    "a tokenizer by lot": (edit("tokenizer.json", model={"type": "BPE", "dropout": 0.5}), "dropout"),
    "a text that grows": (edit("tokenizer.json", normalizer={"type": "Replace"}), "Replace"),
    "a name twice": (add("config.json", '{"model_type": "qwen3", "model_type": "qwen2"}'), "once"),
    "a pipe that never ends": (lambda folder: os.mkfifo(folder / "vocab.json"), "Expected a file"),
    "a device that never ends": (lambda folder: (folder / "vocab.json").symlink_to("/dev/zero"), "Expected a file"),
    "a link to nothing": (lambda folder: (folder / "vocab.json").symlink_to("nowhere"), "No such file"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_what_the_digest_cannot_cover_is_refused_by_name(
    tmp_path: Path, change: Callable[[Path], object], says: str
) -> None:
    folder = agreed(tmp_path / "model")
    change(folder)
    with pytest.raises(ModelError, match="Expected") as refusal:
        base_digest(folder)
    assert says in str(refusal.value)


def elsewhere(folder: Path, named: str) -> None:
    """Other weights, to which the index leads."""
    out = folder.parent / "elsewhere"
    out.mkdir()
    shutil.copyfile(tiny_folder() / "model.safetensors", out / "whole.safetensors")
    other_weights(out / "whole.safetensors", out / "payload.safetensors")
    write_index(folder, dict.fromkeys(places(folder), named.format(out=out)))


def twice(folder: Path) -> None:
    """A tensor in both files, once changed; the index names the one that is read last."""
    first, second = (load_file(folder / name) for name in SHARDS)
    name = next(iter(first))
    save_file({**second, name: first[name] + 1}, folder / SHARDS[1], metadata={"format": "pt"})
    write_index(folder, {**places(folder), name: SHARDS[1]})


def as_adapter(folder: Path) -> None:
    """A file of weights that PEFT takes for an adapter's."""
    name = "adapter_model.safetensors"
    (folder / SHARDS[1]).rename(folder / name)
    write_index(folder, {tensor: file.replace(SHARDS[1], name) for tensor, file in places(folder).items()})


def two_names(folder: Path) -> None:
    """An index in which a tensor is named twice: the last one counts for Python, the first for others."""
    said = (folder / INDEX).read_text()
    (folder / INDEX).write_text(said.replace(f'"{CHANGED}":', f'"{CHANGED}": "x.safetensors", "{CHANGED}":'))


INDICES: dict[str, Callable[[Path], object]] = {
    "to a folder beside": lambda folder: elsewhere(folder, "../elsewhere/payload.safetensors"),
    "to an absolute path": lambda folder: elsewhere(folder, "{out}/payload.safetensors"),
    "to a file that is not there": lambda folder: write_index(folder, dict.fromkeys(places(folder), "x.safetensors")),
    "from one file to the other": lambda folder: write_index(folder, dict.fromkeys(places(folder), SHARDS[0])),
    "without one tensor": lambda folder: write_index(folder, dict(list(places(folder).items())[1:])),
    "with one tensor more": lambda folder: write_index(folder, {**places(folder), "more": SHARDS[0]}),
    "without a file": lambda folder: write_index(
        folder, {name: file for name, file in places(folder).items() if file == SHARDS[0]}
    ),
    "to no name": lambda folder: write_index(folder, dict.fromkeys(places(folder), 7)),
    "that is a list": add(INDEX, "[]"),
    "without a map": add(INDEX, "{}"),
    "that is gone": lambda folder: (folder / INDEX).unlink(),
    "a tensor in both files": twice,
    "a tensor twice": two_names,
    "to an adapter": as_adapter,
}


@pytest.mark.parametrize("change", INDICES.values(), ids=INDICES.keys())
def test_an_index_that_says_other_than_the_files_is_refused(tmp_path: Path, change: Callable[[Path], object]) -> None:
    folder = sharded(tmp_path / "model")
    before = base_digest(folder)
    assert INDEX in file_digests(folder)
    change(folder)
    with pytest.raises(ModelError, match="Expected"):
        base_digest(folder)
    with pytest.raises(ModelError, match="Expected"):  # the coordinator reads the layers' shapes from the same files
        adaptable_layers(folder, ("down_proj",))
    assert before != base_digest(tiny_folder())


def names_in(module: object) -> set[str]:
    """Every name of a file that the module of another library has as a constant."""
    found = {value for key, value in vars(module).items() if key.isupper() and isinstance(value, str)}
    return {value for value in found if value.endswith((".json", ".bin", ".safetensors", ".jinja", ".model", ".txt"))}


def test_every_name_that_the_libraries_know_counts_or_is_refused(tmp_path: Path) -> None:
    modules = (transformers.utils, tokenization_utils_base, tokenization_utils_tokenizers, peft.utils.constants)
    known = set().union(*map(names_in, modules))
    assert {"adapter_config.json", "pytorch_model.bin", "special_tokens_map.json", "processor_config.json"} <= known
    untouched = base_digest(tiny_folder())
    for number, name in enumerate(sorted(known)):
        folder = agreed(tmp_path / str(number))
        with (folder / name).open("ab") as file:
            file.write(b" " if name.endswith(".json") and file.tell() else b"{}")
        try:
            assert base_digest(folder) != untouched, name
        except ModelError as error:
            assert "Expected" in str(error)


def test_documentation_and_what_a_download_leaves_count_for_nothing(tmp_path: Path) -> None:
    folder = agreed(tmp_path / "model")
    for name in ("LICENSE", "USE_POLICY.md", ".gitattributes", "configuration.json", "figure 1.png"):
        add(name, "anything")(folder)
    add(".cache/huggingface", "anything")(folder)
    assert base_digest(folder) == base_digest(tiny_folder())


def test_links_of_a_hubs_cache_count_by_content(tmp_path: Path) -> None:
    folder, blobs = tmp_path / "snapshots" / "1", tmp_path / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(agreed(tmp_path / "model").iterdir()):
        shutil.copyfile(path, blobs / str(number))
        (folder / path.name).symlink_to(f"../../blobs/{number}")
    assert base_digest(folder) == base_digest(tiny_folder())
    blob = folder / (folder / "tokenizer.json").readlink()
    blob.write_bytes(blob.read_bytes() + b" ")
    assert base_digest(folder) != base_digest(tiny_folder())
