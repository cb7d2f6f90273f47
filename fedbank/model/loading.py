"""Loads a Qwen base model and its tokenizer, from a folder of this machine or by a pinned identifier.

Refuses what a bank must not load: pickled weights, remote code, another architecture. Everything that loads a base
model comes through here: what is loaded is what was hashed (``verified``).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedbank.errors import ModelError
from fedbank.model.contents import counted_names
from fedbank.model.reading import parse_object, read_small
from fedbank.model.settings import check_settings
from fedbank.model.spec import ModelSpec, located_folder
from fedbank.model.templates import check_template, limit_templates
from fedbank.model.verified import VerifiedFolder, tokenizer_folder, verified_folder

_ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_CHECKPOINTING: dict[str | bool, str] = {
    **{mode: mode for mode in ("none", "reentrant", "non-reentrant")},
    False: "none",
    True: "non-reentrant",
}
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


@dataclass(slots=True)
class BaseModel:
    """A frozen base model on its device; ``reference`` is what a model card calls it, ``digest`` that of its files."""

    model: Any
    reference: str
    device: torch.device
    digest: str


@dataclass(frozen=True, slots=True)
class OpenedBase:
    """A base model's verified folder, to load from until its block ends."""

    spec: ModelSpec
    folder: VerifiedFolder

    @property
    def digest(self) -> str:
        """Of the files that ``model`` and ``tokenizer`` load."""
        return self.folder.digest

    def model(self) -> BaseModel:
        """As ``load_base_model``."""
        return _load_model(self.spec, self.folder)

    def tokenizer(self) -> Any:
        """As ``load_tokenizer``."""
        return _load_tokenizer(self.folder.path, self.folder.source)


@contextmanager
def opened_base(spec: ModelSpec) -> Iterator[OpenedBase]:
    """The base model, hashed, to load from until the block ends. Reads all files once.

    Raises:
        ModelError: it is no base model that can be loaded.
    """
    source = located_folder(spec)
    _check_folder(source)
    with verified_folder(source) as folder:
        yield OpenedBase(spec, folder)


def load_tokenizer(spec: ModelSpec) -> Any:
    """The base model's own tokenizer, whose chat template was tried (``templates``)."""
    source = located_folder(spec)
    _check_tokenizer(source)
    with tokenizer_folder(source) as folder:
        return _load_tokenizer(folder, source)


def load_base_model(spec: ModelSpec) -> BaseModel:
    """Load, freeze and move to the device, in this order, *before* any adapter is attached.

    Adding LoRA first and moving later trains nothing while reporting epsilon (opacus issue 820).
    """
    with opened_base(spec) as opened:
        return opened.model()


def enable_checkpointing(model: Any, mode: str) -> None:
    """Recompute activations in the backward pass: ``"none"``, ``"reentrant"`` or ``"non-reentrant"``."""
    if mode == "none":
        return
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": mode == "reentrant"})
    if mode == "reentrant":
        # A frozen embedding's output needs no gradient, and a reentrant layer whose input needs none trains nothing.
        model.enable_input_require_grads()


def checkpointing_mode(model: Any) -> str:
    """The mode that ``model`` is in, whoever enabled it."""
    decoder = model.model
    if not decoder.gradient_checkpointing:
        return "none"
    keywords = getattr(decoder._gradient_checkpointing_func, "keywords", {})
    return "reentrant" if keywords.get("use_reentrant", True) else "non-reentrant"


def check_model_source(spec: ModelSpec) -> None:
    """Refuse an unusable model folder or setting in milliseconds, before anything is written."""
    if spec.dtype not in _DTYPES:
        raise ModelError(f"Expected model.dtype to be one of {', '.join(_DTYPES)}, got {spec.dtype!r}.")
    if spec.quantisation not in ("none", "nf4"):
        raise ModelError(f"Expected model.quantisation to be none or nf4, got {spec.quantisation!r}.")
    if spec.gradient_checkpointing not in _CHECKPOINTING:
        raise ModelError(
            "Expected model.gradient_checkpointing to be none, reentrant or non-reentrant, got "
            f"{spec.gradient_checkpointing!r}."
        )
    if spec.name == "path" and not spec.path:
        raise ModelError("Expected model.path=DIR with model=path, got none. Name a folder with Qwen weights.")
    if spec.path is not None or spec.identifier is None:
        _check_folder(located_folder(spec))


def _load_tokenizer(folder: Path, source: Path) -> Any:
    with _as_model_error(folder, source):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    tokenizer.name_or_path = str(source)
    check_template(tokenizer)
    limit_templates(tokenizer)
    return tokenizer


def _load_model(spec: ModelSpec, folder: VerifiedFolder) -> BaseModel:
    device = _device(spec.device)
    # A frozen base never drops anything: checkpointing runs it in training mode, and dropout in the attention
    # would make a gradient depend on the order of the records.
    options = {"dtype": _DTYPES[spec.dtype], "attn_implementation": "sdpa", "attention_dropout": 0.0}
    if spec.quantisation == "nf4":
        options |= _nf4(device)
    with _as_model_error(folder.path, folder.source):
        model, report = AutoModelForCausalLM.from_pretrained(
            folder.path,
            use_safetensors=True,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
            **options,
        )
    _check_complete(folder.source, report)
    if getattr(model.config, "model_type", None) not in _ARCHITECTURES:
        raise ModelError(_wrong_architecture(folder.source, getattr(model.config, "model_type", "unknown")))
    _check_tied(folder.source, model)
    model.config._name_or_path = model.name_or_path = str(folder.source)
    model.requires_grad_(False)
    if spec.quantisation == "none":
        model.to(device)
    _own_memory(model)
    folder.check_unchanged()
    enable_checkpointing(model, _CHECKPOINTING[spec.gradient_checkpointing])
    model.eval()
    return BaseModel(model, _reference(spec), device, folder.digest)


def _own_memory(model: Any) -> None:
    """transformers leaves weights of the asked dtype in the file, mapped: who wrote there later would change them."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def _check_tied(source: Path, model: Any) -> None:
    """Some programs use the embedding where it says so, others an output layer that the file has beside it."""
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    if model.config.tie_word_embeddings and not torch.equal(head, embedding):
        raise ModelError(
            f"Expected an output layer that is the embedding in the model at {source}, as tie_word_embeddings says, "
            "got another one in the file. Copy the model again from its origin."
        )


def _check_complete(source: Path, report: dict[str, Any]) -> None:
    """transformers fills missing weights with random ones, and drops those that it does not know; here both are errors.

    What the digest covers is what runs: a weight that nobody uses is there by mistake, or for another program.
    """
    wrong = [*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])]
    if wrong:
        raise ModelError(
            f"Expected all weights of the model at {source}, got a checkpoint in which {len(wrong)} are missing or of "
            f"another shape, {sorted(wrong)[0]} among them. Copy the complete model again."
        )
    if unused := sorted(report["unexpected_keys"]):
        raise ModelError(
            f"Expected only weights that the model at {source} uses, got {len(unused)} others, {unused[0]} among them. "
            "Copy the model again from its origin."
        )


@contextmanager
def _as_model_error(folder: Path, source: Path) -> Iterator[None]:
    """Whatever a damaged folder raises, in our words, and of the folder that a person knows."""
    try:
        yield
    except (
        OSError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        SafetensorError,
    ) as error:
        raise ModelError(
            f"Expected a loadable Qwen model at {source}, got: {_first_line(error).replace(str(folder), str(source))} "
            "Check the folder against its origin."
        ) from error


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(
            f"Expected a model folder at {folder}, got {'a file' if folder.exists() else 'nothing'}. "
            "Set model.path to the folder that holds config.json."
        )
    path = folder / "config.json"
    if not path.exists():
        raise ModelError(f"Expected {path}, got none. Set model.path to a complete Hugging Face model folder.")
    model_type = parse_object(read_small(path), path).get("model_type", "no model_type")
    if not isinstance(model_type, str) or model_type not in _ARCHITECTURES:
        raise ModelError(_wrong_architecture(folder, model_type))
    counted_names(folder)
    check_settings(folder)
    _check_tokenizer(folder)


def _check_tokenizer(folder: Path) -> None:
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(
            f"Expected the model's tokenizer ({' or '.join(_TOKENIZER_FILES)}) in {folder}, got none. "
            "Copy the tokenizer's files into the folder."
        )


def _wrong_architecture(source: Path | str, found: object) -> str:
    return (
        f"Expected a Qwen2, Qwen2.5 or Qwen3 model (model_type {' or '.join(_ARCHITECTURES)}) at {source}, "
        f"got {found!r}. Choose a Qwen base model."
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"Expected model.device to be auto, cpu or cuda, got {name!r}.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError("Expected a CUDA device for model.device=cuda, got none. Use model.device=auto or cpu.")
    return device


def _nf4(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        raise ModelError(
            "Expected a CUDA GPU for a 4-bit NF4 base model, got none. Use model.quantisation=none, or model=tiny."
        )
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _reference(spec: ModelSpec) -> str:
    if spec.path is not None:
        return Path(spec.path).name
    return spec.identifier or "fedbank/tiny-qwen3"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".") + "."
