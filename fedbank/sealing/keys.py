"""Ed25519 keys (RFC 8032): what a bank or a coordinator signs with, and what others verify with.

A private key never leaves this object but into a file of its owner's.
"""

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fedbank.durable import write_atomic
from fedbank.errors import FedBankError

KEY_BYTES, SIGNATURE_BYTES = 32, 64
_MAX_FILE_BYTES = 1 << 14
_FIELD_PRIME = 2**255 - 19
_SMALL_ORDER_Y = frozenset(
    {
        0,
        1,
        _FIELD_PRIME - 1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    }
)
"""y of the eight points whose order divides 8: under such a key one signature can fit many messages."""


class SignatureError(FedBankError):
    """A signature that does not verify, or bytes that are no public key."""


class KeyFileError(FedBankError):
    """A file of a signing key that is missing, readable by others, protected or of another kind."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key, in its 32 ``raw`` bytes (RFC 8032, section 5.1.5).

    Raises:
        SignatureError: not 32 bytes, not the shortest encoding of its point, or a point of small order.
    """

    raw: bytes

    def __post_init__(self) -> None:
        y = int.from_bytes(self.raw, "little") & (2**255 - 1)
        if len(self.raw) != KEY_BYTES or y >= _FIELD_PRIME or y in _SMALL_ORDER_Y:
            raise SignatureError(
                f"Expected an Ed25519 public key of {KEY_BYTES} bytes, got {self.raw[:40].hex()!r}. Ask its owner for "
                "the key again."
            )

    def verify(self, signature: bytes, message: bytes) -> None:
        """``SignatureError`` unless ``signature`` is this key's over ``message`` (RFC 8032, section 5.1.7)."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise SignatureError(
                f"Expected a signature by the key {self.hex()}, got one that does not fit the message."
            ) from error

    def hex(self) -> str:
        """The key as 64 hexadecimal digits."""
        return self.raw.hex()

    @classmethod
    def from_hex(cls, text: str) -> "PublicKey":
        """The key that ``hex`` wrote; ``SignatureError`` for anything but 64 lower-case hexadecimal digits."""
        if len(text) != 2 * KEY_BYTES or not set(text) <= set("0123456789abcdef"):
            raise SignatureError(f"Expected a public key of 64 lower-case hexadecimal digits, got {text!r:.80}.")
        return cls(bytes.fromhex(text))


class SigningKey:
    """An Ed25519 private key. Nothing prints it, and it cannot be pickled."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self._public = PublicKey(private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> "SigningKey":
        """A new key from the operating system's generator."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def derived(cls, *context: str | int) -> "SigningKey":
        """The key that belongs to ``context``: for simulations and tests only, since anybody can derive it."""
        seed = hashlib.sha256(json.dumps(["fedbank-signing-key/1", *context]).encode()).digest()
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @property
    def public(self) -> PublicKey:
        """The key that verifies what this one signs."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """64 bytes over ``message`` (RFC 8032, section 5.1.6). Callers separate domains: see ``envelope``."""
        return self._private.sign(message)

    def save(self, path: Path, passphrase: bytes | None = None) -> None:
        """Write the key to ``path`` as PKCS #8 in PEM (RFC 5958, RFC 7468), its owner's only (mode 0600).

        A ``passphrase`` encrypts it with AES-256 under PBKDF2-HMAC-SHA256 (RFC 8018). OpenSSL makes only 2048
        iterations, so the passphrase should be drawn at random rather than thought up. Replaces an existing file.
        """
        protection: KeySerializationEncryption = NoEncryption()
        if passphrase is not None:
            if not passphrase:
                raise KeyFileError("Expected a passphrase of at least one character, got an empty one.")
            protection = BestAvailableEncryption(passphrase)
        write_atomic(path, self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection), mode=0o600)

    @classmethod
    def load(cls, path: Path, passphrase: bytes | None = None) -> "SigningKey":
        """The key that ``save`` wrote.

        Raises:
            KeyFileError: the file is missing, others may read it, the passphrase is wrong, missing or not needed,
                or it holds no Ed25519 private key.
        """
        content = _read_private(path)
        try:
            key = load_pem_private_key(content, passphrase)
        except TypeError as error:
            expected, got = ("a passphrase", "none") if passphrase is None else ("no passphrase", "one")
            raise KeyFileError(f"Expected {expected} for the signing key {path}, got {got}.") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            what = "a private key in PEM" if passphrase is None else "a private key that this passphrase opens"
            raise KeyFileError(
                f"Expected {what} in {path}, got something else. Check the passphrase, or restore the file from its "
                "backup."
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileError(f"Expected an Ed25519 signing key in {path}, got {type(key).__name__}.")
        return cls(key)

    def __repr__(self) -> str:
        return f"SigningKey(public={self._public.hex()})"

    def __reduce__(self) -> str:
        raise TypeError("a signing key is not copied between processes")


def _read_private(path: Path) -> bytes:
    """A file that only its owner can read; the open file is asked, so it cannot be exchanged in between."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise KeyFileError(
                    f"Expected a signing key that only its owner can read, got mode {mode:04o} on {path}. Run: chmod "
                    f"600 {path}, and make a new key if somebody else may have read this one."
                )
            return file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise KeyFileError(f"Expected a signing key in {path}, got: {error.strerror or error}.") from error
