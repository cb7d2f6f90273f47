"""Which base model to load and how, and where its files are. No torch."""

from dataclasses import dataclass
from pathlib import Path

from fedbank.errors import ModelError
from fedbank.model.folder import tiny_folder


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


def located_folder(spec: ModelSpec) -> Path:
    """Where the files of the base model are; those of a model on a hub are fetched, once.

    Raises:
        ModelError: the hub does not give them.
    """
    if spec.path is not None:
        return Path(spec.path)
    if spec.identifier is None:
        return tiny_folder()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec.identifier, revision=spec.revision))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ModelError(
            f"Expected the files of {spec.identifier}, got none from the hub. Copy the model to this machine and set "
            "model=path model.path=DIR."
        ) from error
