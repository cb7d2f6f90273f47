"""Checkpoints as signed notes: c2sp.org/tlog-checkpoint over c2sp.org/signed-note, with Ed25519 (RFC 8032)."""

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedbank.evidence.errors import EvidenceError

ED25519, COSIGNATURE = 0x01, 0x04
"""Signature types of c2sp.org/signed-note."""
_MAX_NOTE_CHARACTERS = 1 << 14
_NAME = re.compile(r"[^\s+]{1,128}")
_TEXT = re.compile(r"([^\n]+)\n(0|[1-9][0-9]{0,15})\n([A-Za-z0-9+/]{43}=)\n")
_SIGNATURE = re.compile(r"— (\S+) ([A-Za-z0-9+/]+={0,2})")


class Public(Protocol):
    """The public half of a key."""

    @property
    def raw(self) -> bytes:
        """32 bytes (RFC 8032, section 5.1.5)."""


class Key(Protocol):
    """An Ed25519 key, as ``fedbank.sealing.keys.SigningKey`` is one."""

    @property
    def public(self) -> Public:
        """Its public half."""

    def sign(self, message: bytes) -> bytes:
        """64 bytes over ``message``."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: ``size`` entries of the log ``origin`` have this ``root`` (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def sign_checkpoint(checkpoint: Checkpoint, key: Key) -> str:
    """The signed note; its one signature is in the name of the log's origin."""
    text = checkpoint.text()
    return f"{text}\n{signature_line(checkpoint.origin, ED25519, key.public.raw, key.sign(text.encode()))}"


def read_checkpoint(note: str, public_key: bytes | None, origin: str | None = None) -> Checkpoint:
    """The checkpoint in ``note``; with ``public_key`` None its form is checked, but nothing else.

    Raises:
        EvidenceError: not a checkpoint, of another ``origin`` than that asked for, or not signed with that key.
    """
    text, signatures = split_note(note)
    match = _TEXT.fullmatch(text)
    if match is None:
        raise EvidenceError(f"Expected origin, size and root of a checkpoint, got {text!r:.120}.")
    check_name(match[1])
    checkpoint = Checkpoint(match[1], int(match[2]), _decode(match[3]))
    if origin is not None and checkpoint.origin != origin:
        raise EvidenceError(f"Expected a checkpoint of {origin}, got one of {checkpoint.origin}.")
    if public_key is not None:
        check_signature(signatures, checkpoint.origin, ED25519, public_key, text.encode())
    return checkpoint


def split_note(note: str) -> tuple[str, list[tuple[str, bytes]]]:
    """The signed text and, in order, the name and the bytes of every signature; ``EvidenceError`` if it is no note."""
    text, separator, block = note[: _MAX_NOTE_CHARACTERS + 1].rpartition("\n\n")
    lines = block.split("\n")
    found = [_SIGNATURE.fullmatch(line) for line in lines[:-1]]
    if len(note) > _MAX_NOTE_CHARACTERS or not separator or lines[-1] or not found or not all(found):
        raise EvidenceError(f"Expected a text, an empty line and signatures, got {note!r:.120}.")
    return text + "\n", [(match[1], _decode(match[2])) for match in found if match is not None]


def check_name(name: str) -> None:
    """``EvidenceError`` unless ``name`` can name a key or a log (c2sp.org/signed-note): no space, no plus."""
    if not _NAME.fullmatch(name) or not name.isprintable():
        raise EvidenceError(f"Expected a name of 1 to 128 printable characters, no space, no plus; got {name!r:.80}.")


def signature_line(name: str, kind: int, public_key: bytes, signature: bytes) -> str:
    """``— NAME base64(key id || signature)`` and a newline."""
    check_name(name)
    return f"— {name} {base64.b64encode(_key_id(name, kind, public_key) + signature).decode()}\n"


def check_signature(
    signatures: list[tuple[str, bytes]], name: str, kind: int, public_key: bytes, message: bytes
) -> None:
    """``EvidenceError`` unless the key ``name`` of this ``kind`` signed ``message``; other keys are passed over."""
    found = find_signatures(signatures, name, kind, public_key)
    if not found:
        raise EvidenceError(f"Expected a signature by {name} with the key {public_key.hex()[:16]}..., got none.")
    for signature in found:
        verify_raw(signature, message, name, public_key)


def verify_raw(signature: bytes, message: bytes, name: str, public_key: bytes) -> None:
    """``EvidenceError`` unless ``signature`` is that of the key, which ``name`` says is its own, over ``message``."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise EvidenceError(
            f"Expected a signature of {name} that fits, got a forged or damaged one. Do not rely on what it signs."
        ) from error


def find_signatures(signatures: list[tuple[str, bytes]], name: str, kind: int, public_key: bytes) -> list[bytes]:
    """The signatures that say they are of this key, without its four-byte id."""
    own = _key_id(name, kind, public_key)
    return [content[4:] for signer, content in signatures if signer == name and content[:4] == own]


def _key_id(name: str, kind: int, public_key: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + bytes([kind]) + public_key).digest()[:4]


def _decode(text: str) -> bytes:
    """Base64 in its one canonical spelling (RFC 4648, section 3.5): the bits that are left over are zero."""
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error:
        content = b""
    if base64.b64encode(content).decode() != text:
        raise EvidenceError(f"Expected base64 in its canonical spelling, got {text!r:.80}.")
    return content
