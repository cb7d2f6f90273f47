"""The objects that a message of Flower is made of, read with bounds and without a decoder.

A message travels as a chain of objects: message, record dictionary, record. Flower's own decoders believe what an
object says of itself: a few megabytes that announce millions of empty parts become gigabytes of Python objects.
FedBank sends one record with one bytes value, so there is exactly one chain that is right, and everything else is
refused before anything is decoded. Knows Flower's byte format (``flwr.supercore.inflatable``, protobuf), not Flower.
"""

import hashlib
from collections.abc import Callable, Sequence

from fedbank.errors import UpdateError

MESSAGE, RECORD_DICT, CONFIG_RECORD = "Message", "RecordDict", "ConfigRecord"
MAX_HEAD_BYTES = 256
"""A head is the object's kind, at most one child (64 hex digits) and a length."""
MAX_SMALL_BYTES = 16 * 1024
"""Bound of the two outer objects: names and numbers."""
MAX_CHAIN = 3
_CHAIN = (MESSAGE, RECORD_DICT, CONFIG_RECORD)
_DIVIDER = b"\x00"


def read_head(content: bytes) -> tuple[str, str | None, int]:
    """Kind, only child (or ``None``) and offset of the body of an object; ``UpdateError`` unless it has that form."""
    end = content.find(_DIVIDER, 0, MAX_HEAD_BYTES)
    parts = content[: max(end, 0)].split(b" ")
    if end < 0 or len(parts) != 3 or b"," in parts[1] or parts[2] != str(len(content) - end - 1).encode():
        raise UpdateError(f"Expected an object with one child at most, got {len(content)} bytes of another form.")
    kind, child, _ = (part.decode("ascii", "replace") for part in parts)
    if kind not in _CHAIN:
        raise UpdateError(f"Expected one of {', '.join(_CHAIN)}, got an object of kind {kind[:40]!r}.")
    return kind, child or None, end + 1


def read_chain(
    ids: Sequence[str], pull: Callable[[str], bytes], record: str, key: str, max_bytes: int
) -> tuple[bytes, bytes | None]:
    """The message object and the one bytes value below it (``None`` if it carries an error instead of a record).

    ``ids`` are the objects of the chain, outermost first; ``pull`` fetches one. Outer objects are fetched and checked
    before inner ones.

    Raises:
        UpdateError: the chain is not message, dictionary with the one name ``record``, record with the one ``key``.
    """
    if len(ids) not in (1, MAX_CHAIN):
        raise UpdateError(f"Expected a message of 1 or {MAX_CHAIN} objects, got {len(ids)}.")
    contents: list[bytes] = []
    for number, object_id in enumerate(ids):
        content = pull(object_id)
        bound = max_bytes + MAX_SMALL_BYTES if number == MAX_CHAIN - 1 else MAX_SMALL_BYTES
        if len(content) > bound:
            raise UpdateError(f"Expected at most {bound} bytes, got an object of {len(content)}.")
        kind, child, body = read_head(content)
        if kind != _CHAIN[number] or child != (ids[number + 1] if number + 1 < len(ids) else None):
            raise UpdateError(f"Expected {_CHAIN[number]} as object {number + 1} of a message, got {kind}.")
        if kind == RECORD_DICT and content[body:] != _names(record, ids[number + 1]):
            raise UpdateError(f"Expected the one record {record!r}, got another set of records.")
        contents.append(content)
    if len(ids) == 1:
        return contents[0], None
    return contents[0], read_value(contents[2][read_head(contents[2])[2] :], key)


def write_chain(outer: bytes, payload: bytes | None, record: str, key: str) -> list[tuple[str, bytes]]:
    """Id and bytes of every object of a message, outermost first: the inverse of ``read_chain``.

    ``outer`` is the message object as Flower writes it, whatever child it names; without a ``payload`` it has none.
    """
    body = outer[read_head(outer)[2] :]
    if payload is None:
        return [_object(MESSAGE, "", body)]
    name = key.encode()
    value = b"\x32" + _varint(len(payload))
    item = b"\x0a" + _varint(len(name)) + name + b"\x12" + _varint(len(value) + len(payload)) + value
    inner = _object(CONFIG_RECORD, "", b"\x0a" + _varint(len(item) + len(payload)) + item, payload)
    middle = _object(RECORD_DICT, inner[0], _names(record, inner[0]))
    return [_object(MESSAGE, middle[0], body), middle, inner]


def read_value(body: bytes, key: str) -> bytes:
    """The value of a record that has exactly one, of type bytes, named ``key``: protobuf ``ConfigRecord``."""
    name = key.encode()
    expected = b"\x0a" + _varint(len(name)) + name
    item, at = _enter(body, 0, 0x0A)
    if body[at : at + len(expected)] != expected:
        raise UpdateError(f"Expected a record with the one value {key!r}, got another.")
    value, at = _enter(body, at + len(expected), 0x12)
    length, at = _enter(body, at, 0x32)
    if not item == len(body) - _prefix(item) or at + length != len(body) or value != length + _prefix(length):
        raise UpdateError(f"Expected a record with the one bytes value {key!r}, got more or less than that.")
    return body[at:]


def _object(kind: str, child: str, *body: bytes) -> tuple[str, bytes]:
    head = f"{kind} {child} {sum(map(len, body))}".encode() + _DIVIDER
    content = b"".join((head, *body))
    return hashlib.sha256(content).hexdigest(), content


def _names(record: str, child: str) -> bytes:
    return f'{{"{record}": "{child}"}}'.encode()


def _enter(body: bytes, at: int, tag: int) -> tuple[int, int]:
    """Length of the field with ``tag`` that starts at ``at``, and where its content starts."""
    if body[at : at + 1] != bytes([tag]):
        raise UpdateError("Expected a record with one bytes value, got another field.")
    length = 0
    for shift in range(5):
        byte = body[at + 1 + shift : at + 2 + shift]
        length |= (byte[0] & 0x7F if byte else 0) << 7 * shift
        if not byte or byte[0] < 0x80:
            return length, at + 2 + shift
    raise UpdateError("Expected a length of at most five bytes, got a longer one.")


def _prefix(length: int) -> int:
    """Bytes that a field's tag and ``length`` take."""
    return 1 + len(_varint(length))


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
