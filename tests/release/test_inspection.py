"""Faults 29, 30 and 31 as a table: folders that are refused before any library of models sees them."""

import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from release_world import manifest_of, tensors, write_release
from safetensors.numpy import save

from fedbank.release.contents import CARD, CONFIG, FILES, MANIFEST, WEIGHTS
from fedbank.release.errors import ReleaseError
from fedbank.release.inspection import inspect


def _config(**changes: Any) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        said = json.loads((folder / CONFIG).read_bytes())
        (folder / CONFIG).write_text(json.dumps(said | changes, indent=2, sort_keys=True))

    return attack


def _header(change: Callable[[dict[str, Any]], None], *, pad: int = 0) -> Callable[[Path], None]:
    """The weights with another header over the same bytes."""

    def attack(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        change(header)
        said = json.dumps(header).encode() + b" " * pad
        (folder / WEIGHTS).write_bytes(len(said).to_bytes(8, "little") + said + content[end:])

    return attack


def _weights(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        found = tensors(0.5)
        change(found)
        (folder / WEIGHTS).write_bytes(save(found))

    return attack


def _first(header: dict[str, Any]) -> dict[str, Any]:
    return next(entry for name, entry in sorted(header.items()) if name != "__metadata__")  # type: ignore[no-any-return]


def _set(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda header: _first(header).update({name: value})


def _halves(found: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.astype(np.float16) for name, tensor in found.items()}


def _fill(value: float) -> Callable[[dict[str, Any]], None]:
    return lambda found: next(iter(found.values())).__setitem__((0, 0), value)


def a_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / WEIGHTS, "w") as archive:
        archive.writestr("../../escaped", "x" * 100_000)


def a_tar(folder: Path) -> None:
    with tarfile.open(folder / WEIGHTS, "w") as archive:
        archive.addfile(tarfile.TarInfo("/tmp/escaped"), io.BytesIO())


def a_pickle(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps({"weights": [1.0] * 1000}))


def a_pickle_beside(folder: Path) -> None:
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({}))


def code_beside(folder: Path) -> None:
    (folder / "modeling_qwen.py").write_text("raise SystemExit")


def a_folder_beside(folder: Path) -> None:
    (folder / "checkpoint").mkdir()


def a_link_outside(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "elsewhere")
    (folder / WEIGHTS).symlink_to(folder.parent / "elsewhere")


def a_pipe(folder: Path) -> None:
    (folder / CARD).unlink()
    os.mkfifo(folder / CARD)


def one_missing(folder: Path) -> None:
    (folder / CARD).unlink()


def an_endless_header(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes((1 << 62).to_bytes(8, "little") + content[8:])


def a_sparse_giant(folder: Path) -> None:
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(1 << 33)


def a_name_twice(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    name = sorted(tensors(0.5))[0]
    header = content[8:end].rstrip().removesuffix(b"}") + f',"{name}":{{}}}}'.encode()
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + content[end:])


def a_deep_header(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = b"[" * 200_000
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + content[end:])


def a_deep_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b'{"format":' + b"[" * 100_000)


def a_huge_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"{" + b" " * (1 << 21))


def a_manifest_with_spaces(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(json.dumps(json.loads((folder / MANIFEST).read_bytes())).encode())


def a_manifest_with_a_float(folder: Path) -> None:
    said = json.loads((folder / MANIFEST).read_bytes())
    said["evaluation"]["adapter"]["nll"] = 1.97
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    (folder / MANIFEST).write_text(text)


def a_manifest_of_elsewhere(folder: Path) -> None:
    said = json.loads((folder / MANIFEST).read_bytes()) | {"release": "../../../etc"}
    (folder / MANIFEST).write_text(json.dumps(said, sort_keys=True, separators=(",", ":")))


REFUSED: list[tuple[Callable[[Path], None], str]] = [
    (a_zip, "weights"),
    (a_tar, "weights"),
    (a_pickle, "weights"),
    (a_pickle_beside, "files"),
    (code_beside, "files"),
    (a_folder_beside, "files"),
    (a_link_outside, "files"),
    (a_pipe, "files"),
    (one_missing, "files"),
    (an_endless_header, "weights"),
    (a_sparse_giant, "weights"),
    (a_name_twice, "weights"),
    (a_deep_header, "weights"),
    (a_deep_manifest, "manifest"),
    (a_huge_manifest, "files"),
    (a_manifest_with_spaces, "manifest"),
    (a_manifest_with_a_float, "manifest"),
    (a_manifest_of_elsewhere, "release-id"),
]
NAMED: dict[str, tuple[Callable[[Path], None], str]] = {
    "remote code": (_config(auto_mapping={"base_model_class": "x"}), "config"),
    "another base": (_config(base_model_name_or_path="https://elsewhere/model"), "config"),
    "whole modules": (_config(modules_to_save=["lm_head"]), "config"),
    "trust_remote_code": (_config(trust_remote_code=True), "config"),
    "another kind of adapter": (_config(peft_type="PREFIX_TUNING"), "config"),
    "another rank": (_config(r=5), "config"),
    "pickled runtime": (_config(runtime_config={"ephemeral_gpu_offload": True}), "config"),
    "padded header": (_header(lambda header: None, pad=1 << 20), "weights"),
    "other dtype": (_header(_set("dtype", "F64")), "weights"),
    "other shape": (_header(_set("shape", [16, 4])), "weights"),
    "negative shape": (_header(_set("shape", [-4, -16])), "weights"),
    "overlap": (_header(_set("data_offsets", [128, 384])), "weights"),
    "beyond the end": (_header(_set("data_offsets", [0, 1 << 40])), "weights"),
    "backwards": (_header(_set("data_offsets", [256, 0])), "weights"),
    "no offsets": (_header(lambda header: _first(header).pop("data_offsets")), "weights"),
    "a text as offset": (_header(_set("data_offsets", ["0", "256"])), "weights"),
    "one tensor more": (_weights(lambda found: found.update(x=np.zeros((1, 1), np.float32))), "weights"),
    "one tensor less": (_weights(lambda found: found.pop(sorted(found)[0])), "weights"),
    "half precision": (
        _weights(lambda found: found.update({k: v.astype(np.float16) for k, v in found.items()})),
        "weights",
    ),
    "NaN": (_weights(_fill(np.nan)), "finite"),
    "infinity": (_weights(_fill(np.inf)), "finite"),
    "another value": (_weights(_fill(50.0)), "norm"),
}
ROWS = [*((attack.__name__, attack, check) for attack, check in REFUSED), *((n, *row) for n, row in NAMED.items())]


FAULTS = {
    "files": pytest.mark.fault(29),
    "manifest": pytest.mark.fault(29),
    "release-id": pytest.mark.fault(29),
    "config": pytest.mark.fault(30),
    "weights": pytest.mark.fault(31),
    "finite": pytest.mark.fault(31),
    "norm": pytest.mark.fault(31),
}
"""Which row of the table of faults a check is about."""


@pytest.mark.parametrize(("attack", "check"), [pytest.param(*row[1:], id=row[0], marks=FAULTS[row[2]]) for row in ROWS])
def test_a_folder_that_is_not_exactly_a_release_is_refused(
    attack: Callable[[Path], None], check: str, tmp_path: Path
) -> None:
    folder = tmp_path / "spring-1"
    folder.mkdir()
    write_release(folder, "spring-1")
    inspect(folder)
    attack(folder)
    with pytest.raises(ReleaseError) as refused:
        inspect(folder)
    assert refused.value.check == check, str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_bound_of_the_bank_holds_beside_the_manifest(tmp_path: Path) -> None:
    write_release(tmp_path, "spring-1")
    norm = float(manifest_of("spring-1", 0.5).adapter["norm"])
    assert set(inspect(tmp_path, max_norm=norm * 1.01).hashes) == set(FILES)
    with pytest.raises(ReleaseError, match="of norm at most"):
        inspect(tmp_path, max_norm=norm * 0.99)


_WATCHED = """
import sys, socket
def refused(*words, **named): raise SystemExit("a socket was made")
socket.socket.__init__ = refused
class Hook:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "peft", "pickle5", "zipfile", "tarfile", "requests"):
            raise SystemExit("imported " + name)
import pickle
pickle.load = pickle.loads = pickle.Unpickler = refused
sys.meta_path.insert(0, Hook())
from pathlib import Path
from fedbank.release.inspection import inspect
print(inspect(Path(sys.argv[1])).manifest.release)
"""


def test_nothing_is_imported_unpickled_or_fetched_while_a_release_is_inspected(tmp_path: Path) -> None:
    write_release(tmp_path, "spring-1")
    done = subprocess.run([sys.executable, "-c", _WATCHED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "spring-1\n"), done.stderr
