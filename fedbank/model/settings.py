"""Settings in a model's folder that would send a loader elsewhere, or to code: refused. No torch.

The digest covers what these files say; it cannot cover what they point to.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from fedbank.errors import ModelError
from fedbank.model.reading import parse_object, read_small

_LEADS_ELSEWHERE: Mapping[str, str] = {
    "auto_map": "code beside the model or on a hub",
    "custom_pipelines": "code beside the model",
    "configuration_files": "another configuration",
    "transformers_weights": "other weights",
    "gguf_file": "other weights",
    "speculators_config": "another model",
    "quantization_config": "a way of quantising that FedBank does not support",
    "compression_config": "a way of quantising that FedBank does not support",
}
_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
_TOKENIZER = frozenset(
    {
        "add_prefix_space",
        "added_tokens_decoder",
        "backend",
        "chat_template",
        "clean_up_tokenization_spaces",
        "errors",
        "is_local",
        "legacy",
        "local_files_only",
        "max_length",
        "model_input_names",
        "model_max_length",
        "name_or_path",
        "pad_to_multiple_of",
        "pad_token_type_id",
        "padding",
        "padding_side",
        "processor_class",
        "split_special_tokens",
        "stride",
        "tokenizer_class",
        "truncation",
        "truncation_side",
        "truncation_strategy",
        "use_fast",
    }
)
"""Beside special tokens. A tokenizer takes other settings too: a vocabulary by path is read wherever it is."""
_ROPE = frozenset({"default", "linear", "yarn", "llama3"})
"""Rotary embeddings that are functions of a position alone: others remember the longest text that they have seen, and
would carry it from one customer to all that come after."""
_ARCHITECTURES = {"qwen2": ["Qwen2ForCausalLM"], "qwen3": ["Qwen3ForCausalLM"]}
_NORMALISERS = (None, "NFC")
_TOKENIZER_CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
_SPECIAL = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")
_KNOWN: Mapping[str, Collection[str]] = {
    "special_tokens_map.json": _SPECIAL,
    "tokenizer_config.json": {*_TOKENIZER, *_SPECIAL},
}


def check_settings(folder: Path) -> None:
    """Refuse settings of ``folder`` that name code, files or another model.

    Raises:
        ModelError: names the file and the setting.
    """
    for name in _FILES:
        if (folder / name).exists():
            _check(folder / name)
    if (folder / "config.json").exists():
        _check_model(folder / "config.json")
    if (folder / "tokenizer.json").exists():
        _check_tokenizer(folder / "tokenizer.json")


def _check_model(path: Path) -> None:
    """One class in every program, and nothing that outlives a text."""
    said = parse_object(read_small(path), path)
    own = _ARCHITECTURES.get(str(said.get("model_type")))
    named = said.get("architectures")
    if own is not None and named not in (None, own):
        raise ModelError(
            f"Expected architectures {own} in {path}, got {named!r:.80}: another program would run another model. Use "
            "a Qwen model as it was published."
        )
    for key in ("rope_parameters", "rope_scaling"):
        for kind in _rope_types(said.get(key)):
            if kind not in _ROPE:
                raise ModelError(
                    f"Expected {key} in {path} of the type {', '.join(sorted(_ROPE))}, got {kind!r:.80}, which may "
                    "remember one customer's text while another's is computed. Use a model without it."
                )


def _rope_types(value: object) -> Iterator[object]:
    """The types that a setting of rotary embeddings names, however deep."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("rope_type", "type"):
                yield inner
            else:
                yield from _rope_types(inner)


def _check_tokenizer(path: Path) -> None:
    """One text has one encoding, about as long as the text."""
    said = parse_object(read_small(path), path)
    model, normaliser = said.get("model"), said.get("normalizer")
    kind = normaliser.get("type") if isinstance(normaliser, dict) else normaliser
    dropout = model.get("dropout") if isinstance(model, dict) else None
    if kind not in _NORMALISERS or dropout is not None:
        raise ModelError(
            f"Expected a tokenizer in {path} without dropout and with no normaliser but NFC, got dropout "
            f"{dropout!r:.40} and {kind!r:.80}. Use a Qwen model with its own tokenizer."
        )


def _check(path: Path) -> None:
    said = parse_object(read_small(path), path)
    for key, value in said.items():
        if value is None:
            continue
        if key in _LEADS_ELSEWHERE:
            raise ModelError(
                f"Expected no {key} in {path}, got one: it names {_LEADS_ELSEWHERE[key]}, which the digest does not "
                "cover. Use a model without it."
            )
        known = _KNOWN.get(path.name)
        if known is not None and not key.endswith("_token") and key not in known:
            raise ModelError(
                f"Expected only known settings of a tokenizer in {path}, got {key!r:.80}, which may lead to other "
                "files. Use a model without it."
            )
        if key == "tokenizer_class" and value not in _TOKENIZER_CLASSES:
            raise ModelError(
                f"Expected tokenizer_class in {path} to be one of {', '.join(_TOKENIZER_CLASSES)}, got {value!r:.80}. "
                "Use a Qwen model with its own tokenizer."
            )
