"""Writes ``evidence.json``: logs that must verify and logs that must not, each with its first bad entry; and proofs.

``python tests/golden/make_evidence.py``. The keys are test keys: their seeds are in this file.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ORIGIN = "nordic.example/coordinator"
KEY = Ed25519PrivateKey.from_private_bytes(b"fedbank test key, not a secret L")
FORGER = Ed25519PrivateKey.from_private_bytes(b"fedbank test key, not a secret F")
SIGNED = (2, 5)
"""Sizes at which there is a checkpoint; entry 5 has none."""


def line(number: int, result: str = "accepted", **more: Any) -> str:
    """An entry, written out from docs/formats/evidence.md and not from the implementation."""
    fields = {
        "seq": number,
        "utc": f"2026-03-01T12:00:0{number}.000+00:00",
        "actor": "bank-a",
        "action": "update.admitted",
        "object": hashlib.sha256(b"%d" % number).hexdigest(),
        "result": result,
    }
    return json.dumps({**fields, **more}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def leaf(text: str) -> bytes:
    """RFC 6962, section 2.1."""
    return hashlib.sha256(b"\0" + text.encode()).digest()


def root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, by its definition."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root(leaves[:split]) + root(leaves[split:])).digest()


def note(leaves: list[bytes], key: Ed25519PrivateKey = KEY, origin: str = ORIGIN) -> str:
    """c2sp.org/tlog-checkpoint, signed."""
    text = f"{origin}\n{len(leaves)}\n{base64.b64encode(root(leaves)).decode()}\n"
    raw = key.public_key().public_bytes_raw()
    key_id = hashlib.sha256(origin.encode() + b"\n\x01" + raw).digest()[:4]
    return f"{text}\n— {origin} {base64.b64encode(key_id + key.sign(text.encode())).decode()}\n"


def checkpoint(text: str, leaves: list[bytes]) -> str:
    """A checkpoint as it is stored."""
    record = {"leaves": base64.b64encode(b"".join(leaves)).decode(), "note": text}
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


LINES = [line(number) for number in range(6)]
LEAVES = [leaf(text) for text in LINES]
NOTES = [note(LEAVES[:size]) for size in SIGNED]
CHECKPOINTS = [checkpoint(NOTES[0], LEAVES[:2]), checkpoint(NOTES[1], LEAVES[2:5])]


def build() -> dict[str, Any]:
    """All vectors; ``first_bad`` is null for logs that must verify."""
    other = line(3, "refused")
    relisted = checkpoint(NOTES[1], [LEAVES[2], leaf(other), LEAVES[4]])
    forged = checkpoint(note(LEAVES[:5], FORGER), LEAVES[2:5])
    elsewhere = checkpoint(note(LEAVES[:5], origin="other.example"), LEAVES[2:5])
    logs: list[tuple[str, int | None, list[str], list[str]]] = [
        ("verifies", None, LINES, CHECKPOINTS),
        ("verifies-without-checkpoints", None, LINES, []),
        ("verifies-empty", None, [], []),
        ("entry-edited", 3, [*LINES[:3], other, *LINES[4:]], CHECKPOINTS),
        ("entry-edited-with-its-hash", 2, [*LINES[:3], other, *LINES[4:]], [CHECKPOINTS[0], relisted]),
        ("entry-removed", 1, [LINES[0], *LINES[2:]], CHECKPOINTS),
        ("entry-inserted", 2, [*LINES[:2], line(2, "again"), *LINES[2:]], CHECKPOINTS),
        ("entries-swapped", 3, [*LINES[:3], LINES[4], LINES[3], LINES[5]], CHECKPOINTS),
        ("entry-with-a-field-more", 3, [*LINES[:3], line(3, note="x"), *LINES[4:]], CHECKPOINTS),
        ("entry-with-a-space", 3, [*LINES[:3], LINES[3].replace(":", ": ", 1), *LINES[4:]], CHECKPOINTS),
        ("unsigned-entry-not-json", 5, [*LINES[:5], "hello"], CHECKPOINTS),
        ("cut-below-the-last-checkpoint", 4, LINES[:4], CHECKPOINTS),
        ("emptied", 0, [], CHECKPOINTS),
        ("checkpoint-forged", 2, LINES, [CHECKPOINTS[0], forged]),
        ("checkpoint-of-another-log", 2, LINES, [CHECKPOINTS[0], elsewhere]),
        ("checkpoint-removed", 0, LINES, [CHECKPOINTS[1]]),
        ("checkpoint-hashes-changed", 2, LINES, [CHECKPOINTS[0], relisted]),
    ]
    return {
        "format": "fedbank-evidence/1",
        "origin": ORIGIN,
        "key": KEY.public_key().public_bytes_raw().hex(),
        "roots": [root(LEAVES[:size]).hex() for size in range(len(LEAVES) + 1)],
        "logs": [
            {"name": name, "first_bad": bad, "entries": entries, "checkpoints": checkpoints}
            for name, bad, entries, checkpoints in logs
        ],
        "growth": {"old": NOTES[0], "new": NOTES[1], "proof": [root(LEAVES[2:4]).hex(), LEAVES[4].hex()]},
        "inclusion": {"index": 4, "note": NOTES[1], "proof": [root(LEAVES[:4]).hex()]},
    }


if __name__ == "__main__":
    target = Path(__file__).with_name("evidence.json")
    target.write_text(json.dumps(build(), indent=1, ensure_ascii=False) + "\n", "utf-8")
