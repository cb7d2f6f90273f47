"""Signed envelopes (docs/formats/envelope.md): bytes with a kind, a signer and a context, verified before use.

Knows no roster: whoever opens an envelope brings the way to find a signer's key. Knows nothing of payloads.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedbank.sealing.keys import SIGNATURE_BYTES, PublicKey, SignatureError, SigningKey
from fedbank.sealing.refusals import (
    AlteredPayloadError,
    BadSignatureError,
    MalformedError,
    TooLargeError,
    UnknownSignerError,
    WrongContextError,
    WrongKindError,
)

MAGIC = b"fedbank-envelope/1\n"
_LABEL = b"fedbank-envelope/1 signature\0"
"""Precedes everything signed here. Nothing else that FedBank signs begins like this: a note holds no NUL."""
_DIGEST_BYTES = 32
_MAX_NAME, _MAX_VALUE, _MAX_CONTEXT = 64, 1024, 16
MAX_OVERHEAD = len(MAGIC) + 2 * (2 + _MAX_NAME) + 1 + _MAX_CONTEXT * (4 + _MAX_NAME + _MAX_VALUE) + 8 + 32 + 64
"""Bytes by which an envelope can at most be longer than its payload."""
_KIND = re.compile(r"[a-z][a-z0-9-]{0,63}")
_SIGNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CONTEXT_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Opened:
    """A verified envelope: the ``payload`` is a view of the envelope's bytes, ``digest`` its SHA-256 in hexadecimal."""

    signer: str
    payload: memoryview
    digest: str


def seal(kind: str, signer: str, context: Mapping[str, str], payload: bytes | memoryview, key: SigningKey) -> bytes:
    """``payload`` in an envelope, signed with ``key`` in the name of ``signer`` for this ``kind`` and ``context``.

    Raises:
        ValueError: ``kind``, ``signer`` or ``context`` cannot be written (docs/formats/envelope.md).
    """
    view = memoryview(payload).cast("B")
    header = _header(kind, signer, context, len(view)) + hashlib.sha256(view).digest()
    return b"".join((header, key.sign(_LABEL + header), view))


def open_sealed(
    content: bytes | memoryview,
    kind: str,
    find_key: Callable[[str], PublicKey | None],
    context: Mapping[str, str],
    max_bytes: int,
) -> Opened:
    """The payload of at most ``max_bytes`` bytes in ``content``, if it was signed as ``kind`` for this ``context``.

    ``find_key`` gives the key that belongs to a name, ``None`` if there is none (any more). One SHA-256 pass over the
    payload, after the signature was verified; nothing is copied. If ``content`` can be written, nobody may do so.

    Raises:
        RefusedError: a subclass that says which check failed, in the order size, format, kind, signer, signature,
            context, payload.
    """
    view = memoryview(content).toreadonly().cast("B")
    if len(view) > max_bytes + MAX_OVERHEAD:
        raise TooLargeError(
            f"Expected an envelope of at most {max_bytes + MAX_OVERHEAD} bytes, got {len(view)}. Nothing was read."
        )
    found = _parse(view)
    if found.payload_bytes > max_bytes:
        raise TooLargeError(f"Expected a payload of at most {max_bytes} bytes, got {found.payload_bytes}.")
    if found.kind != kind:
        raise WrongKindError(f"Expected an envelope of kind {kind!r}, got {found.kind!r}. Nothing was used.")
    _check_signature(view, found, find_key)
    _check_context(found, context)
    payload = view[found.start + SIGNATURE_BYTES :]
    digest = hashlib.sha256(payload)
    if digest.digest() != found.digest:
        raise AlteredPayloadError(
            f"Expected the payload that {found.signer} signed, got one that was changed since. Nothing was used."
        )
    return Opened(found.signer, payload, digest.hexdigest())


@dataclass(frozen=True, slots=True)
class _Parsed:
    """What an envelope claims; ``start`` is where its signature begins."""

    kind: str
    signer: str
    context: dict[str, str]
    payload_bytes: int
    digest: bytes
    start: int


def _check_signature(view: memoryview, found: _Parsed, find_key: Callable[[str], PublicKey | None]) -> None:
    key = find_key(found.signer)
    if key is None:
        raise UnknownSignerError(
            f"Expected an envelope by an active member, got one in the name of {found.signer!r}. Nothing was used."
        )
    signature = bytes(view[found.start : found.start + SIGNATURE_BYTES])
    try:
        key.verify(signature, _LABEL + bytes(view[: found.start]))
    except SignatureError as error:
        raise BadSignatureError(
            f"Expected the signature of {found.signer} ({key.hex()[:16]}...), got one that its key did not make over "
            "this envelope. Nothing was used."
        ) from error


def _check_context(found: _Parsed, context: Mapping[str, str]) -> None:
    expected = dict(context)
    if found.context == expected:
        return
    names = found.context.keys() | expected.keys()
    name = min(name for name in names if found.context.get(name) != expected.get(name))
    raise WrongContextError(
        f"Expected an envelope of {found.signer} for {name} = {expected.get(name)!r:.80}, got one for "
        f"{found.context.get(name)!r:.80}. Nothing was used."
    )


def _header(kind: str, signer: str, context: Mapping[str, str], payload_bytes: int) -> bytes:
    if not _KIND.fullmatch(kind) or not _SIGNER.fullmatch(signer) or len(context) > _MAX_CONTEXT:
        raise ValueError(f"expected a kind, a signer and at most {_MAX_CONTEXT} values, got {kind!r}, {signer!r}")
    parts = [MAGIC, _text(kind), _text(signer), bytes([len(context)])]
    for name in sorted(context):
        value = context[name]
        if not _CONTEXT_NAME.fullmatch(name) or not value.isprintable() or len(value.encode()) > _MAX_VALUE:
            raise ValueError(f"expected a name and one printable line, got {name!r} = {value!r:.80}")
        parts += [_text(name), _text(value)]
    return b"".join([*parts, payload_bytes.to_bytes(8, "big")])


def _text(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def _parse(view: memoryview) -> _Parsed:
    reader = _Reader(view)
    if reader.take(len(MAGIC), "a whole header") != MAGIC:
        raise MalformedError(f"Expected an envelope that begins with {MAGIC!r}, got {bytes(view[: len(MAGIC)])!r}.")
    kind, signer = reader.text(_KIND, "a kind"), reader.text(_SIGNER, "a signer")
    count = reader.number(1)
    if count > _MAX_CONTEXT:
        raise MalformedError(f"Expected at most {_MAX_CONTEXT} values of context, got {count}. Nothing was used.")
    context: dict[str, str] = {}
    for _ in range(count):
        name = reader.text(_CONTEXT_NAME, "a name of context")
        if context and name <= max(context):
            raise MalformedError(f"Expected names of context in ascending order, got {name!r} after another.")
        context[name] = reader.text(None, "a value of context")
    payload_bytes = reader.number(8)
    digest = reader.take(_DIGEST_BYTES, "a whole header")
    start = reader.position
    if len(view) != start + SIGNATURE_BYTES + payload_bytes:
        raise MalformedError(
            f"Expected {start + SIGNATURE_BYTES + payload_bytes} bytes, as the header says, got {len(view)}. "
            "Nothing was used."
        )
    return _Parsed(kind, signer, context, payload_bytes, digest, start)


class _Reader:
    """Takes fields off the front of an envelope; ``MalformedError`` where there is none."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self.position = 0

    def take(self, count: int, what: str) -> bytes:
        end = self.position + count
        if end > len(self._view):
            raise MalformedError(f"Expected {what}, got an envelope that ends after {len(self._view)} bytes.")
        taken = bytes(self._view[self.position : end])
        self.position = end
        return taken

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count, "a whole header"), "big")

    def text(self, form: re.Pattern[str] | None, what: str) -> str:
        length = self.number(2)
        if length > (_MAX_VALUE if form is None else _MAX_NAME):
            raise MalformedError(f"Expected {what}, got a text of {length} bytes. Nothing was used.")
        try:
            text = self.take(length, what).decode()
        except UnicodeDecodeError as error:
            raise MalformedError(f"Expected {what} in UTF-8, got other bytes. Nothing was used.") from error
        if not (text.isprintable() if form is None else form.fullmatch(text)):
            raise MalformedError(f"Expected {what}, got {text!r:.80}. Nothing was used.")
        return text
