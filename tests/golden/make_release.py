"""Writes ``release-1.json``: everything about releases that must be read, and what must be refused with which check.

``python tests/golden/make_release.py``. A vector is a text, or an earlier one of its kind (``of``) in which every FIND
of ``edits`` became REPLACE.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from release_texts import (
    AT,
    BASE,
    CARD,
    CONFIG,
    EXPIRES,
    FIRST,
    LATER,
    LOCK,
    MANIFEST,
    MOVE,
    NOW,
    PUBLISH,
    SECOND,
    STABLE,
    STABLE_NEXT,
    SUITE,
    A,
    B,
    another,
    entries_of,
    key_of,
    keyid,
    listed,
    metadata,
    private,
    public,
    root,
    sha,
    signature,
    targets,
    weights,
    written,
)

Vector = dict[str, Any]
Edit = tuple[str, str]


def edited(name: str, refused: str | None, of: str, *edits: Edit, **more: Any) -> Vector:
    """An earlier vector, changed."""
    return {"name": name, "refused": refused, "of": of, "edits": [list(edit) for edit in edits], **more}


def accepted(name: str, text: str, **read: Any) -> Vector:
    """A text with what must be read of it."""
    return {"name": name, "refused": None, "text": text, "read": read}


def manifests() -> list[Vector]:
    """Every kind of thing that release-manifest.md names."""
    last = '"rule":"fedsvd","secure_aggregation":false'
    refused: list[tuple[str, str, str, str]] = [
        ("canonical-space", "manifest", '"rounds":3', '"rounds": 3'),
        ("canonical-order", "manifest", last, '"secure_aggregation":false,"rule":"fedsvd"'),
        ("canonical-name-twice", "manifest", '"rounds":3', '"rounds":3,"rounds":3'),
        ("canonical-needless-escape", "manifest", '"spring"', '"\\u0073pring"'),
        ("floating-point", "manifest", '"nll":"2.31"', '"nll":2.31'),
        ("format-another", "manifest", "fedbank-release/1", "fedbank-release/2"),
        ("field-more", "manifest", '"licence":', '"author":"x","licence":'),
        ("field-less", "manifest", '"licence":"Apache-2.0",', ""),
        ("field-more-in-a-section", "manifest", '"rounds":3', '"rounds":3,"rounds_2":3'),
        ("field-less-in-a-section", "manifest", '"rounds":3,', ""),
        ("field-more-in-privacy", "manifest", '"steps":"60"', '"steps":"60","years":"1"'),
        ("field-less-in-privacy", "manifest", ',"steps":"60"', ""),
        ("type-text-for-a-number", "manifest", '"rounds":3', '"rounds":"3"'),
        ("type-number-for-a-truth", "manifest", '"secure_aggregation":false', '"secure_aggregation":0'),
        ("type-truth-for-a-number", "manifest", '"rank":1', '"rank":true'),
        ("type-text-for-a-list", "manifest", '"layers":[0]', '"layers":"0"'),
        ("type-null-for-a-text", "manifest", '"licence":"Apache-2.0"', '"licence":null'),
        ("text-with-a-line-break", "manifest", "Apache-2.0", "Apache\\n2.0"),
        ("text-too-long", "manifest", "Apache-2.0", "x" * 201),
        ("name-that-leads-out", "release-id", '"release":"spring-1"', '"release":"../spring-1"'),
        ("name-with-two-dots", "release-id", '"release":"spring-1"', '"release":"spring..1"'),
        ("name-in-capitals", "release-id", '"release":"spring-1"', '"release":"Spring-1"'),
        ("name-too-long", "release-id", '"release":"spring-1"', f'"release":"{"x" * 96}"'),
        ("parent-that-leads-out", "release-id", '"parent":null', '"parent":"/etc"'),
        ("digest-in-capitals", "manifest", sha("adapter"), sha("adapter").upper()),
        ("digest-too-short", "manifest", LOCK, LOCK[:-2]),
        ("digest-of-no-suite", "manifest", SUITE, ""),
        ("digest-of-a-file", "manifest", f'"model.safetensors":"{BASE}"', '"model.safetensors":"x"'),
        ("shape-of-nothing", "manifest", "[1,2]", "[0,2]"),
        ("shape-beyond-2^24", "manifest", "[1,2]", f"[1,{2**24 + 1}]"),
        ("shape-of-one-size", "manifest", "[1,2]", "[2]"),
        ("shape-of-three-sizes", "manifest", "[1,2]", "[1,2,1]"),
        ("number-not-finite", "manifest", '"norm":"5.0"', '"norm":"Infinity"'),
        ("number-none", "manifest", '"nll":"2.31"', '"nll":"NaN"'),
        ("number-beyond-any", "manifest", '"norm":"5.0"', '"norm":"1e400"'),
        ("number-in-words", "manifest", '"epsilon":"7.31"', '"epsilon":"seven"'),
        ("number-with-spaces", "manifest", '"epsilon":"7.31"', '"epsilon":" 7.31 "'),
        ("dtype-another", "manifest", '"dtype":"F32"', '"dtype":"F64"'),
    ]
    every, seventh = "x.layers.*.q_proj.", "x.layers.7.q_proj."
    once = ("base_model.model.l.q_proj.", every), ('"layers":[0]', '"layers":[0,7]')
    shapes = {
        f"x.layers.{n}.q_proj.lora_{half}.weight": s for n in (0, 7) for half, s in (("A", [1, 2]), ("B", [2, 1]))
    }
    return [
        accepted("read", MANIFEST, release="spring-1", digest=sha(MANIFEST), shapes={A: [1, 2], B: [2, 1]}),
        edited("read-layers-written-once", None, "read", *once, read={"shapes": shapes}),
        edited("layers-twice", "manifest", "read", *once, ("[0,7]", "[0,0]")),
        edited("tensor-twice", "manifest", "read", *once, ("[2,1]}", f'[2,1],"{seventh}lora_A.weight":[1,2]}}')),
        edited("read-with-parent", None, "read", ('"parent":null', '"parent":"winter.2"')),
        edited("read-shape-of-2^24", None, "read", ("[1,2]", f"[1,{2**24}]")),
        *(edited(name, check, "read", (find, replace)) for name, check, find, replace in refused),
    ]


def key_documents() -> list[Vector]:
    """release-key.md; the reader knows bank-a and bank-b of the consortium alliance."""

    def document(signer: str = "bank-a, roster", format: str = "fedbank-release-key/1", **body: Any) -> str:
        said = {"bank": "bank-a", "consortium": "alliance", "key": public("bank-a")} | body
        sealed = private(signer).sign(f"fedbank document\n{format}\n{written(said)}".encode()).hex()
        return written({"body": said, "format": format, "signature": sealed}) + "\n"

    refused = [
        ("signed-by-another-member", "the signature of whoever wrote", document("bank-b, roster")),
        ("signed-by-the-release-key", "the signature of whoever wrote", document("bank-a")),
        ("another-consortium", "the release key of a member of alliance", document(consortium="others")),
        ("no-active-member", "the release key of a member of alliance", document("bank-z, roster", bank="bank-z")),
        ("another-format", "a file of format", document(format="fedbank-release-key/2")),
        ("key-in-capitals", "an Ed25519 key", document(key=public("bank-a").upper())),
        ("key-of-small-order", "an Ed25519 key", document(key="01" + "0" * 62)),
        ("field-more", "a bank's release key", document(note="x")),
        ("not-canonical", "a damaged or foreign one", document().replace(":", ": ", 1)),
    ]
    return [
        accepted("read", document(), bank="bank-a", key=public("bank-a")),
        *({"name": name, "refused": words, "text": text} for name, words, text in refused),
    ]


def signatures() -> list[Vector]:
    """Signature files of release-draft.md: of bank-a, under the changes ``publish`` and ``reseat``."""

    def file(**parts: dict[str, Any]) -> str:
        signed = {kind: signature(part, "bank-a") for kind, part in parts.items()}
        fields = {"bank": "bank-a", "keyid": keyid("bank-a"), "signatures": signed}
        return written({"format": "fedbank-release-signature/1", **fields})

    refused = [
        ("canonical-space", '"bank":', '"bank": '),
        ("format-another", "signature/1", "signature/2"),
        ("field-more", '"bank":', '"note":"x","bank":'),
        ("role-of-the-coordinator", '"targets":', '"timestamp":'),
        ("keyid-in-capitals", keyid("bank-a"), keyid("bank-a").upper()),
        ("keyid-that-is-a-path", keyid("bank-a"), "../" + keyid("bank-a")),
    ]
    return [
        accepted("publish", file(targets=PUBLISH), keyid=keyid("bank-a"), parts=["targets"]),
        accepted(
            "reseat", file(root=SECOND, targets=NOW | {"version": 5}), keyid=keyid("bank-a"), parts=["root", "targets"]
        ),
        *(edited(name, "files", "publish", edit) for name, *edit in refused),
    ]


def first_roots() -> list[Vector]:
    """release-repository.md: what trust may begin with."""
    text, banks = metadata(FIRST, "bank-a", "bank-b"), {bank: bank for bank in ("bank-a", "bank-b", "bank-c")}
    second = f',{{"keyid":"{keyid("bank-b")}","sig":"{signature(FIRST, "bank-b")}"}}'
    double = root(1, banks)
    double["keys"]["f" * 64] = key_of("bank-a")
    for role in ("root", "targets"):
        double["roles"][role] = {"keyids": [*double["roles"][role]["keyids"], "f" * 64], "threshold": 2}
    twice = {"keyid": "f" * 64, "sig": signature(double, "bank-a")}
    by_one = json.loads(metadata(double, "bank-a"))
    by_one["signatures"].append(twice)
    return [
        accepted("read", text, consortium="alliance", banks={bank: public(bank) for bank in banks}, threshold=2),
        accepted("read-of-a-later-edition-of-TUF", metadata(root(1, banks, "1.0.99"), "bank-b", "bank-c"), threshold=2),
        edited("signatures-too-few", "signatures", "read", (second, "")),
        edited("signatures-one-twice", "metadata", "read", (second, second + second)),
        edited("signatures-of-another-text", "signatures", "read", ("2099-", "2199-")),
        {"name": "one-key-under-two-identifiers", "refused": "root", "text": written(by_one)},
        {"name": "targets-for-a-root", "refused": "metadata", "text": metadata(targets(1, {}), "bank-a", "bank-b")},
    ]


def following_roots() -> list[Vector]:
    """bank-b leaves and bank-c has a new key: both thresholds count."""
    text = metadata(SECOND, "bank-a", "bank-b", "bank-c, new key")
    signed = {name: signature(SECOND, name) for name in ("bank-b", "bank-c, new key")}
    old, new = (f',{{"keyid":"{keyid(name)}","sig":"{sig}"}}' for name, sig in signed.items())
    return [
        accepted("read", text, banks={"bank-a": public("bank-a"), "bank-c": public("bank-c, new key")}),
        edited("signatures-of-the-old-too-few", "signatures", "read", (old, "")),
        edited("signatures-of-the-new-too-few", "signatures", "read", (new, "")),
        edited("version-left-out", "version", "read", ('"version":2', '"version":3')),
        edited("version-again", "version", "read", ('"version":2', '"version":1')),
    ]


def signed_targets() -> list[Vector]:
    """Judged by the first root."""
    text = metadata(NOW, "bank-c", "bank-a")
    last = f',{{"keyid":"{keyid("bank-a")}","sig":"{signature(NOW, "bank-a")}"}}'
    return [
        accepted("read", text, releases=["spring-1", "spring-2"], channels=["stable"], signed_by=["bank-a", "bank-c"]),
        edited("signatures-too-few", "signatures", "read", (last, "")),
        edited("signatures-a-flipped-bit", "signatures", "read", (sha(CARD), "0" + sha(CARD)[1:])),
        edited("signatures-of-a-stranger", "signatures", "read", (keyid("bank-a"), keyid("online"))),
    ]


def channels() -> list[Vector]:
    """release-repository.md."""
    refused = [("space", ",", ", "), ("field-more", '"seq"', '"note":"x","seq"'), ("seq-text", "1}", '"1"}')]
    refused += [("seq-zero", ":1}", ":0}"), ("seq-floating-point", "1}", "1.0}"), ("field-less", ',"seq":1', "")]
    return [
        accepted("read", STABLE, release="spring-1", seq=1),
        *(edited(name, "channel", "read", (find, replace)) for name, find, replace in refused),
        edited("release-that-leads-out", "release-id", "read", ("spring-1", "../spring-1")),
    ]


def changes() -> list[Vector]:
    """release-draft.md, as against the first root and the targets ``read``; ``edits`` concern root or targets."""
    gone = "," + entries_of(another("spring-2"))
    card = written(listed(b"spring-2"))
    canary = {"channel/canary.json": STABLE.encode()}
    first = '"targets":{"channel/'
    a, c, online = (keyid(name) for name in ("bank-a", "bank-c, new key", "online"))
    name_c = f'"bank-c":"{c}"'

    def inserted(entries: str) -> Edit:
        return first, f'"targets":{{{entries},"channel/'

    def moved(name: str, text: str) -> Vector:
        entry = {"channel/stable.json": text.encode()}
        before = {"channel/stable.json": STABLE_NEXT.encode()}
        return edited(name, "channel", "move", (entries_of(before), entries_of(entry)), channel=text)

    scheme = '"scheme":"ed25519"', '"scheme":"ecdsa-sha2-nistp256"'
    again, role = NOW | {"version": 5}, '"roles":{"mirrors":{"keyids":[],"threshold":1},'
    return [
        {**accepted("publish", "", sentence="publish the release autumn-1"), "targets": metadata(PUBLISH)},
        {**accepted("move", "", sentence=_MOVED), "targets": metadata(MOVE), "channel": STABLE_NEXT},
        {**accepted("reseat", "", sentence=_RESEATED), "root": metadata(SECOND), "targets": metadata(again)},
        edited("release-gone", "scope", "publish", (gone, "")),
        edited("release-exchanged", "scope", "publish", (card, written(listed(b"another!")))),
        edited("release-of-three-files", "targets", "publish", (entries_of(_one("autumn-1", "README.md")) + ",", "")),
        edited("release-of-five-files", "targets", "publish", inserted(entries_of(_one("autumn-1", "code.py")))),
        edited("two-releases", "scope", "publish", inserted(entries_of(another("autumn-2")))),
        edited("a-release-and-a-channel", "scope", "publish", inserted(entries_of(canary))),
        edited("nothing-at-all", "scope", "publish", (entries_of(another("autumn-1")) + ",", "")),
        edited("field-unknown", "scope", "publish", ('"version":5', '"version":5,"x-note":"x"')),
        edited("path-unknown", "targets", "publish", inserted(entries_of({"notes/x": b"x"}))),
        edited("path-that-leads-out", "targets", "publish", inserted(entries_of({"releases/../x/README.md": b"x"}))),
        edited("channel-unknown", "targets", "publish", inserted(entries_of({"channel/beta.json": b"x"}))),
        edited("delegation", "targets", "publish", ('"spec', '"delegations":{"keys":{},"roles":[]},"spec')),
        edited("hash-of-another-kind", "targets", "publish", (f'"sha256":"{sha(b"autumn-1")}"', f'"md5":"{"0" * 32}"')),
        edited("version-left-out", "version", "publish", ('"version":5', '"version":6')),
        edited("version-again", "version", "publish", ('"version":5', '"version":4')),
        moved("channel-seq-left-out", STABLE_NEXT.replace("2}", "3}")),
        moved("channel-seq-again", STABLE_NEXT.replace("2}", "1}")),
        moved("channel-of-no-release", STABLE_NEXT.replace("spring-2", "winter-1")),
        edited("channel-file-another", "channel", "move", channel=STABLE_NEXT.replace("spring-2", "spring-1")),
        edited("root-of-another-consortium", "scope", "reseat", ('"alliance"', '"others"')),
        edited("root-version-left-out", "version", "reseat", ('"version":2', '"version":3')),
        edited("root-key-under-another-identifier", "root", "reseat", (c, "f" * 64)),
        edited("root-one-key-for-two-banks", "one-key-for-two", "reseat", (name_c, name_c.replace(c, a))),
        edited("root-one-key-for-bank-and-online", "one-key-for-two", "reseat", (name_c, name_c.replace(c, online))),
        edited("root-another-role", "metadata", "reseat", ('"roles":{', role)),
        edited("root-threshold-of-targets-lower", "root", "reseat", ('2},"timestamp"', '1},"timestamp"')),
        edited("root-key-of-another-kind", "root", "reseat", ('type":"ed25519"', 'type":"ecdsa"'), scheme),
        edited("root-threshold-beyond-the-banks", "threshold", "reseat", ('"threshold":2', '"threshold":3')),
        edited("root-threshold-of-none", "metadata", "reseat", ('"threshold":2', '"threshold":0')),
        edited("root-field-more", "root", "reseat", ('"x-fedbank":{', '"x-note":"x","x-fedbank":{')),
        edited("root-field-less", "root", "reseat", ('"x-fedbank":{', '"x-note":{')),
        edited("root-in-place-snapshots", "root", "reseat", ('snapshot":true', 'snapshot":false')),
        edited("root-and-a-release-gone", "scope", "reseat", (gone, "")),
        edited("root-and-a-release-more", "scope", "reseat", inserted(entries_of(another("autumn-1")))),
        edited("root-and-targets-of-the-same-version", "version", "reseat", ('"version":5', '"version":4')),
    ]  # fmt: skip


_MOVED = "let the channel stable name spring-2 instead of spring-1 (its change number 2)"
_RESEATED = "remove bank-b; give bank-c another key"


def _one(release: str, name: str) -> dict[str, bytes]:
    return {f"releases/{release}/{name}": release.encode()}


def with_file(name: str, refused: str, file: str, text: str) -> Vector:
    """The folder ``read`` with another text in one file."""
    return {"name": name, "refused": refused, "files": {file: text}}


def folders() -> list[Vector]:
    """A release with its signatures: roots and targets ``read``. A vector names what is another than in ``read``."""
    half = ('"dtype":"F32"', '"dtype":"F16"')
    read = {"release": "spring-1", "signed_by": ["bank-a", "bank-c"], "threshold": 2, "valid_until": EXPIRES}
    x = {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}
    bad = [
        ("weights-another-name", "weights", weights(more={"x": x})),
        ("weights-another-shape", "weights", weights(a={"shape": [2, 1]})),
        ("weights-another-dtype", "weights", weights(a={"dtype": "I32"})),
        ("weights-with-a-gap", "weights", weights(b={"data_offsets": [12, 20]})),
        ("weights-that-overlap", "weights", weights(b={"data_offsets": [0, 8]})),
        ("weights-with-floating-sizes", "weights", weights(a={"shape": [1.0, 2.0]})),
        ("weights-of-other-sizes", "weights", weights(a={"data_offsets": [0, 4]}, b={"data_offsets": [4, 16]})),
        ("weights-with-a-name-twice", "weights", weights(twice=True)),
        ("weights-longer", "weights", weights((1, 2, 2, 4, 0))),
        ("weights-shorter", "weights", weights((1, 2, 2))),
        ("weights-of-a-zip", "weights", b"PK\x03\x04".ljust(64, b"\0").hex()),
        ("weights-infinite", "finite", weights((1, 2, 2, float("inf")))),
        ("weights-no-number", "finite", weights((1, 2, 2, float("nan")))),
        ("weights-of-another-norm", "norm", weights((1, 2, 2, 4.02))),
        ("weights-exchanged-at-the-same-norm", "hash", weights((2, 1, 2, 4))),
    ]  # fmt: skip
    swapped = CONFIG.replace('"LORA"', '"LOHA"')
    return [
        {"name": "read", "refused": None, "weights": weights(), "read": read},
        *({"name": name, "refused": check, "weights": content} for name, check, content in bad),
        {"name": "expired", "refused": "expired", "at": LATER},
        with_file("card-another", "hash", "README.md", CARD + "x"),
        with_file("config-another-kind", "config", "adapter_config.json", swapped),
        with_file("config-a-space-more", "config", "adapter_config.json", CONFIG + " "),
        with_file("config-in-other-words", "config", "adapter_config.json", CONFIG.replace("2.0", "2")),
        with_file("file-more", "files", "modeling.py", ""),
        with_file("manifest-of-another-dtype", "weights", "manifest.json", MANIFEST.replace(*half)),
        with_file("manifest-of-a-release-unlisted", "unlisted", "manifest.json", _renamed("winter-1")),
        with_file("manifest-of-another-release", "hash", "manifest.json", _renamed("spring-2")),
    ]  # fmt: skip


def _renamed(release: str) -> str:
    return MANIFEST.replace('"release":"spring-1"', f'"release":"{release}"')


def build() -> dict[str, Any]:
    """All vectors; ``refused`` is null for those that must be read."""
    roster = {bank: public(f"{bank}, roster") for bank in ("bank-a", "bank-b")}
    return {
        "format": "fedbank-release/1",
        "reader": {"consortium": "alliance", "roster": roster, "at": AT, "config": CONFIG, "card": CARD},
        "vectors": {
            "manifest": manifests(),
            "key": key_documents(),
            "signature": signatures(),
            "root": first_roots(),
            "following-root": following_roots(),
            "targets": signed_targets(),
            "channel": channels(),
            "change": changes(),
            "folder": folders(),
        },
    }


if __name__ == "__main__":
    target = Path(__file__).with_name("release-1.json")
    target.write_text(json.dumps(build(), indent=1, ensure_ascii=False) + "\n", "utf-8")
