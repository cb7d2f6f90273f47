"""Bytes from outside: every hostile input is an ``UpdateError``, and never another exception."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from fedbank.adapter.heads import CallNote, LedgerHead
from fedbank.adapter.state import AdapterSpec, digest
from fedbank.adapter.update import Presence, RoundCall, RoundRequest, Update
from fedbank.errors import UpdateError

METADATA = {
    "kind": "update",
    "campaign": "spring",
    "round": 2,
    "bank": "bank-a",
    "base_digest": "ab",
    "plan_digest": "cd",
    "num_steps": 5,
    "head": "000000000004:" + "5a" * 32,
}


def _tensors(spec: AdapterSpec) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in spec.trainable_shapes().items()}


def _update(spec: AdapterSpec) -> Update:
    return Update("spring", 2, "bank-a", "ab", "cd", 5, _tensors(spec), head=LedgerHead(4, "5a" * 32))


def _with_header(content: bytes, edit: Callable[[dict[str, Any]], object]) -> bytes:
    """The same file with its JSON header edited in place or replaced by what ``edit`` returns."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    replaced = edit(header)
    raw = replaced if isinstance(replaced, bytes) else json.dumps(header if replaced is None else replaced).encode()
    return len(raw).to_bytes(8, "little") + raw + content[8 + length :]


def _with_metadata(spec: AdapterSpec, text: str) -> bytes:
    return bytes(save(_tensors(spec), metadata={"fedbank": text}))


def _changed(spec: AdapterSpec, **changes: Any) -> bytes:
    return _with_metadata(spec, json.dumps({**METADATA, **changes}))


def _set(name: str, field: str, value: object) -> Callable[[dict[str, Any]], None]:
    def edit(header: dict[str, Any]) -> None:
        header[name][field] = value

    return edit


B = "l.q_proj.lora_B.weight"
Hostile = Callable[[AdapterSpec, bytes], bytes]
HOSTILE: dict[str, Hostile] = {
    "empty": lambda spec, good: b"",
    "seven-bytes": lambda spec, good: good[:7],
    "header-length-only": lambda spec, good: good[:8],
    "header-cut": lambda spec, good: good[:60],
    "data-cut": lambda spec, good: good[:-1],
    "data-appended": lambda spec, good: good + b"\0",
    "huge-header-length": lambda spec, good: b"\xff" * 8 + good[8:],
    "header-longer-than-file": lambda spec, good: (len(good)).to_bytes(8, "little") + good[8:],
    "header-above-limit": lambda spec, good: _with_header(good, lambda h: json.dumps(h).encode() + b" " * (1 << 20)),
    "not-json": lambda spec, good: _with_header(good, lambda h: b"{not json"),
    "not-utf8": lambda spec, good: _with_header(good, lambda h: b'{"\xff\xfe": {}}'),
    "a-list": lambda spec, good: _with_header(good, lambda h: b"[1, 2, 3]"),
    "a-number": lambda spec, good: _with_header(good, lambda h: b"7"),
    "deep-header": lambda spec, good: _with_header(good, lambda h: b"[" * 200_000),
    "deep-header-object": lambda spec, good: _with_header(good, lambda h: b'{"a":' * 100_000),
    "many-digits": lambda spec, good: _with_header(good, lambda h: b'{"a": ' + b"9" * 100_000 + b"}"),
    "pickle": lambda spec, good: b"\x80\x04\x95" + good,
    "tensor-not-an-object": lambda spec, good: _with_header(good, lambda h: {**h, B: 3}),
    "tensor-without-fields": lambda spec, good: _with_header(good, lambda h: {**h, B: {}}),
    "tensor-missing": lambda spec, good: bytes(save({}, metadata={"fedbank": json.dumps(METADATA)})),
    "tensor-renamed": lambda spec, good: good.replace(b"q_proj.lora_B", b"q_proj.lora_C"),
    "tensor-extra": lambda spec, good: bytes(
        save({**_tensors(spec), "loss": np.zeros(1, np.float32)}, metadata={"fedbank": json.dumps(METADATA)})
    ),
    "frozen-tensor-sent": lambda spec, good: bytes(
        save({**_tensors(spec), "l.q_proj.lora_A.weight": np.zeros((3, 7), np.float32)}, metadata={"fedbank": "{}"})
    ),
    "shape-transposed": lambda spec, good: _with_header(good, _set(B, "shape", [3, 9])),
    "shape-flat": lambda spec, good: _with_header(good, _set(B, "shape", [27])),
    "shape-number": lambda spec, good: _with_header(good, _set(B, "shape", 27)),
    "shape-null": lambda spec, good: _with_header(good, _set(B, "shape", None)),
    "shape-nested": lambda spec, good: _with_header(good, _set(B, "shape", [[9], 3])),
    "shape-floats": lambda spec, good: _with_header(good, _set(B, "shape", [9.0, 3.0])),
    "shape-negative": lambda spec, good: _with_header(good, _set(B, "shape", [-9, -3])),
    "dtype-half": lambda spec, good: bytes(
        save({n: t.astype(np.float16) for n, t in _tensors(spec).items()}, metadata={"fedbank": json.dumps(METADATA)})
    ),
    "dtype-double": lambda spec, good: bytes(
        save({n: t.astype(np.float64) for n, t in _tensors(spec).items()}, metadata={"fedbank": json.dumps(METADATA)})
    ),
    "dtype-integer-of-same-size": lambda spec, good: _with_header(good, _set(B, "dtype", "I32")),
    "dtype-list": lambda spec, good: _with_header(good, _set(B, "dtype", ["F32"])),
    "offsets-overlap": lambda spec, good: _with_header(good, _set(B, "data_offsets", [0, 60])),
    "offsets-out-of-file": lambda spec, good: _with_header(good, _set(B, "data_offsets", [10**9, 10**9 + 108])),
    "offsets-text": lambda spec, good: _with_header(good, _set(B, "data_offsets", "0,108")),
    "offsets-null": lambda spec, good: _with_header(good, _set(B, "data_offsets", None)),
    "nan": lambda spec, good: good[:-4] + np.float32(np.nan).tobytes(),
    "infinity": lambda spec, good: good[:-4] + np.float32(-np.inf).tobytes(),
    "no-metadata": lambda spec, good: bytes(save(_tensors(spec))),
    "metadata-null": lambda spec, good: _with_header(good, lambda h: {**h, "__metadata__": None}),
    "metadata-list": lambda spec, good: _with_header(good, lambda h: {**h, "__metadata__": []}),
    "metadata-not-text": lambda spec, good: _with_header(good, lambda h: {**h, "__metadata__": {"fedbank": 3}}),
    "metadata-of-another-tool": lambda spec, good: bytes(save(_tensors(spec), metadata={"format": "pt"})),
    "inner-not-json": lambda spec, good: _with_metadata(spec, "{"),
    "inner-null": lambda spec, good: _with_metadata(spec, "null"),
    "inner-list": lambda spec, good: _with_metadata(spec, "[]"),
    "inner-deep": lambda spec, good: _with_metadata(spec, "[" * 100_000),
    "inner-deep-object": lambda spec, good: _with_metadata(spec, '{"a":' * 100_000),
    "inner-many-digits": lambda spec, good: _with_metadata(spec, '{"round": ' + "9" * 50_000 + "}"),
    "field-extra": lambda spec, good: _changed(spec, training_loss=0.25),
    "field-missing": lambda spec, good: _with_metadata(spec, json.dumps({"kind": "update", "round": 2})),
    "kind-request": lambda spec, good: _changed(spec, kind="request"),
    "kind-number": lambda spec, good: _changed(spec, kind=1),
    "round-text": lambda spec, good: _changed(spec, round="2"),
    "round-float": lambda spec, good: _changed(spec, round=2.0),
    "round-true": lambda spec, good: _changed(spec, round=True),
    "round-nan": lambda spec, good: _changed(spec, round=float("nan")),
    "bank-number": lambda spec, good: _changed(spec, bank=4),
    "bank-list": lambda spec, good: _changed(spec, bank=["bank-a"]),
    "digest-null": lambda spec, good: _changed(spec, base_digest=None),
    "steps-object": lambda spec, good: _changed(spec, num_steps={"n": 5}),
    "round-of-64-bits": lambda spec, good: _changed(spec, round=2**63),
    "bank-half-a-character": lambda spec, good: _changed(spec, bank="\ud800"),
    "inner-name-twice": lambda spec, good: _with_metadata(spec, json.dumps(METADATA)[:-1] + ', "round": 2}'),
    "tensor-name-half-a-character": lambda spec, good: _with_header(good, lambda h: {**h, "\ud800": {}}),
    "tensor-name-of-a-megabyte": lambda spec, good: _with_header(good, lambda h: {**h, "x" * 1_000_000: {}}),
    "header-name-twice": lambda spec, good: _with_header(
        good, lambda h: json.dumps(h)[:-1].encode() + b', "__metadata__": {}}'
    ),
    "offsets-of-400-digits": lambda spec, good: _with_header(good, _set(B, "data_offsets", [0, 10**400])),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_an_update_error(small_spec: AdapterSpec, hostile: Hostile) -> None:
    good = _update(small_spec).to_bytes()
    content = hostile(small_spec, good)
    assert content != good
    with pytest.raises(UpdateError, match="Expected") as refused:
        Update.from_bytes(content, small_spec)
    assert str(refused.value).isprintable() and len(str(refused.value)) < 1000


def test_random_byte_flips_never_escape(small_spec: AdapterSpec) -> None:
    """300 flips with a fixed seed: refused, or a value of the agreed shape and finite."""
    good, rng, refused = _update(small_spec).to_bytes(), np.random.default_rng(5), 0
    length = 8 + int.from_bytes(good[:8], "little")
    for trial in range(300):
        flipped = bytearray(good)
        for _ in range(int(rng.integers(1, 4))):
            flipped[int(rng.integers(0, length if trial % 2 else len(good)))] ^= int(rng.integers(1, 256))
        try:
            update = Update.from_bytes(bytes(flipped), small_spec)
        except UpdateError:
            refused += 1
        else:
            assert {n: t.shape for n, t in update.tensors.items()} == small_spec.trainable_shapes()
            assert all(np.isfinite(t).all() and t.dtype == np.float32 for t in update.tensors.values())
            assert type(update.round) is int
    assert 100 < refused < 300


def test_every_truncation_is_refused(small_spec: AdapterSpec) -> None:
    good = _update(small_spec).to_bytes()
    for length in range(len(good)):
        with pytest.raises(UpdateError):
            Update.from_bytes(good[:length], small_spec)


def test_an_update_survives_its_round_trip(small_spec: AdapterSpec) -> None:
    update = _update(small_spec)
    parsed = Update.from_bytes(update.to_bytes(), small_spec)
    assert dataclasses.replace(parsed, tensors={}) == dataclasses.replace(update, tensors={})
    assert digest(parsed.tensors) == digest(update.tensors)
    assert parsed.to_bytes() == update.to_bytes()


def test_an_update_carries_nothing_but_the_agreed_fields(small_spec: AdapterSpec) -> None:
    content = _update(small_spec).to_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header.keys() == {"__metadata__", *small_spec.trainable_shapes()}
    assert header["__metadata__"].keys() == {"fedbank"}
    assert json.loads(header["__metadata__"]["fedbank"]) == METADATA


def test_a_request_survives_its_round_trip_and_is_no_update(
    small_spec: AdapterSpec, make_state: Callable[..., dict[str, Any]]
) -> None:
    request = RoundRequest("spring", 3, "1" * 64, make_state(small_spec, 0))
    parsed = RoundRequest.from_bytes(request.to_bytes(), small_spec)
    assert (parsed.campaign, parsed.round, parsed.plan_digest) == ("spring", 3, "1" * 64)
    assert digest(parsed.adapter) == digest(request.adapter)
    with pytest.raises(UpdateError):
        Update.from_bytes(request.to_bytes(), small_spec)
    with pytest.raises(UpdateError):
        RoundRequest.from_bytes(_update(small_spec).to_bytes(), small_spec)


HEADS = {"bank-a": LedgerHead(), "bank-b": LedgerHead(57, "e" * 64)}
NOTES = {"bank-a": CallNote("a" * 64), "bank-b": CallNote("b" * 64, HEADS["bank-b"], twin=True)}
MASKS = {"bank-a": "1" * 32, "bank-b": "2" * 32}


def test_one_call_holds_the_request_to_every_bank(
    small_spec: AdapterSpec, make_state: Callable[..., dict[str, Any]]
) -> None:
    state = make_state(small_spec, 0)
    call = RoundCall.to_all("spring", 3, NOTES, MASKS, state, "7" * 64).to_bytes()
    for bank, note in NOTES.items():
        parsed = RoundRequest.from_bytes(RoundCall.request_to(bank, MASKS[bank], call), small_spec)
        assert (parsed.campaign, parsed.round, parsed.previous) == ("spring", 3, "7" * 64)
        assert CallNote(parsed.plan_digest, parsed.head, parsed.twin) == note
        assert digest(parsed.adapter) == digest(state)


def test_a_bank_cannot_read_another_banks_plan_in_the_call(
    small_spec: AdapterSpec, make_state: Callable[..., dict[str, Any]]
) -> None:
    """Nor see that two have the same one."""
    same = {"bank-a": CallNote("a" * 64), "bank-b": CallNote("a" * 64)}
    call = RoundCall.to_all("spring", 3, same, MASKS, make_state(small_spec, 0))
    assert call.notes["bank-a"] != call.notes["bank-b"]
    assert "a" * 64 not in call.to_bytes().decode("latin-1")
    with pytest.raises(UpdateError):
        RoundCall.request_to("bank-b", MASKS["bank-a"], call.to_bytes())


STRANGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda call: b"",
    "cut": lambda call: call[:20],
    "no json": lambda call: call[:8] + b"{" * 200 + call[208:],
    "deep": lambda call: (100_000).to_bytes(8, "little") + b"[" * 100_000,
    "a huge header": lambda call: b"\xff" * 8 + call[8:],
    "of another kind": lambda call: _with_header(
        call,
        lambda h: {
            **h,
            "__metadata__": {"fedbank": h["__metadata__"]["fedbank"].replace('"kind":"call"', '"kind":"cull"')},
        },
    ),
    "notes a list": lambda call: _with_header(
        call, lambda h: {**h, "__metadata__": {"fedbank": '{"kind":"call","notes":[]}'}}
    ),
    "metadata a list": lambda call: _with_header(call, lambda h: {**h, "__metadata__": []}),
}


@pytest.mark.parametrize("bank", ["bank-a", "bank-x"])
@pytest.mark.parametrize("spoil", STRANGE.values(), ids=STRANGE.keys())
def test_a_strange_call_is_an_update_error(
    small_spec: AdapterSpec, make_state: Callable[..., dict[str, Any]], spoil: Callable[[bytes], bytes], bank: str
) -> None:
    good = RoundCall.to_all("spring", 3, NOTES, MASKS, make_state(small_spec, 0)).to_bytes()
    content = spoil(good)
    assert content != good
    with pytest.raises(UpdateError, match="Expected"):
        RoundCall.request_to(bank, "1" * 32, content)


_HEAD = b"000000000004:" + b"5a" * 32


def test_a_presence_survives_its_round_trip() -> None:
    presence = Presence("bank-a", "1" * 16, "2" * 64, "3" * 32, LedgerHead(4, "5" * 64))
    assert Presence.from_bytes(presence.to_bytes()) == presence


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"null", b"{", b"\xff", b"[" * 1000, b" " * 2000),
        b'{"bank":"a"}',
        b'{"bank":"a","instance":"1","mask":"3","nonce":"2"}',
        *(b'{"bank":1,"head":"%s","instance":"","mask":"","nonce":""}' % _HEAD,),
        *(b'{"bank":"a","head":"%s","instance":"1","loss":0.3,"mask":"3","nonce":"2"}' % _HEAD,),
        *(
            b'{"bank":"a","head":"%s","instance":"1","mask":"3","nonce":"2"}' % head
            for head in (b"", b"4", _HEAD[:-1], _HEAD.upper(), b"0" * 12 + b":" + b"a" * 64, _HEAD[:13] + b"0" * 64)
        ),
    ],
    ids=str,
)
def test_a_strange_presence_is_an_update_error(content: bytes) -> None:
    with pytest.raises(UpdateError, match="Expected"):
        Presence.from_bytes(content)
