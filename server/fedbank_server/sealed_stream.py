"""A stream under a passphrase: scrypt (RFC 7914), then AES-256-GCM in chunks (docs/formats/consortium.md).

The chunks are numbered and the last one is marked (STREAM: Hoang, Reyhanitabar, Rogaway, Vizár, CRYPTO 2015), so none
can be left out, doubled, moved or cut off. Memory: two chunks.
"""

import os
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from fedbank.errors import RunError

MAGIC = b"fedbank-backup/1 scrypt AES-256-GCM\n"
CHUNK = 1 << 20
_SALT, _PREFIX, _TAG = 16, 7, 16
_COST = 2**15
"""scrypt's N, with r = 8 and p = 1: 32 MiB and about 0.1 s for every guess of a passphrase."""


class Sink(Protocol):
    """Takes bytes, one piece after the other."""

    def write(self, data: bytes, /) -> object:
        """Take the next piece."""


class SealedWriter:
    """Encrypts what is written into ``target``; ``close`` writes the marked last chunk."""

    def __init__(self, target: Sink, passphrase: bytes) -> None:
        salt, self._prefix = os.urandom(_SALT), os.urandom(_PREFIX)
        self._cipher, self._target = _cipher(passphrase, salt), target
        self._number, self._waiting = 0, bytearray()
        target.write(MAGIC + salt + self._prefix)

    def write(self, data: bytes) -> None:
        """Encrypt as many whole chunks as there are, but keep the last one back."""
        self._waiting += data
        while len(self._waiting) > CHUNK:
            self._seal(bytes(self._waiting[:CHUNK]), last=False)
            del self._waiting[:CHUNK]

    def close(self) -> None:
        """Write what is left as the last chunk."""
        self._seal(bytes(self._waiting), last=True)

    def _seal(self, chunk: bytes, *, last: bool) -> None:
        self._target.write(self._cipher.encrypt(_nonce(self._prefix, self._number, last), chunk, MAGIC))
        self._number += 1


def read_sealed(source: BinaryIO, passphrase: bytes) -> Iterator[bytes]:
    """The chunks of a stream, behind its ``MAGIC``, each verified before it is given out.

    Raises:
        RunError: another passphrase, or a stream that was changed or cut off.
    """
    head = source.read(_SALT + _PREFIX)
    cipher, prefix = _cipher(passphrase, head[:_SALT].ljust(_SALT)), head[_SALT:].ljust(_PREFIX)
    number, chunk = 0, source.read(CHUNK + _TAG)
    while True:
        following = source.read(CHUNK + _TAG)
        try:
            yield cipher.decrypt(_nonce(prefix, number, not following), chunk, MAGIC)
        except InvalidTag:
            raise RunError(
                "Expected the passphrase that this backup was made with, and a whole backup, got another passphrase or "
                "a damaged file. Nothing was restored."
            ) from None
        if not following:
            return
        number, chunk = number + 1, following


def _cipher(passphrase: bytes, salt: bytes) -> AESGCM:
    return AESGCM(Scrypt(salt=salt, length=32, n=_COST, r=8, p=1).derive(passphrase))


def _nonce(prefix: bytes, number: int, last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + bytes([last])
