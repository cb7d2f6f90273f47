"""Members that sign releases of synthetic adapters into a coordinator's repository, for the benchmark of releases.

Manifests, signatures and the repository are FedBank's own; only the weights are random.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from tuf.api.metadata import Metadata, TargetFile

from fedbank.membership.folders import locked
from fedbank.release.build import write_release
from fedbank.release.change import Draft, with_channel, with_release
from fedbank.release.contents import FILES, Channel, channel_path, release_path
from fedbank.release.manifest import Manifest, decimal_text
from fedbank.release.offline import ADAPTER, SIGNATURES
from fedbank.release.repository import SIGNED_LIFE
from fedbank.release.signatories import KeySigner, Signatories
from fedbank.release.tensors import written
from fedbank.sealing.keys import SigningKey
from fedbank_server.release_files import ReleaseFiles

BANKS, THRESHOLD, CHANNEL = ("bank-a", "bank-b", "bank-c"), 2, "stable"
_DIGEST = hashlib.sha256(b"benchmark").hexdigest()
_SPENT = {
    "epsilon": "7.31",
    "delta": "0.00001",
    "noise_multiplier": "1.1",
    "clip_norm": "1.0",
    "sampling_prob": "0.1",
    "steps": "60",
}
_SHARDS = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
REST: dict[str, Any] = {
    "licence": "Apache-2.0",
    "data_card": "docs/data-card.md",
    "created": "2026-11-23T12:00:00+00:00",
    "base": {
        "name": "Qwen/Qwen2.5-7B",
        "revision": _DIGEST[:40],
        "digest": _DIGEST,
        "files": dict.fromkeys(_SHARDS, _DIGEST),
    },
    "training": {
        "campaign": "benchmark",
        "rounds": 40,
        "participants": len(BANKS),
        "max_length": 512,
        "rule": "fedsvd",
        "secure_aggregation": True,
        "code": "0.1.0",
        "lock": _DIGEST,
    },
    "privacy": {
        "unit": "customer",
        "accountant": "dp_accounting PLD",
        "mode": "silo",
        "banks": dict.fromkeys(BANKS, _SPENT),
    },
    "evaluation": {
        "suite": _DIGEST,
        "records": 500,
        "base": {"nll": "2.3125", "exact_match": "0.0125"},
        "adapter": {"nll": "1.9875", "exact_match": "0.2125"},
    },
}
"""A manifest but for the adapter: of the length that real ones have."""


@dataclass(frozen=True, slots=True)
class Layout:
    """An adapter's tensors: ``modules`` with (num_in, num_out) in each of ``layers`` blocks, at ``rank``."""

    layers: int
    rank: int
    modules: dict[str, tuple[int, int]]

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Shape of every tensor by its name in a PEFT folder."""
        found = {}
        for layer in range(self.layers):
            for module, (num_in, num_out) in self.modules.items():
                place = "self_attn" if module[0] in "qkvo" else "mlp"
                name = f"base_model.model.model.layers.{layer}.{place}.{module}"
                found[f"{name}.lora_A.weight"] = (self.rank, num_in)
                found[f"{name}.lora_B.weight"] = (num_out, self.rank)
        return found


_WIDE, _HIDDEN, _KEYS = 18944, 3584, 512
SMALL = Layout(24, 1, {"q_proj": (896, 896), "v_proj": (896, 128)})
"""Queries and values of Qwen2.5-0.5B."""
LARGE = Layout(
    28,
    16,
    {
        "q_proj": (_HIDDEN, _HIDDEN),
        "k_proj": (_HIDDEN, _KEYS),
        "v_proj": (_HIDDEN, _KEYS),
        "o_proj": (_HIDDEN, _HIDDEN),
        "gate_proj": (_HIDDEN, _WIDE),
        "up_proj": (_HIDDEN, _WIDE),
        "down_proj": (_WIDE, _HIDDEN),
    },
)
"""Every linear layer of Qwen2.5-7B at rank 16: 40 million parameters, 161 MB as float32."""


class Members:
    """Three banks, two of whom sign each change, and a coordinator whose repository is in ``coordinator``."""

    def __init__(self, coordinator: Path) -> None:
        coordinator.mkdir(exist_ok=True)
        self._coordinator, files = coordinator, ReleaseFiles(coordinator)
        self.repository, self._online = files.repository, files.load_online()
        self._scratch, self.published, self.last = coordinator / "made", 0, ""
        self._keys = [SigningKey.derived("benchmark", "release", bank) for bank in BANKS]
        public = {bank: key.public for bank, key in zip(BANKS, self._keys, strict=True)}
        root = Signatories("benchmark", public, THRESHOLD, self._online.public).root(1, _until())
        self._publish(Draft(Metadata(root), None), {})
        self.root = self.repository.first_root() or b""

    def release(self, name: str, layout: Layout, dtype: str = "F32") -> None:
        """Publish a release, and let the channel name it: two changes."""
        folder = self._scratch / name
        synthetic_release(folder, name, self.last or None, layout, dtype)
        paths = {release_path(name, file): folder / file for file in FILES}
        listed = {path: TargetFile.from_file(path, str(at), ["sha256"]) for path, at in paths.items()}
        now = self.repository.current()
        self._publish(Draft(None, Metadata(with_release(now.signed if now else None, listed, _until()))), paths)
        self.published, self.last = self.published + 1, name
        place, channel, current = folder / "channel.json", Channel(name, self.published), self.repository.current()
        assert current is not None
        place.write_bytes(channel.to_bytes())
        draft = Draft(None, Metadata(with_channel(current.signed, CHANNEL, channel, _until())))
        self._publish(draft, {channel_path(CHANNEL): place})
        shutil.rmtree(folder)

    def folder_of(self, name: str, target: Path) -> Path:
        """A copy of the release with its signatures, as a bank keeps it."""
        current = self.repository.current()
        assert current is not None
        (target / ADAPTER).mkdir(parents=True)
        (target / SIGNATURES).mkdir()
        for file in FILES:
            listed = current.signed.targets[release_path(name, file)]
            shutil.copyfile(self.repository.path_of(listed), target / ADAPTER / file)
        (target / SIGNATURES / "1.root.json").write_bytes(self.root)
        newest = self.repository.metadata / f"{current.signed.version}.targets.json"
        shutil.copyfile(newest, target / SIGNATURES / "targets.json")
        return target

    def _publish(self, draft: Draft, files: dict[str, Path]) -> None:
        for part in draft.parts():
            for key in self._keys[:THRESHOLD]:
                part.sign(KeySigner(key), append=True)
        with locked(self._coordinator):
            self.repository.publish(draft, files, self._online, datetime.now(UTC))


def synthetic_release(folder: Path, name: str, parent: str | None, layout: Layout, dtype: str) -> None:
    """The four files of a release with random weights of ``dtype`` (F32 or BF16)."""
    shapes, layers = layout.shapes(), list(range(layout.layers))
    weights, norm = _weights(shapes, dtype, seed=name)
    adapter = {
        "digest": _DIGEST,
        "rank": layout.rank,
        "alpha": "32.0",
        "target_modules": sorted(layout.modules),
        "layers": layers,
        "dtype": dtype,
        "tensors": written(shapes, layers),
        "norm": decimal_text(float(f"{norm:.9g}")),
    }
    write_release(folder, Manifest(release=name, parent=parent, adapter=adapter, **REST), weights)


def _weights(shapes: dict[str, tuple[int, int]], dtype: str, seed: str) -> tuple[bytes, float]:
    """A safetensors file (8 bytes of length, a header in JSON, the values) and its L2 norm."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]))
    header: dict[str, Any] = {}
    values: list[bytes] = []
    end, squares = 0, 0.0
    for name, shape in shapes.items():
        drawn = rng.standard_normal(shape, np.float32) * np.float32(0.01)
        upper = drawn.view(np.uint32) >> 16  # bfloat16 is the upper half of a float32
        kept = drawn if dtype == "F32" else (upper << 16).view(np.float32)
        squares += float(np.dot(kept.ravel(), kept.ravel()))
        values.append(drawn.tobytes() if dtype == "F32" else upper.astype("<u2").tobytes())
        begin, end = end, end + len(values[-1])
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *values]), float(np.sqrt(squares))


def _until() -> datetime:
    return (datetime.now(UTC) + SIGNED_LIFE).replace(microsecond=0)
