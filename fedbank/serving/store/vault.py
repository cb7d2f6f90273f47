"""The key of a bank's records: it wraps one key per customer, and makes names that nobody else can recompute.

What is sealed is bound to its place: a sealed text that is moved to another row does not open. A customer whose wrapped
key is gone cannot be read any more, by anybody, wherever copies of the rows lie.
"""

import hashlib
import hmac
import json
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from fedbank.certificates import read_private
from fedbank.durable import write_atomic
from fedbank.errors import FedBankError

KEY_BYTES = 32
_NONCE, _SALT, _TAG = 12, 16, 16
_COST = 2**15
"""scrypt's N (RFC 7914), with r = 8 and p = 1: 32 MiB and about 0.1 s for every guess of a passphrase."""
_PLAIN, _LOCKED = "fedbank-records-key/1 plain", "fedbank-records-key/1 scrypt AES-256-GCM"


class VaultError(FedBankError):
    """A records key that cannot be read, or sealed bytes that it does not open."""


class RecordsKey:
    """A bank's own 256-bit key for its records. It never leaves this object but into a file of its owner's."""

    __slots__ = ("_names", "_raw", "_things", "_wrapping")

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise VaultError(f"Expected a records key of {KEY_BYTES} bytes, got {len(raw)}. Restore it from a backup.")
        self._raw, self._names, self._wrapping = raw, _derived(raw, "names"), _derived(raw, "wrapping")
        self._things = _derived(raw, "things")

    @classmethod
    def generate(cls) -> "RecordsKey":
        """A new key from the operating system's generator."""
        return cls(os.urandom(KEY_BYTES))

    def save(self, path: Path, passphrase: bytes | None = None) -> None:
        """Write the key to ``path``, its owner's only (mode 0600), encrypted if there is a passphrase.

        Raises:
            VaultError: there is a file already: every record would be lost with it.
        """
        if path.exists():
            raise VaultError(f"Expected no file at {path}, got one. Its records are lost without it: choose another.")
        if passphrase is None:
            line = f"{_PLAIN} {self._raw.hex()}"
        else:
            salt = os.urandom(_SALT)
            line = f"{_LOCKED} {salt.hex()} {seal(_stretched(passphrase, salt), _LOCKED, self._raw).hex()}"
        write_atomic(path, f"{line}\n".encode(), mode=0o600)

    @classmethod
    def load(cls, path: Path, passphrase: bytes | None = None) -> "RecordsKey":
        """The key that ``save`` wrote.

        Raises:
            CertificateError: the file is missing, or others may read it.
            VaultError: the passphrase is wrong, missing or not needed, or it holds no records key.
        """
        content = read_private(path).decode("ascii", "replace").removesuffix("\n")
        start = _PLAIN if passphrase is None else _LOCKED
        if content.startswith((_PLAIN, _LOCKED)) and not content.startswith(start):
            expected, got = ("a passphrase", "none") if passphrase is None else ("no passphrase", "one")
            raise VaultError(f"Expected {expected} for the records key {path}, got {got}.")
        try:
            fields = [bytes.fromhex(field) for field in content.removeprefix(start).split()]
            if passphrase is None:
                (raw,) = fields
            else:
                salt, sealed = fields
                raw = open_sealed(_stretched(passphrase, salt), _LOCKED, sealed)
            return cls(raw)
        except (ValueError, VaultError):
            what = "a whole records key" if passphrase is None else "a records key that this passphrase opens"
            raise VaultError(
                f"Expected {what} in {path}, got something else. Check the passphrase, or restore it from a backup."
            ) from None

    def pseudonym(self, kind: str, *parts: str) -> str:
        """A name for ``parts`` that only this key makes: 128 bits of HMAC-SHA256 (RFC 2104), hexadecimal."""
        message = json.dumps([kind, *parts]).encode()
        return hmac.new(self._names, message, hashlib.sha256).hexdigest()[:32]

    def key_of(self, kind: str, *parts: str) -> bytes:
        """A 256-bit key for one thing, by what only its holder can say of it; without ``parts`` it cannot be had."""
        return hmac.new(self._things, json.dumps([kind, *parts]).encode(), hashlib.sha256).digest()

    def new_customer_key(self, customer: str) -> tuple[bytes, bytes]:
        """A new key for one customer (by pseudonym), and the same wrapped, for the store."""
        key = os.urandom(KEY_BYTES)
        return key, seal(self._wrapping, f"customer {customer}", key)

    def unwrap(self, customer: str, wrapped: bytes) -> bytes:
        """The customer's key; ``VaultError`` if ``wrapped`` was changed, or belongs to another customer or bank."""
        return open_sealed(self._wrapping, f"customer {customer}", wrapped)

    def __repr__(self) -> str:
        return "RecordsKey()"

    def __reduce__(self) -> str:
        raise TypeError("a records key is not copied between processes")


def seal(key: bytes, place: str, content: bytes) -> bytes:
    """``content`` under AES-256-GCM with a random 96-bit nonce (NIST SP 800-38D), bound to ``place``."""
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, content, place.encode())


def open_sealed(key: bytes, place: str, sealed: bytes) -> bytes:
    """What ``seal`` was given; ``VaultError`` if one bit of it, its place or the key is another."""
    if len(sealed) < _NONCE + _TAG:
        raise VaultError("Expected sealed bytes, got fewer than a seal has. Restore them from a backup.")
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], place.encode())
    except InvalidTag:
        raise VaultError(
            "Expected bytes that this key sealed for this place, got others: they were changed or moved, or belong to "
            "another key. Restore them from a backup."
        ) from None


def _derived(raw: bytes, purpose: str) -> bytes:
    """RFC 5869: one key for every purpose."""
    return HKDF(SHA256(), KEY_BYTES, None, f"fedbank-records/1 {purpose}".encode()).derive(raw)


def _stretched(passphrase: bytes, salt: bytes) -> bytes:
    if not passphrase:
        raise VaultError("Expected a passphrase of at least one character, got an empty one.")
    return Scrypt(salt=salt, length=KEY_BYTES, n=_COST, r=8, p=1).derive(passphrase)
