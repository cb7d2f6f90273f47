"""Settings in a model's folder that would send a loader elsewhere, or to code: refused. No torch.

The digest covers what these files say; it cannot cover what they point to.
"""

from collections.abc import Mapping
from pathlib import Path

from fedbank.errors import ModelError
from fedbank.model.reading import parse_object, read_small

_LEADS_ELSEWHERE: Mapping[str, str] = {
    "auto_map": "code beside the model or on a hub",
    "custom_pipelines": "code beside the model",
    "configuration_files": "another configuration",
    "transformers_weights": "other weights",
    "gguf_file": "other weights",
    "quantization_config": "a way of quantising that FedBank does not support",
    "compression_config": "a way of quantising that FedBank does not support",
    "init_inputs": "arguments of a tokenizer",
    "tokenizer_object": "arguments of a tokenizer",
}
_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
_SPECIAL = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")


def check_settings(folder: Path) -> None:
    """Refuse settings of ``folder`` that name code, files or another model.

    Raises:
        ModelError: names the file and the setting.
    """
    for name in _FILES:
        if (folder / name).exists():
            _check(folder / name)


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
        if path.name.startswith("tokenizer") and key.endswith(("_file", "_files")):
            raise ModelError(
                f"Expected no file in the settings of {path}, got {key!r:.80}: a tokenizer would read it wherever it "
                "is. Use a model without it."
            )
        if path.name == "special_tokens_map.json" and not key.endswith("_token") and key not in _SPECIAL:
            raise ModelError(
                f"Expected only special tokens in {path}, got {key!r:.80}, which would change the tokenizer. Use a "
                "model without it."
            )
