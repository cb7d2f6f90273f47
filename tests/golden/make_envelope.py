"""Writes ``envelope.json``: envelopes that must open and envelopes that must not, each with the check that refuses it.

``python tests/golden/make_envelope.py``. The keys are test keys: their seeds are in this file and in the vectors.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SEEDS = {"bank-a": b"fedbank test key, not a secret A", "bank-b": b"fedbank test key, not a secret B"}
CONTEXT = {"campaign": "spring-2026", "roster": "ab" * 32}
PAYLOAD = b"what bank-a has to say"
MAX_BYTES = 64


def private(name: str) -> Ed25519PrivateKey:
    """The test key of ``name``."""
    return Ed25519PrivateKey.from_private_bytes(SEEDS[name])


def text(value: str) -> bytes:
    """Two bytes of length, then UTF-8."""
    return len(value.encode()).to_bytes(2, "big") + value.encode()


def header(kind: str, signer: str, context: list[tuple[str, str]], payload: bytes) -> bytes:
    """What is signed, written out from docs/formats/envelope.md and not from the implementation."""
    pairs = b"".join(text(name) + text(value) for name, value in context)
    start = b"fedbank-envelope/1\n" + text(kind) + text(signer) + bytes([len(context)]) + pairs
    return start + len(payload).to_bytes(8, "big") + hashlib.sha256(payload).digest()


def envelope(
    kind: str = "update",
    signer: str = "bank-a",
    context: list[tuple[str, str]] | None = None,
    payload: bytes = PAYLOAD,
    *,
    label: bytes = b"fedbank-envelope/1 signature\0",
    key: str = "bank-a",
    sent: bytes | None = None,
) -> bytes:
    """An envelope; ``sent`` replaces the payload after signing."""
    signed = header(kind, signer, sorted(CONTEXT.items()) if context is None else context, payload)
    return signed + private(key).sign(label + signed) + (payload if sent is None else sent)


def build() -> dict[str, Any]:
    """All vectors; ``refused`` is null for those that must open."""
    good = envelope()
    reordered = sorted(CONTEXT.items(), reverse=True)
    vectors: list[tuple[str, str | None, bytes]] = [
        ("opens", None, good),
        ("opens-empty-payload", None, envelope(payload=b"")),
        ("size-payload-above-the-limit", "size", envelope(payload=bytes(MAX_BYTES + 1))),
        ("format-empty", "format", b""),
        ("format-other-version", "format", good.replace(b"envelope/1", b"envelope/2")),
        ("format-cut-in-the-header", "format", good[:40]),
        ("format-cut-in-the-payload", "format", good[:-1]),
        ("format-bytes-behind", "format", good + b"\0"),
        ("format-kind-in-capitals", "format", envelope("Update")),
        ("format-signer-with-a-slash", "format", envelope(signer="bank/a")),
        ("format-context-out-of-order", "format", envelope(context=reordered)),
        ("format-context-twice", "format", envelope(context=[("campaign", "x"), ("campaign", "x")])),
        ("format-context-value-with-a-line-break", "format", envelope(context=[("campaign", "a\nb")])),
        ("kind-another", "kind", envelope("request")),
        ("signer-unknown", "signer", envelope(signer="bank-c")),
        ("signature-by-another-member", "signature", envelope(key="bank-b")),
        ("signature-in-anothers-name", "signature", envelope(signer="bank-b")),
        ("signature-without-label", "signature", envelope(label=b"")),
        ("signature-of-zeros", "signature", good[: -len(PAYLOAD) - 64] + bytes(64) + PAYLOAD),
        ("context-another-campaign", "context", envelope(context=[("campaign", "x"), ("roster", "ab" * 32)])),
        ("context-missing", "context", envelope(context=[])),
        ("context-more", "context", envelope(context=[*sorted(CONTEXT.items()), ("round", "1")])),
        ("payload-exchanged", "payload", envelope(sent=PAYLOAD[::-1])),
    ]
    return {
        "format": "fedbank-envelope/1",
        "expect": {"kind": "update", "context": CONTEXT, "max_bytes": MAX_BYTES},
        "keys": {name: private(name).public_key().public_bytes_raw().hex() for name in SEEDS},
        "test_seeds": {name: seed.hex() for name, seed in SEEDS.items()},
        "vectors": [{"name": name, "refused": refused, "hex": content.hex()} for name, refused, content in vectors],
    }


if __name__ == "__main__":
    target = Path(__file__).with_name("envelope.json")
    target.write_text(json.dumps(build(), indent=1, ensure_ascii=False) + "\n", "utf-8")
