"""Which files of a model's folder count, which are documentation, and which nobody may load. No torch.

transformers, tokenizers, PEFT and vLLM look for files by name: an adapter beside the weights is loaded without a word,
an index sends the loader elsewhere. So every name is known here, or the folder is refused.
"""

import re
from pathlib import Path

from fedbank.errors import ModelError
from fedbank.model.reading import unreadable

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_COUNTED = frozenset(
    {
        "added_tokens.json",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        INDEX,
    }
)
"""Beside the weights, what decides what the model computes from a text."""
_WEIGHTS = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}\.safetensors")
_ADAPTER = re.compile(r"adapter_.*", re.IGNORECASE)
_PICKLED = re.compile(r".*\.(bin|pt|pth|pkl|pickle|ckpt)", re.IGNORECASE)
_CODE = re.compile(r".*\.(py|pyc|so)", re.IGNORECASE)
_DOCUMENTATION = re.compile(
    r"\..*"  # such as .gitattributes and a download's .cache: no loader looks there
    r"|[A-Za-z0-9 ._-]+\.(md|pdf|png|jpg|jpeg|svg)"
    r"|(LICENSE|Licence|NOTICE|Notice)(\.txt)?"
    r"|configuration\.json"  # ModelScope's own
    r"|SHA256SUMS"
)


def counted_names(folder: Path) -> tuple[str, ...]:
    """The names of the files in ``folder`` that its digest covers, sorted, the weights (``*.safetensors``) among them.

    Links are followed: a file counts by its content. Documentation and names that begin with a dot are left out; they
    never reach a loader.

    Raises:
        ModelError: the folder cannot be read, holds no weights, or something that is neither counted nor documentation.
    """
    try:
        found = sorted(folder.iterdir())
        names = [path.name for path in found if not _is_documentation(path)]
    except OSError as error:
        raise unreadable(folder, error) from error
    weights = [name for name in names if is_weights(name)]
    for name in names:
        if not is_weights(name) and name not in _COUNTED:
            raise ModelError(_refusal(folder, name, bool(weights)))
    if not weights:
        raise ModelError(
            f"Expected weights (*.safetensors) in {folder}, got none. Set model.path to the folder of a Qwen model."
        )
    _check_weight_names(folder, weights, INDEX in names)
    return tuple(names)


def is_weights(name: str) -> bool:
    """Whether a file of this name is taken for weights; an adapter's are none."""
    return _WEIGHTS.fullmatch(name) is not None and not _ADAPTER.fullmatch(name)


def _is_documentation(path: Path) -> bool:
    if _DOCUMENTATION.fullmatch(path.name) is None:
        return False
    return path.name.startswith(".") or not path.is_dir()


def _check_weight_names(folder: Path, weights: list[str], indexed: bool) -> None:
    """One file without an index, or several with one: a loader that finds both takes one of them and says nothing."""
    if indexed and SINGLE in weights:
        raise ModelError(
            f"Expected either {SINGLE} or {INDEX} with its files in {folder}, got both. A loader takes only one of "
            "them; remove the other."
        )
    if not indexed and weights != [SINGLE]:
        other = next(name for name in weights if name != SINGLE)
        raise ModelError(
            f"Expected {SINGLE} alone in {folder}, or {INDEX} with the files that it names, got {other}. Copy the "
            "model again, with its index."
        )


def _refusal(folder: Path, name: str, has_weights: bool) -> str:
    if _PICKLED.fullmatch(name):
        beside = "" if has_weights else "and no safetensors, "
        return (
            f"Expected safetensors weights in {folder}, got pickled ones ({name!r:.80}), {beside}"
            "which can run code when they are opened. Remove them; convert weights with save_pretrained on a machine "
            "you can spare."
        )
    if _ADAPTER.fullmatch(name):
        return (
            f"Expected a base model alone in {folder}, got {name!r:.80}: an adapter beside it would be loaded with it. "
            "Move the adapter to a folder of its own."
        )
    if _CODE.fullmatch(name):
        return f"Expected no code in {folder}, got {name!r:.80}. FedBank runs no code of a model's folder; remove it."
    if (folder / name).is_dir():
        return (
            f"Expected no folder in {folder}, got {name!r:.80}, whose files the digest does not cover. Copy the "
            "model's own files into a folder without it."
        )
    return (
        f"Expected only files in {folder} that the base model's digest covers, or documentation, got {name!r:.80}. "
        "Copy the model's own files into a folder without it."
    )
