"""Loads a Qwen base model and its tokenizer, from a folder of this machine or by a pinned identifier.

Refuses what a bank must not load: pickled weights, remote code, another architecture.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedbank.errors import ModelError
from fedbank.model.folder import tiny_folder

_ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_CHECKPOINTING: dict[str | bool, str] = {
    **{mode: mode for mode in ("none", "reentrant", "non-reentrant")},
    False: "none",
    True: "non-reentrant",
}
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which base model to load and how.

    ``path`` is a local folder; otherwise ``identifier`` with ``revision`` names a model on a hub; with neither
    it is the tiny Qwen3 that ships with the package. ``quantisation`` is ``"none"`` or ``"nf4"`` (4-bit NF4,
    Dettmers et al. 2023, arXiv:2305.14314). ``dtype`` is that of the frozen weights and the computation.
    ``gradient_checkpointing`` is ``"none"``, ``"reentrant"`` or ``"non-reentrant"``; ``False`` and ``True`` stand for
    the first and the last.
    """

    name: str
    path: str | None = None
    identifier: str | None = None
    revision: str | None = None
    dtype: str = "float32"
    quantisation: str = "none"
    gradient_checkpointing: bool | str = False
    device: str = "auto"


@dataclass(slots=True)
class BaseModel:
    """A frozen base model on its device; ``reference`` is what a model card calls it."""

    model: Any
    reference: str
    device: torch.device


def load_tokenizer(spec: ModelSpec) -> Any:
    """The base model's own tokenizer."""
    source, options = _locate(spec)
    if isinstance(source, Path):
        _check_tokenizer(source)
    with _as_model_error(source):
        return AutoTokenizer.from_pretrained(source, **options)


def load_base_model(spec: ModelSpec) -> BaseModel:
    """Load, freeze and move to the device, in this order, *before* any adapter is attached.

    Adding LoRA first and moving later trains nothing while reporting epsilon (opacus issue 820).
    """
    source, options = _locate(spec)
    device = _device(spec.device)
    # A frozen base never drops anything: checkpointing runs it in training mode, and dropout in the attention
    # would make a gradient depend on the order of the records.
    options |= {"dtype": _DTYPES[spec.dtype], "attn_implementation": "sdpa", "attention_dropout": 0.0}
    if spec.quantisation == "nf4":
        options |= _nf4(device)
    with _as_model_error(source):
        model, report = AutoModelForCausalLM.from_pretrained(
            source, use_safetensors=True, output_loading_info=True, **options
        )
    _check_complete(source, report)
    if getattr(model.config, "model_type", None) not in _ARCHITECTURES:
        raise ModelError(_wrong_architecture(source, getattr(model.config, "model_type", "unknown")))
    model.requires_grad_(False)
    if spec.quantisation == "none":
        model.to(device)
    enable_checkpointing(model, _CHECKPOINTING[spec.gradient_checkpointing])
    model.eval()
    return BaseModel(model, _reference(spec), device)


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
    source, _ = _locate(spec)
    if isinstance(source, Path):
        _check_folder(source)


def _locate(spec: ModelSpec) -> tuple[Path | str, dict[str, Any]]:
    if spec.path is not None:
        return Path(spec.path), {"local_files_only": True}
    if spec.identifier is not None:
        return spec.identifier, {"revision": spec.revision}
    return tiny_folder(), {"local_files_only": True}


def _check_complete(source: Path | str, report: dict[str, Any]) -> None:
    """transformers fills missing weights with random ones; here that is an error."""
    wrong = [*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])]
    if wrong:
        raise ModelError(
            f"Expected all weights of the model at {source}, got a checkpoint in which {len(wrong)} are missing or of "
            f"another shape, {sorted(wrong)[0]} among them. Copy the complete model again."
        )


@contextmanager
def _as_model_error(source: Path | str) -> Iterator[None]:
    """Whatever a damaged folder or an unreachable hub raises, in our words."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"Expected a loadable Qwen model at {source}, got: {_first_line(error)} "
            "Check the folder against its origin, or that the hub can be reached."
        ) from error


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(
            f"Expected a model folder at {folder}, got {'a file' if folder.exists() else 'nothing'}. "
            "Set model.path to the folder that holds config.json."
        )
    try:
        config = json.loads((folder / "config.json").read_bytes())
        model_type = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(
            f"Expected {folder}/config.json with a model_type, got: {_first_line(error)} "
            "Set model.path to a complete Hugging Face model folder."
        ) from error
    if not isinstance(model_type, str) or model_type not in _ARCHITECTURES:
        raise ModelError(_wrong_architecture(folder, model_type))
    if any(folder.glob("*.safetensors")):
        _check_tokenizer(folder)
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"Expected safetensors weights in {folder}, got pickled ones ({', '.join(pickles[:3])}), "
            "which can run code when they are opened. Convert them with save_pretrained on a machine you can spare."
        )
    raise ModelError(
        f"Expected weights (*.safetensors) in {folder}, got none. Copy the model's weight files into the folder."
    )


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
