"""Everything about releases is read, refused and written as docs/formats/release-*.md and the vectors say.

Today's code verifies every format ever released: a later version adds a file ``release-N.json``, and none is edited.
"""

import json
import runpy
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization.json import JSONSerializer

from fedbank.errors import FedBankError
from fedbank.membership.signed import DocumentError
from fedbank.release.change import Trusted
from fedbank.release.contents import FILES, WEIGHTS, Channel, Contents, channel_path
from fedbank.release.drafts import DraftFolder, read_signature, sign_draft
from fedbank.release.errors import ReleaseError
from fedbank.release.inspection import adapter_config
from fedbank.release.keys import read_release_key, write_release_key
from fedbank.release.manifest import Manifest
from fedbank.release.offline import verify_release
from fedbank.release.signatories import KeySigner, Signatories
from fedbank.release.trust import MAX_TARGETS_BYTES, first_root, follow_roots, read_metadata, trusted_targets
from fedbank.sealing.keys import PublicKey, SigningKey

GOLDEN = Path(__file__).parents[1] / "golden"
ALL = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(GOLDEN.glob("release-*.json"))}
Vectors = dict[str, Any]
Vector = dict[str, Any]


def text_of(vectors: Vectors, kind: str, vector: Vector, part: str = "text") -> str:
    """Its own text, or that of an earlier one with its edits."""
    if "of" not in vector:
        return str(vector.get(part, ""))
    earlier = next(other for other in vectors["vectors"][kind] if other["name"] == vector["of"])
    text = text_of(vectors, kind, earlier, part)
    for find, replace in vector["edits"]:
        text = text.replace(find, replace)
    return str(vector[part]) if part in vector else text


def first_of(vectors: Vectors, kind: str) -> bytes:
    return str(vectors["vectors"][kind][0]["text"]).encode()


def read_manifest(vectors: Vectors, vector: Vector, folder: Path) -> dict[str, Any]:
    content = text_of(vectors, "manifest", vector).encode()
    manifest = Manifest.from_bytes(content)
    assert manifest.to_bytes() == content
    shapes = {name: list(shape) for name, shape in manifest.shapes().items()}
    return {"release": manifest.release, "digest": manifest.digest(), "shapes": shapes}


def read_key(vectors: Vectors, vector: Vector, folder: Path) -> dict[str, Any]:
    roster = {bank: PublicKey.from_hex(text) for bank, text in vectors["reader"]["roster"].items()}
    bank, key = read_release_key(text_of(vectors, "key", vector).encode(), vectors["reader"]["consortium"], roster.get)
    return {"bank": bank, "key": key.hex()}


def read_signature_file(vectors: Vectors, vector: Vector, folder: Path) -> dict[str, Any]:
    content = text_of(vectors, "signature", vector).encode()
    found = read_signature(content)
    change = next(change for change in vectors["vectors"]["change"] if change["name"] == vector["name"])
    draft = draft_of(vectors, change, folder).read()
    assert sign_draft(draft, "bank-a", private("bank-a")) == content
    (keyid,) = {signature.keyid for signature in found.values()}
    return {"keyid": keyid, "parts": sorted(found)}


def said_by(root: Root) -> dict[str, Any]:
    found = Signatories.of(root)
    banks = {bank: key.hex() for bank, key in found.banks.items()}
    return {"consortium": found.consortium, "banks": banks, "threshold": found.threshold}


def read_root(vectors: Vectors, vector: Vector, folder: Path) -> dict[str, Any]:
    content = text_of(vectors, "root", vector).encode()
    metadata = first_root(content)
    assert written_anew(metadata) == content
    return said_by(metadata.signed)


def read_following(vectors: Vectors, vector: Vector, folder: Path) -> dict[str, Any]:
    content = text_of(vectors, "following-root", vector).encode()
    metadata = follow_roots(first_root(first_of(vectors, "root")), [content])
    assert written_anew(metadata) == content
    return said_by(metadata.signed)


def read_targets(vectors: Vectors, vector: Vector, folder: Path) -> dict[str, Any]:
    root, content = first_root(first_of(vectors, "root")), text_of(vectors, "targets", vector).encode()
    metadata = trusted_targets(root, content)
    assert resigned(Metadata(metadata.signed), list(metadata.signatures)) == content
    found, names = Contents.of(metadata.signed), Signatories.of(root.signed).names()
    signed = sorted(names[keyid] for keyid in metadata.signatures)
    return {"releases": sorted(found.releases), "channels": sorted(found.channels), "signed_by": signed}


def read_channel(vectors: Vectors, vector: Vector, folder: Path) -> dict[str, Any]:
    content = text_of(vectors, "channel", vector).encode()
    channel = Channel.from_bytes(content)
    assert channel.to_bytes() == content
    return {"release": channel.release, "seq": channel.seq}


def draft_of(vectors: Vectors, vector: Vector, folder: Path) -> DraftFolder:
    """The draft as a folder that travels."""
    for part in ("root", "targets"):
        if text := text_of(vectors, "change", vector, part):
            (folder / f"{part}.json").write_text(text, "utf-8")
    if text := text_of(vectors, "change", vector, "channel"):
        (folder / "files" / "channel").mkdir(parents=True)
        (folder / "files" / channel_path("stable")).write_text(text, "utf-8")
    return DraftFolder(folder)


def read_change(vectors: Vectors, vector: Vector, folder: Path) -> dict[str, Any]:
    root = first_root(first_of(vectors, "root")).signed
    targets = read_metadata(first_of(vectors, "targets"), Targets, MAX_TARGETS_BYTES).signed
    channel = Channel.from_bytes(first_of(vectors, "channel"))
    drafted = draft_of(vectors, vector, folder)
    draft = drafted.read()
    change = drafted.change(Trusted(root, targets, {"stable": channel}), draft)
    for part in draft.parts():
        DraftFolder(folder / "again").write(draft)
        name = f"{part.signed.type}.json"
        assert (folder / "again" / name).read_bytes() == (folder / name).read_bytes()
    return {"sentence": change.sentence()}


def read_folder(vectors: Vectors, vector: Vector, folder: Path) -> dict[str, Any]:
    reader, whole = vectors["reader"], vectors["vectors"]["folder"][0]
    texts = {"manifest.json": first_of(vectors, "manifest").decode(), "adapter_config.json": reader["config"]}
    texts |= {"README.md": reader["card"]} | vector.get("files", {})
    (folder / "adapter").mkdir()
    (folder / "signatures").mkdir()
    for name, text in texts.items():
        (folder / "adapter" / name).write_text(text, "utf-8")
    (folder / "adapter" / WEIGHTS).write_bytes(bytes.fromhex(vector.get("weights", whole["weights"])))
    (folder / "signatures" / "1.root.json").write_bytes(first_of(vectors, "root"))
    (folder / "signatures" / "targets.json").write_bytes(first_of(vectors, "targets"))
    moment = datetime.fromisoformat(vector.get("at", reader["at"]))
    verified = verify_release(folder, first_of(vectors, "root"), moment)
    assert set(verified.inspected.hashes) == set(FILES)
    return {
        "release": verified.inspected.manifest.release,
        "signed_by": verified.signed_by,
        "threshold": verified.threshold,
        "valid_until": verified.valid_until.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


READ: dict[str, Callable[[Vectors, Vector, Path], dict[str, Any]]] = {
    "manifest": read_manifest,
    "key": read_key,
    "signature": read_signature_file,
    "root": read_root,
    "following-root": read_following,
    "targets": read_targets,
    "channel": read_channel,
    "change": read_change,
    "folder": read_folder,
}
CASES = [
    pytest.param(vectors, kind, vector, id=f"{name}-{kind}-{vector['name']}")
    for name, vectors in ALL.items()
    for kind, of_kind in vectors["vectors"].items()
    for vector in of_kind
]


def test_the_vectors_are_those_that_their_script_writes() -> None:
    assert runpy.run_path(str(GOLDEN / "make_release.py"))["build"]() == ALL["release-1"]


@pytest.mark.parametrize(("vectors", "kind", "vector"), CASES)
def test_a_release_is_read_written_and_refused_as_the_vectors_say(
    vectors: Vectors, kind: str, vector: Vector, tmp_path: Path
) -> None:
    if vector["refused"] is None:
        read = READ[kind](vectors, vector, tmp_path)
        assert read | vector.get("read", {}) == read
        return
    with pytest.raises(FedBankError, match="Expected") as refused:
        READ[kind](vectors, vector, tmp_path)
    if isinstance(refused.value, DocumentError):
        assert vector["refused"] in str(refused.value)
    else:
        assert isinstance(refused.value, ReleaseError) and refused.value.check == vector["refused"], refused.value


@pytest.mark.parametrize("vectors", [pytest.param(vectors, id=name) for name, vectors in ALL.items()])
def test_a_configuration_and_a_key_document_are_written_as_the_vectors_say(vectors: Vectors) -> None:
    assert adapter_config(Manifest.from_bytes(first_of(vectors, "manifest"))).decode() == vectors["reader"]["config"]
    key = private("bank-a").public
    assert write_release_key("bank-a", "alliance", key, private("bank-a, roster")) == first_of(vectors, "key")


@pytest.mark.parametrize("vectors", [pytest.param(vectors, id=name) for name, vectors in ALL.items()])
def test_every_edit_of_a_vector_changes_something(vectors: Vectors) -> None:
    for of_kind in vectors["vectors"].values():
        for vector in of_kind:
            earlier = next((dict(other) for other in of_kind if other["name"] == vector.get("of")), {})
            for find, replace in vector.get("edits", ()):
                found = {part: earlier[part] for part in ("text", "root", "targets") if find in earlier.get(part, "")}
                assert found, (vector["name"], find)
                earlier |= {part: text.replace(find, replace) for part, text in found.items()}


def private(name: str) -> SigningKey:
    return SigningKey(runpy.run_path(str(GOLDEN / "release_texts.py"))["private"](name))


def written_anew(metadata: Metadata[Root]) -> bytes:
    """The root that today's code writes for the same signatories, under the edition of TUF that the vector names."""
    root = Signatories.of(metadata.signed).root(metadata.signed.version, metadata.signed.expires)
    root.spec_version = metadata.signed.spec_version
    return resigned(Metadata(root), list(metadata.signatures))


def resigned(metadata: Metadata[Any], keyids: list[str]) -> bytes:
    names = ("bank-a", "bank-b", "bank-c", "bank-c, new key")
    keys = {KeySigner(private(name)).public_key.keyid: private(name) for name in names}
    for keyid in keyids:
        metadata.sign(KeySigner(keys[keyid]), append=True)
    return metadata.to_bytes(JSONSerializer(compact=True))
