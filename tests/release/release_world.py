"""Three banks and a coordinator with real keys, real TUF metadata and a real folder that serves as the repository."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, TargetFile
from tuf.ngclient import FetcherInterface

from fedbank.release.change import Draft, anew, with_channel, with_release
from fedbank.release.contents import (
    CARD,
    CONFIG,
    FILES,
    MANIFEST,
    WEIGHTS,
    Channel,
    Contents,
    channel_path,
    release_path,
)
from fedbank.release.inspection import adapter_config
from fedbank.release.manifest import Manifest
from fedbank.release.mirror import Mirror
from fedbank.release.repository import SIGNED_LIFE, Repository
from fedbank.release.signatories import KeySigner, Signatories
from fedbank.sealing.keys import SigningKey

BANKS = ("bank1", "bank2", "bank3")


class FolderFetcher(FetcherInterface):
    """Serves a folder as a web server would."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []  # type: ignore[var-annotated]

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix("https://repository/")
        self.asked.append(name)
        path = self.folder / name
        if not path.is_file():
            raise DownloadHTTPError(f"no {name}", 404)
        return iter([path.read_bytes()])


class World:
    """``banks`` hold release keys, the coordinator the online key; ``repository`` is what members fetch from."""

    def __init__(self, folder: Path, banks: tuple[str, ...] = BANKS, threshold: int = 2) -> None:
        self.folder, self.now = folder, datetime.now(UTC)
        self.keys = {bank: SigningKey.derived("release", bank) for bank in banks}
        self.online = SigningKey.derived("online")
        self.repository = Repository(folder / "repository")
        self.threshold = threshold
        self.publish(self.root_change(), banks)
        self.pinned = self.repository.first_root() or b""

    @property
    def expires(self) -> datetime:
        return (self.now + SIGNED_LIFE).replace(microsecond=0)

    def signatories(self) -> Signatories:
        public = {bank: key.public for bank, key in self.keys.items()}
        return Signatories("alliance", public, self.threshold, self.online.public)

    def root_change(self) -> Draft:
        now, targets = self.repository.root(), self.repository.current()
        root = self.signatories().root((now.signed.version if now else 0) + 1, self.expires)
        again = anew(targets.signed, self.expires) if targets else None
        return Draft(Metadata(root), Metadata(again) if again else None)

    def release(self, name: str, value: float = 0.5, **changes: Any) -> Path:
        """A folder with the four files of a release."""
        folder = self.folder / "made" / name
        folder.mkdir(parents=True)
        write_release(folder, name, value, **changes)
        return folder

    def release_change(self, folder: Path) -> tuple[Draft, dict[str, Path]]:
        now, name = self.repository.current(), folder.name
        paths = {release_path(name, file): folder / file for file in FILES}
        files = {path: TargetFile.from_file(path, str(at), ["sha256"]) for path, at in paths.items()}
        return Draft(None, Metadata(with_release(now.signed if now else None, files, self.expires))), paths

    def channel_change(self, name: str, release: str, seq: int, place: Path) -> tuple[Draft, dict[str, Path]]:
        now = self.repository.current()
        assert now is not None
        channel = Channel(release, seq)
        place.write_bytes(channel.to_bytes())
        return Draft(None, Metadata(with_channel(now.signed, name, channel, self.expires))), {channel_path(name): place}

    def sign(self, draft: Draft, *banks: str) -> None:
        for bank in banks:
            self.sign_with(draft, self.keys[bank])

    def sign_with(self, draft: Draft, key: SigningKey) -> None:
        for part in draft.parts():
            part.sign(KeySigner(key), append=True)

    def publish(self, draft: Draft, banks: tuple[str, ...], files: dict[str, Path] | None = None) -> None:
        self.sign(draft, *banks)
        self.repository.publish(draft, files or {}, self.online, self.now)

    def add(self, name: str, value: float = 0.5, channel: str | None = None) -> None:
        """A release, signed by two banks; in ``channel`` too."""
        change, files = self.release_change(self.release(name, value))
        self.publish(change, ("bank1", "bank2"), files)
        if channel:
            self.move(channel, name)

    def move(self, channel: str, release: str) -> None:
        """A channel names a release, signed by two banks."""
        current = self.repository.current()
        assert current is not None
        listed = Contents.of(current.signed).channels.get(channel)
        seq = Channel.from_bytes(self.repository.path_of(listed).read_bytes()).seq + 1 if listed else 1
        change, files = self.channel_change(channel, release, seq, self.folder / f"{channel}-{seq}.json")
        self.publish(change, ("bank2", "bank3"), files)

    def mirror(self, bank: str = "bank1", served: Path | None = None) -> Mirror:
        fetcher = FolderFetcher(served or self.folder / "repository")
        return Mirror(self.folder / bank / "trust", self.pinned, fetcher, "https://repository")


def tensors(value: float) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(7)
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    return {
        f"{name}.lora_A.weight": rng.standard_normal((4, 16)).astype(np.float32),
        f"{name}.lora_B.weight": np.full((8, 4), value, np.float32),
    }


def manifest_of(name: str, value: float, **changes: Any) -> Manifest:
    weights = tensors(value)
    norm = np.sqrt(sum(float((tensor.astype(np.float64) ** 2).sum()) for tensor in weights.values()))
    spent = {
        "epsilon": "7.31",
        "delta": "0.00001",
        "noise_multiplier": "1.1",
        "clip_norm": "1.0",
        "sampling_prob": "0.1",
        "steps": "60",
    }
    digest = hashlib.sha256(b"base").hexdigest()
    manifest = Manifest(
        release=name,
        parent=None,
        licence="Apache-2.0",
        data_card="docs/data-card.md",
        created="2026-11-23T12:00:00+00:00",
        base={"name": "fedbank/tiny-qwen3", "revision": "1", "digest": digest, "files": {"model.safetensors": digest}},
        adapter={
            "digest": digest,
            "rank": 4,
            "alpha": "8.0",
            "target_modules": ["q_proj"],
            "layers": [0],
            "dtype": "F32",
            "tensors": {key: list(tensor.shape) for key, tensor in weights.items()},
            "norm": f"{norm:.9g}",
        },
        training={
            "campaign": "spring",
            "rounds": 3,
            "participants": 3,
            "max_length": 96,
            "rule": "fedsvd",
            "secure_aggregation": False,
            "code": "0.1.0",
            "lock": digest,
        },
        privacy={
            "unit": "customer",
            "accountant": "pld",
            "mode": "silo",
            "banks": {"bank1": spent, "bank2": spent, "bank3": None},
        },
        evaluation={"suite": digest, "records": 40, "base": {"nll": "2.31"}, "adapter": {"nll": "1.97"}},
    )
    return replace(manifest, **changes)


def write_release(folder: Path, name: str, value: float = 0.5, **changes: Any) -> None:
    manifest = manifest_of(name, value, **changes)
    (folder / WEIGHTS).write_bytes(save(tensors(value)))
    (folder / MANIFEST).write_bytes(manifest.to_bytes())
    (folder / CONFIG).write_bytes(adapter_config(manifest))
    (folder / CARD).write_text(f"# {name}\n", "utf-8")
