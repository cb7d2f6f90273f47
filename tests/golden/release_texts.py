"""Texts of releases, written out from docs/formats/release-*.md and TUF 1.0, not from the implementation.

What ``make_release.py`` makes vectors of. The keys are test keys: their seeds are in this file.
"""

import hashlib
import json
import struct
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

EXPIRES, AT, LATER = "2099-01-01T00:00:00Z", "2098-01-01T00:00:00+00:00", "2099-06-01T00:00:00+00:00"
BASE, SUITE, LOCK = (hashlib.sha256(text).hexdigest() for text in (b"base", b"suite", b"lock"))
A, B = (f"base_model.model.l.q_proj.lora_{half}.weight" for half in "AB")


def private(name: str) -> Ed25519PrivateKey:
    """A test key, not a secret."""
    return Ed25519PrivateKey.from_private_bytes(
        hashlib.sha256(b"fedbank test key, not a secret: " + name.encode()).digest()
    )


def public(name: str) -> str:
    """Its public half in hexadecimal."""
    return private(name).public_key().public_bytes_raw().hex()


def written(value: Any) -> str:
    """Canonical JSON: for these texts that of FedBank and that of TUF are the same."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha(text: str | bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def key_of(name: str) -> dict[str, Any]:
    """A key as TUF lists it."""
    return {"keytype": "ed25519", "keyval": {"public": public(name)}, "scheme": "ed25519"}


def keyid(name: str) -> str:
    """Its identifier."""
    return sha(written(key_of(name)))


def signature(signed: dict[str, Any], name: str) -> str:
    """Ed25519 over the canonical form."""
    return private(name).sign(written(signed).encode()).hex()


def metadata(signed: dict[str, Any], *names: str) -> str:
    """Metadata with signatures."""
    signatures = [{"keyid": keyid(name), "sig": signature(signed, name)} for name in names]
    return written({"signatures": signatures, "signed": signed})


def root(version: int, banks: dict[str, str], spec: str = "1.0.31") -> dict[str, Any]:
    """Root metadata: ``banks`` name the key of each bank; two of them sign."""
    holders = [keyid(banks[bank]) for bank in sorted(banks)]
    ours = {"keyids": holders, "threshold": 2}
    online = {"keyids": [keyid("online")], "threshold": 1}
    return {
        "_type": "root",
        "consistent_snapshot": True,
        "expires": EXPIRES,
        "keys": {keyid(name): key_of(name) for name in [*banks.values(), "online"]},
        "roles": {"root": ours, "snapshot": online, "targets": ours, "timestamp": online},
        "spec_version": spec,
        "version": version,
        "x-fedbank": {"banks": {bank: keyid(name) for bank, name in banks.items()}, "consortium": "alliance"},
    }


def listed(content: bytes) -> dict[str, Any]:
    """A target's entry."""
    return {"hashes": {"sha256": sha(content)}, "length": len(content)}


def targets(version: int, files: dict[str, bytes]) -> dict[str, Any]:
    """Targets metadata."""
    entries = {path: listed(content) for path, content in files.items()}
    return {"_type": "targets", "expires": EXPIRES, "spec_version": "1.0.31", "targets": entries, "version": version}


def entries_of(files: dict[str, bytes]) -> str:
    """The entries of ``files`` as they stand in targets metadata."""
    return ",".join(f"{written(path)}:{written(listed(content))}" for path, content in sorted(files.items()))


def weights(values: tuple[float, ...] = (1, 2, 2, 4), **header: Any) -> str:
    """A safetensors file in hexadecimal."""
    entries = {
        A: {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]} | header.get("a", {}),
        B: {"dtype": "F32", "shape": [2, 1], "data_offsets": [8, 16]} | header.get("b", {}),
    } | header.get("more", {})
    said = written(entries).encode()
    if "twice" in header:
        said = said[:-1] + b"," + written({A: entries[A]})[1:].encode()
    return (len(said).to_bytes(8, "little") + said + struct.pack(f"<{len(values)}f", *values)).hex()


def manifest() -> dict[str, Any]:
    """A manifest."""
    spent = ("epsilon", "delta", "noise_multiplier", "clip_norm", "sampling_prob", "steps")
    return {
        "format": "fedbank-release/1",
        "release": "spring-1",
        "parent": None,
        "licence": "Apache-2.0",
        "data_card": "none",
        "created": "2098-01-01T00:00:00+00:00",
        "base": {"name": "tiny", "revision": "1", "digest": BASE, "files": {"model.safetensors": BASE}},
        "adapter": {
            "digest": sha("adapter"),
            "rank": 1,
            "alpha": "2.0",
            "target_modules": ["q_proj"],
            "layers": [0],
            "dtype": "F32",
            "tensors": {A: [1, 2], B: [2, 1]},
            "norm": "5.0",
        },
        "training": {
            "campaign": "spring",
            "rounds": 3,
            "participants": 2,
            "max_length": 96,
            "rule": "fedsvd",
            "secure_aggregation": False,
            "code": "0.1.0",
            "lock": LOCK,
        },
        "privacy": {
            "unit": "customer",
            "accountant": "pld",
            "mode": "silo",
            "banks": {
                "bank-a": dict(zip(spent, ("7.31", "0.00001", "1.1", "1.0", "0.1", "60"), strict=True)),
                "bank-b": None,
            },
        },
        "evaluation": {"suite": SUITE, "records": 40, "base": {"nll": "2.31"}, "adapter": {"nll": "1e-07"}},
    }


CONFIG = """{
  "base_model_name_or_path": "tiny",
  "bias": "none",
  "fan_in_fan_out": false,
  "inference_mode": true,
  "layers_to_transform": [
    0
  ],
  "lora_alpha": 2.0,
  "lora_dropout": 0.0,
  "peft_type": "LORA",
  "r": 1,
  "target_modules": [
    "q_proj"
  ],
  "task_type": "CAUSAL_LM"
}"""
MANIFEST, CARD = written(manifest()), "# spring-1\n"
FIRST = root(1, {"bank-a": "bank-a", "bank-b": "bank-b", "bank-c": "bank-c"})
SECOND = root(2, {"bank-a": "bank-a", "bank-c": "bank-c, new key"})
SPRING = {
    "releases/spring-1/README.md": CARD.encode(),
    "releases/spring-1/adapter_config.json": CONFIG.encode(),
    "releases/spring-1/adapter_model.safetensors": bytes.fromhex(weights()),
    "releases/spring-1/manifest.json": MANIFEST.encode(),
}


def another(release: str) -> dict[str, bytes]:
    """Files of a release of which only the metadata matters."""
    return {path.replace("spring-1", release): release.encode() for path in SPRING}


STABLE, STABLE_NEXT = '{"release":"spring-1","seq":1}', '{"release":"spring-2","seq":2}'
FILES = SPRING | another("spring-2") | {"channel/stable.json": STABLE.encode()}
NOW = targets(4, FILES)
PUBLISH = targets(5, FILES | another("autumn-1"))
MOVE = targets(5, FILES | {"channel/stable.json": STABLE_NEXT.encode()})
