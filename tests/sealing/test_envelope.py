import hashlib
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from fedbank.errors import UpdateError
from fedbank.sealing import envelope as module
from fedbank.sealing.envelope import MAX_OVERHEAD, Opened, open_sealed, seal
from fedbank.sealing.keys import PublicKey, SigningKey
from fedbank.sealing.refusals import (
    AlteredPayloadError,
    BadSignatureError,
    MalformedError,
    RefusedError,
    TooLargeError,
    UnknownSignerError,
    WrongContextError,
    WrongKindError,
)

KEYS = {name: SigningKey.derived(name) for name in ("bank-a", "bank-b")}
CONTEXT = {"campaign": "spring", "consortium": "Nordic Banks", "roster": "ab" * 32}
PAYLOAD = b"forty-two bytes"
SEALED = seal("update", "bank-a", CONTEXT, PAYLOAD, KEYS["bank-a"])
Change = Callable[[], bytes]


def find_key(name: str) -> PublicKey | None:
    return KEYS[name].public if name in KEYS else None


def opened(content: bytes, kind: str = "update", max_bytes: int = 1000, **changed: str) -> Opened:
    return open_sealed(content, kind, find_key, {**CONTEXT, **changed}, max_bytes)


@pytest.mark.parametrize("payload", [b"", b"x", PAYLOAD, bytes(1000), memoryview(PAYLOAD), memoryview(bytearray(3))])
def test_what_is_sealed_can_be_opened(payload: bytes | memoryview) -> None:
    found = opened(seal("update", "bank-a", CONTEXT, payload, KEYS["bank-a"]))
    assert (found.signer, found.payload) == ("bank-a", payload)
    assert found.digest == hashlib.sha256(payload).hexdigest()


def test_the_same_call_seals_the_same_bytes_whatever_the_order_of_the_context() -> None:
    assert seal("update", "bank-a", dict(reversed(CONTEXT.items())), PAYLOAD, KEYS["bank-a"]) == SEALED


def test_an_array_is_sealed_as_its_bytes() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    sealed = seal("update", "bank-a", CONTEXT, memoryview(array), KEYS["bank-a"])
    assert bytes(opened(sealed).payload) == array.tobytes()


# --- what must be refused ----------------------------------------------------------------------------------------

B = KEYS["bank-b"]
_SIGNATURE_AT = len(SEALED) - len(PAYLOAD) - 64


def _with_signature_of(other: bytes, payload: bytes = PAYLOAD) -> bytes:
    """The header of ``SEALED`` under the signature of another envelope."""
    return SEALED[:_SIGNATURE_AT] + other[len(other) - len(payload) - 64 : len(other) - len(payload)] + PAYLOAD


REFUSED: dict[str, tuple[Change, type[RefusedError], str]] = {
    "other-kind": (lambda: seal("request", "bank-a", CONTEXT, PAYLOAD, KEYS["bank-a"]), WrongKindError, "'request'"),
    "kind-relabelled": (lambda: SEALED.replace(b"\x00\x06update", b"\x00\x06updatf"), WrongKindError, "'updatf'"),
    "kind-relabelled-to-fit": (
        lambda: seal("request", "bank-a", CONTEXT, PAYLOAD, KEYS["bank-a"]).replace(
            b"\x00\x07request", b"\x00\x06update"
        ),
        BadSignatureError,
        "bank-a",
    ),
    "unknown-signer": (lambda: seal("update", "bank-c", CONTEXT, PAYLOAD, B), UnknownSignerError, "'bank-c'"),
    "signed-in-anothers-name": (lambda: seal("update", "bank-a", CONTEXT, PAYLOAD, B), BadSignatureError, "bank-a"),
    "name-exchanged": (lambda: SEALED.replace(b"\x00\x06bank-a", b"\x00\x06bank-b"), BadSignatureError, "bank-b"),
    "signature-for-another-kind": (
        lambda: _with_signature_of(seal("request", "bank-a", CONTEXT, PAYLOAD, KEYS["bank-a"])),
        BadSignatureError,
        "bank-a",
    ),
    "signature-for-another-context": (
        lambda: _with_signature_of(seal("update", "bank-a", {"campaign": "autumn"}, PAYLOAD, KEYS["bank-a"])),
        BadSignatureError,
        "bank-a",
    ),
    "signature-for-another-payload": (
        lambda: _with_signature_of(seal("update", "bank-a", CONTEXT, b"x" * len(PAYLOAD), KEYS["bank-a"])),
        BadSignatureError,
        "bank-a",
    ),
    "signature-over-the-header-without-its-label": (
        lambda: SEALED[:_SIGNATURE_AT] + KEYS["bank-a"].sign(SEALED[:_SIGNATURE_AT]) + PAYLOAD,
        BadSignatureError,
        "bank-a",
    ),
    "payload-exchanged": (lambda: SEALED[: -len(PAYLOAD)] + b"x" * len(PAYLOAD), AlteredPayloadError, "bank-a"),
    "payload-longer": (lambda: SEALED + b"x", MalformedError, "as the header says"),
    "payload-shorter": (lambda: SEALED[:-1], MalformedError, "as the header says"),
    "two-envelopes": (lambda: SEALED + SEALED, MalformedError, "as the header says"),
    "empty": (lambda: b"", MalformedError, "ends after 0 bytes"),
    "other-magic": (lambda: SEALED.replace(b"envelope/1", b"envelope/2"), MalformedError, "begins with"),
    "no-kind": (lambda: SEALED.replace(b"\x00\x06update", b"\x00\x00"), MalformedError, "Expected a kind"),
    "kind-in-capitals": (lambda: SEALED.replace(b"update", b"Update"), MalformedError, "Expected a kind"),
    "kind-too-long": (lambda: SEALED.replace(b"\x00\x06update", b"\xff\xffupdate"), MalformedError, "65535 bytes"),
    "signer-with-a-path": (lambda: SEALED.replace(b"bank-a", b"../a/b"), MalformedError, "Expected a signer"),
    "signer-not-utf8": (lambda: SEALED.replace(b"bank-a", b"bank-\xff"), MalformedError, "UTF-8"),
    "context-out-of-order": (
        lambda: SEALED.replace(b"\x00\x08campaign", b"\x00\x08zampaign"),
        MalformedError,
        "ascending order",
    ),
    "context-twice": (
        lambda: seal("update", "bank-a", {"aa": "", "ab": ""}, b"", KEYS["bank-a"]).replace(b"\x02ab", b"\x02aa"),
        MalformedError,
        "ascending order",
    ),
    "context-with-a-line-break": (lambda: SEALED.replace(b"Nordic Banks", b"Nordic\nBanks"), MalformedError, "a value"),
    "context-too-much": (
        lambda: SEALED.replace(b"bank-a\x03", b"bank-a\xff"),
        MalformedError,
        "at most 16 values",
    ),
    "huge-payload-promised": (
        lambda: SEALED.replace(len(PAYLOAD).to_bytes(8, "big"), b"\xff" * 8),
        MalformedError,
        "as the header says",
    ),
    "larger-than-allowed": (lambda: bytes(1001 + MAX_OVERHEAD), TooLargeError, "Nothing was read"),
    "payload-larger-than-allowed": (
        lambda: seal("update", "bank-a", CONTEXT, bytes(1001), KEYS["bank-a"]),
        TooLargeError,
        "at most 1000 bytes, got 1001",
    ),
}


@pytest.mark.parametrize(("make", "error", "match"), REFUSED.values(), ids=REFUSED.keys())
def test_an_envelope_is_refused_by_the_check_that_it_fails(make: Change, error: type[RefusedError], match: str) -> None:
    with pytest.raises(RefusedError, match=match) as refused:
        opened(make())
    assert type(refused.value) is error
    assert isinstance(refused.value, UpdateError) and str(refused.value).startswith("Expected ")


CONTEXTS: dict[str, tuple[dict[str, str], str]] = {
    "other-campaign": ({**CONTEXT, "campaign": "autumn"}, "campaign = 'autumn', got one for 'spring'"),
    "other-consortium": ({**CONTEXT, "consortium": "nordic banks"}, "consortium"),
    "older-roster": ({**CONTEXT, "roster": "cd" * 32}, "roster"),
    "more-expected": ({**CONTEXT, "round": "3"}, "round = '3', got one for None"),
    "less-expected": ({"campaign": "spring"}, "consortium = None, got one for 'Nordic Banks'"),
    "nothing-expected": ({}, "campaign = None"),
}


@pytest.mark.parametrize(("context", "match"), CONTEXTS.values(), ids=CONTEXTS.keys())
def test_an_envelope_for_another_context_is_refused(context: dict[str, str], match: str) -> None:
    with pytest.raises(WrongContextError, match=match):
        open_sealed(SEALED, "update", find_key, context, 1000)


def test_a_forged_envelope_is_called_forged_even_if_its_context_differs_too() -> None:
    with pytest.raises(BadSignatureError):
        opened(seal("update", "bank-a", {}, PAYLOAD, B))


def test_every_flipped_bit_is_refused() -> None:
    for position in range(len(SEALED)):
        for bit in range(8):
            changed = bytearray(SEALED)
            changed[position] ^= 1 << bit
            with pytest.raises(RefusedError):
                opened(bytes(changed))


def test_every_byte_value_in_the_header_is_refused() -> None:
    for position in range(_SIGNATURE_AT):
        for value in {0, 1, 0x0A, 0x7F, 0x80, 0xFF} - {SEALED[position]}:
            with pytest.raises(RefusedError):
                opened(SEALED[:position] + bytes([value]) + SEALED[position + 1 :])


def test_every_length_but_the_right_one_is_refused() -> None:
    for length in range(len(SEALED)):
        with pytest.raises(MalformedError):
            opened(SEALED[:length])
    for more in (b"\0", b"\xff", SEALED[-1:], bytes(64), SEALED):
        with pytest.raises(MalformedError):
            opened(SEALED + more)


def test_random_bytes_are_refused() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        start = int(rng.integers(0, _SIGNATURE_AT))
        with pytest.raises(RefusedError):
            opened(SEALED[:start] + rng.bytes(int(rng.integers(0, 300))))


# --- cost --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"x" * 5_000_000])
def test_opening_copies_no_payload_and_hashes_it_once(payload: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = seal("update", "bank-a", CONTEXT, payload, KEYS["bank-a"])
    hashed: list[int] = []
    real = hashlib.sha256

    def counting(content: bytes = b"") -> object:
        hashed.append(len(content))
        return real(content)

    monkeypatch.setattr(module.hashlib, "sha256", counting)
    tracemalloc.start()
    found = opened(sealed, max_bytes=len(payload))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000 and hashed == [len(payload)]
    assert found.payload.readonly and found.payload.obj is sealed


def test_a_payload_is_not_hashed_before_its_signature_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    forged = seal("update", "bank-a", CONTEXT, PAYLOAD, B)
    monkeypatch.setattr(module.hashlib, "sha256", lambda content: pytest.fail("hashed too early"))
    with pytest.raises(BadSignatureError):
        opened(forged)


# --- programmer errors -------------------------------------------------------------------------------------------

UNWRITABLE: dict[str, tuple[str, str, dict[str, str]]] = {
    "no-kind": ("", "bank-a", {}),
    "kind-with-a-space": ("an update", "bank-a", {}),
    "no-signer": ("update", "", {}),
    "signer-with-a-line-break": ("update", "bank-a\n", {}),
    "signer-too-long": ("update", "b" * 65, {}),
    "context-name-in-capitals": ("update", "bank-a", {"Campaign": "x"}),
    "context-value-with-a-line-break": ("update", "bank-a", {"campaign": "x\n"}),
    "context-value-too-long": ("update", "bank-a", {"campaign": "x" * 1025}),
    "context-too-much": ("update", "bank-a", {f"c{number}": "" for number in range(17)}),
}


@pytest.mark.parametrize(("kind", "signer", "context"), UNWRITABLE.values(), ids=UNWRITABLE.keys())
def test_what_could_not_be_read_again_is_not_written(kind: str, signer: str, context: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected a"):
        seal(kind, signer, context, PAYLOAD, KEYS["bank-a"])


def test_the_longest_header_fits_the_stated_overhead() -> None:
    context = {f"{'c' * 62}{number:02d}": "v" * 1024 for number in range(16)}
    sealed = seal("k" * 64, "s" * 64, context, b"", KEYS["bank-a"])
    assert len(sealed) == MAX_OVERHEAD
    assert open_sealed(sealed, "k" * 64, lambda _: KEYS["bank-a"].public, context, 0).payload == b""
