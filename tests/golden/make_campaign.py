"""Writes ``campaign.json``: messages of a campaign that must be read, and messages that must be refused.

``python tests/golden/make_campaign.py``. Payloads only: their envelopes have vectors of their own (``envelope.json``).
"""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

ADAPTER = {"rank": 2, "alpha": 4.0, "target_modules": ["q_proj"], "name": "layers.0.q_proj", "num_in": 2, "num_out": 3}
A, B = "layers.0.q_proj.lora_A.weight", "layers.0.q_proj.lora_B.weight"
VALUES = {A: ((2, 2), [1.0, 0.0, 0.0, 1.0]), B: ((3, 2), [0.0, 0.5, -0.5, 0.25, -0.25, 2.0])}
TRAINED = {B: VALUES[B]}
BANK, MASK, ROUND, DIGEST, PLAN = "bank-a", "5a" * 32, 3, "ab" * 32, "cd" * 32
HEAD, NO_HEAD, BEFORE = f"000000000057:{'ef' * 32}", f"000000000000:{'00' * 32}", "98" * 32
TERMS: dict[str, Any] = {
    "adapter": {"alpha": 16.0, "dropout": 0.0, "last_layers": None, "rank": 8, "target_modules": ["q_proj", "v_proj"]},
    "aggregation": {
        **{"beta1": 0.9, "beta2": 0.99, "learning_rate": 1.0, "rule": "fedsvd"},
        **{"server_step": "mean", "tau": 0.001, "weights": "equal"},
    },
    "max_length": 64,
    "privacy": {"clip_norm": 0.2, "delta": None, "enabled": True, "epsilon": 8.0, "unit": "customer"},
    "seed": 0,
    "training": {
        **{"expected_batch": 32, "learning_rate": 6.0, "local_steps": 5, "momentum": 0.0},
        **{"optimizer": "sgd", "records_per_customer": 1, "rounds": 12},
    },
}
PROPOSAL = {
    **{"base_digest": DIGEST, "consortium": "Nordic Banks", "format": "fedbank-proposal/1"},
    **{"name": "spring", "terms": TERMS},
}
ACCEPTANCE = {
    **{"bank": BANK, "campaign": "spring", "declared_size": 400, "epsilon": 7.9, "format": "fedbank-proposal/1"},
    **{"plan": "{}", "plan_digest": PLAN},
}
PRESENCE = {"bank": BANK, "head": HEAD, "instance": "0011223344556677", "mask": MASK, "nonce": "00" * 16}
UPDATE = {
    **{"bank": BANK, "base_digest": DIGEST, "campaign": "spring", "head": HEAD, "kind": "update"},
    **{"num_steps": 5, "plan_digest": PLAN, "round": ROUND},
}
RESULT = {"campaign": "spring", "kind": "result", "rounds": 12}
Vector = tuple[str, str | None, bytes]


def written(fields: Any, **changed: Any) -> bytes:
    """JSON as docs/formats/campaign.md has it."""
    return json.dumps({**fields, **changed}, sort_keys=True, separators=(",", ":")).encode()


def file(fields: bytes, tensors: dict[str, Any] = VALUES, *, dtype: str = "F32") -> bytes:
    """A safetensors file, by hand."""
    header: dict[str, Any] = {"__metadata__": {"fedbank": fields.decode()}}
    body = b""
    for name in sorted(tensors):
        shape, values = tensors[name]
        content = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(body), len(body) + len(content)]}
        body += content
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def digest() -> str:
    """Of the adapter."""
    sha = hashlib.sha256(b"fedbank-adapter/1")
    for name, ((rows, columns), values) in sorted(VALUES.items()):
        sha.update(f"{name}({rows}, {columns})".encode() + struct.pack(f"<{len(values)}f", *values))
    return sha.hexdigest()


def call(mask: str = MASK, note: str = f"fedbank-note/1 {PLAN} {HEAD} 0", **changed: Any) -> bytes:
    """A call of one bank to a round."""
    context = json.dumps(["fedbank-mask/1", mask, BANK, "spring", ROUND]).encode()
    stream = hashlib.shake_256(context).digest(len(note))
    notes = {BANK: bytes(a ^ b for a, b in zip(note.encode(), stream, strict=True)).hex()}
    fields = {"campaign": "spring", "kind": "call", "notes": notes, "previous": BEFORE, "round": ROUND}
    return file(written(fields, **changed))


def proposals() -> list[Vector]:
    """Without the roster that they travel behind, but for the one that is shorter than it says."""

    def terms(section: str, **changed: Any) -> bytes:
        return written(PROPOSAL, terms={**TERMS, section: {**TERMS[section], **changed}})

    less = {name: value for name, value in TERMS["training"].items() if name != "rounds"}
    return [
        ("read", None, written(PROPOSAL)),
        ("field-more", "UpdateError", written(PROPOSAL, note="x")),
        ("other-format", "UpdateError", written(PROPOSAL, format="fedbank-proposal/2")),
        ("digest-in-capitals", "UpdateError", written(PROPOSAL, base_digest="AB" * 32)),
        ("name-with-a-slash", "UpdateError", written(PROPOSAL, name="../spring")),
        ("terms-without-training", "UpdateError", written(PROPOSAL, terms={**TERMS, "training": []})),
        ("terms-about-a-banks-own-business", "UpdateError", terms("training", micro_batch=4)),
        ("terms-without-rounds", "ConfigError", written(PROPOSAL, terms={**TERMS, "training": less})),
        ("terms-with-more", "ConfigError", terms("training", shuffle=True)),
        ("terms-of-another-type", "ConfigError", terms("training", rounds="twelve")),
        ("terms-out-of-range", "ConfigError", terms("training", rounds=0)),
        ("terms-with-a-reference", "ConfigError", terms("training", learning_rate="${aggregation.learning_rate}")),
        ("nested-without-end", "UpdateError", b"[" * 3_000),
    ]


def acceptances() -> list[Vector]:
    """A bank's consent."""
    return [
        ("read", None, written(ACCEPTANCE)),
        ("read-without-privacy", None, written(ACCEPTANCE, epsilon=None)),
        ("nobody-in-it", "UpdateError", written(ACCEPTANCE, declared_size=0)),
        ("half-a-customer", "UpdateError", written(ACCEPTANCE, declared_size=0.5)),
        ("epsilon-zero", "UpdateError", written(ACCEPTANCE, epsilon=0.0)),
        ("epsilon-infinite", "UpdateError", written(ACCEPTANCE).replace(b"7.9", b"Infinity")),
        ("epsilon-not-a-number", "UpdateError", written(ACCEPTANCE).replace(b"7.9", b"NaN")),
        ("field-more", "UpdateError", written(ACCEPTANCE, loss=0.1)),
        ("other-format", "UpdateError", written(ACCEPTANCE, format="fedbank-proposal/2")),
    ]


def presences() -> list[Vector]:
    """Who is there."""
    return [
        ("read", None, written(PRESENCE)),
        ("field-more", "UpdateError", written(PRESENCE, customers=400)),
        ("number-for-a-text", "UpdateError", written(PRESENCE, instance=7)),
        ("no-object", "UpdateError", b"[]"),
        ("too-long", "UpdateError", written(PRESENCE, instance="0" * 1024)),
        ("read-nothing-charged-yet", None, written(PRESENCE, head=NO_HEAD)),
        ("head-without-its-hash", "UpdateError", written(PRESENCE, head="57")),
        ("head-of-no-line-with-a-hash", "UpdateError", written(PRESENCE, head="0" * 12 + HEAD[12:])),
        ("head-in-capitals", "UpdateError", written(PRESENCE, head=HEAD.upper())),
    ]


def calls() -> list[Vector]:
    """As the bank reads them that is called."""
    return [
        ("read", None, call()),
        ("masked-for-another-bank", "UpdateError", call(mask="a5" * 32)),
        ("without-the-bank", "UpdateError", call(notes={"bank-b": "00"})),
        ("a-plan-and-no-note", "UpdateError", call(note=PLAN)),
        ("a-note-of-another-version", "UpdateError", call(note=f"fedbank-note/2 {PLAN} {HEAD} 0")),
        ("a-note-with-more", "UpdateError", call(note=f"fedbank-note/1 {PLAN} {HEAD} 0 0")),
        ("previous-a-number", "UpdateError", call(previous=2)),
        ("another-kind", "UpdateError", call(kind="request")),
        ("not-a-file", "UpdateError", b"\xff" * 64),
    ]


def updates() -> list[Vector]:
    """What a bank sends."""

    def with_b(shape: tuple[int, int], values: list[float]) -> bytes:
        return file(written(UPDATE), {B: (shape, values)})

    told = {"campaign": 1.5, "total": None}
    return [
        ("read", None, file(written(UPDATE), TRAINED)),
        ("read-disclosed", None, file(written(UPDATE, disclosed=told), TRAINED)),
        ("another-kind", "UpdateError", file(written(UPDATE, kind="result"), TRAINED)),
        ("field-more", "UpdateError", file(written(UPDATE, loss=0.7), TRAINED)),
        ("steps-true", "UpdateError", file(written(UPDATE, num_steps=True), TRAINED)),
        ("disclosed-negative", "UpdateError", file(written(UPDATE, disclosed={**told, "total": -1.0}), TRAINED)),
        ("disclosed-more", "UpdateError", file(written(UPDATE, disclosed={**told, "customers": 400}), TRAINED)),
        ("tensor-more", "UpdateError", file(written(UPDATE), VALUES)),
        ("transposed", "UpdateError", with_b((2, 3), VALUES[B][1])),
        ("broadcast", "UpdateError", with_b((1, 1), [1.0])),
        ("another-type", "UpdateError", file(written(UPDATE), TRAINED, dtype="I32")),
        ("not-finite", "NotFiniteError", with_b((3, 2), [float("nan"), *VALUES[B][1][1:]])),
        ("infinite", "NotFiniteError", with_b((3, 2), [float("inf"), *VALUES[B][1][1:]])),
        ("cut", "UpdateError", file(written(UPDATE), TRAINED)[:-4]),
        ("head-without-its-hash", "UpdateError", file(written(UPDATE, head="57"), TRAINED)),
        ("header-longer-than-the-file", "UpdateError", (1 << 19).to_bytes(8, "little") + b"{}"),
    ]


def results() -> list[Vector]:
    """The adapter at the end."""
    return [
        ("read", None, file(written(RESULT))),
        ("another-kind", "UpdateError", file(written(RESULT, kind="update"))),
        ("rounds-true", "UpdateError", file(written(RESULT, rounds=True))),
        ("field-more", "UpdateError", file(written(RESULT, note="x"))),
        ("tensor-less", "UpdateError", file(written(RESULT), TRAINED)),
    ]


def build() -> dict[str, Any]:
    """All vectors; ``refused`` is null for those that must be read, else what the reader raises."""
    kinds = {"proposal": proposals, "acceptance": acceptances, "presence": presences}
    files = {"call": calls, "update": updates, "result": results}
    return {
        "adapter": ADAPTER,
        "reader": {"bank": BANK, "mask": MASK, "plan_digest": PLAN, "head": HEAD, "round": ROUND},
        "campaign": f"spring-{hashlib.sha256(written(PROPOSAL)).hexdigest()}",
        "receipt": digest(),
        "vectors": {
            kind: [{"name": name, "refused": refused, "hex": content.hex()} for name, refused, content in make()]
            for kind, make in {**kinds, **files}.items()
        },
    }


if __name__ == "__main__":
    target = Path(__file__).with_name("campaign.json")
    target.write_text(json.dumps(build(), indent=1, ensure_ascii=False) + "\n", "utf-8")
