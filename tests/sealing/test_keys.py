import copy
import pickle
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedbank.sealing.keys import KeyFileError, PublicKey, SignatureError, SigningKey

KEY = SigningKey.derived("test", 1)
P = 2**255 - 19
RFC_8032_PUBLIC = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
RFC_8032_SIGNATURE = (
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d"
    "291612bb0c00"
)
"""RFC 8032, section 7.1, test 2: the message is the byte 0x72."""


def test_a_signature_of_the_rfc_verifies() -> None:
    key = PublicKey.from_hex(RFC_8032_PUBLIC)
    key.verify(bytes.fromhex(RFC_8032_SIGNATURE), b"\x72")
    with pytest.raises(SignatureError, match="does not fit"):
        key.verify(bytes.fromhex(RFC_8032_SIGNATURE), b"\x73")


@pytest.mark.parametrize("position", range(64))
def test_a_signature_with_a_flipped_bit_does_not_verify(position: int) -> None:
    signature = bytearray(KEY.sign(b"message"))
    signature[position] ^= 1
    with pytest.raises(SignatureError):
        KEY.public.verify(bytes(signature), b"message")


@pytest.mark.parametrize("signature", [b"", b"x", bytes(63), bytes(64), bytes(65), KEY.sign(b"message") + b"\0"])
def test_bytes_that_are_no_signature_do_not_verify(signature: bytes) -> None:
    with pytest.raises(SignatureError):
        KEY.public.verify(signature, b"message")


def test_another_key_does_not_verify() -> None:
    with pytest.raises(SignatureError):
        SigningKey.derived("test", 2).public.verify(KEY.sign(b"message"), b"message")


def test_keys_are_new_unless_derived() -> None:
    assert SigningKey.generate().public != SigningKey.generate().public
    assert SigningKey.derived("a", 1).public == SigningKey.derived("a", 1).public
    contexts = [("a", 1), ("a1",), ("a", "1"), ("a", 1, ""), (1, "a")]
    assert len({SigningKey.derived(*context).public for context in contexts}) == len(contexts)


def test_a_public_key_survives_its_hexadecimal_form() -> None:
    assert PublicKey.from_hex(KEY.public.hex()) == KEY.public
    assert KEY.public.raw.hex() == KEY.public.hex()


@pytest.mark.parametrize("text", ["", "ab", "g" * 64, KEY.public.hex().upper(), KEY.public.hex() + "\n", " " * 64])
def test_a_text_that_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(SignatureError, match="64 lower-case hexadecimal digits"):
        PublicKey.from_hex(text)


def _affine_add(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    """Addition on edwards25519 (RFC 8032, section 5.1.4), the textbook formula."""
    d = -121665 * pow(121666, -1, P) % P
    (a, b), (c, e) = first, second
    product = d * a * c * b * e
    x = (a * e + c * b) * pow(1 + product, -1, P)
    y = (b * e + a * c) * pow(1 - product, -1, P)
    return x % P, y % P


def _points_of_small_order() -> list[bytes]:
    """Every multiple of a point of order 8, both as it is encoded and, where there is room, with y + p."""
    y = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
    d = -121665 * pow(121666, -1, P) % P
    square = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if x * x % P == square else x * pow(2, (P - 1) // 4, P) % P
    point, points = (x, y), [(x, y)]
    for _ in range(7):
        points.append(_affine_add(points[-1], point))
    assert points[7] == (0, 1) and len(set(points)) == 8
    encoded = [(y + P * shift | (x & 1) << 255) for x, y in points for shift in (0, 1) if y + P * shift < 2**255]
    return [number.to_bytes(32, "little") for number in {*encoded, 1 | 1 << 255, (P - 1) | 1 << 255}]


@pytest.mark.parametrize("raw", _points_of_small_order(), ids=bytes.hex)
def test_a_key_under_which_anybody_could_sign_is_refused(raw: bytes) -> None:
    with pytest.raises(SignatureError, match="Expected an Ed25519 public key"):
        PublicKey(raw)


@pytest.mark.parametrize("raw", [b"", bytes(range(31)), bytes(range(33)), (P + 3).to_bytes(32, "little")])
def test_bytes_that_are_no_public_key_are_refused(raw: bytes) -> None:
    with pytest.raises(SignatureError, match="Expected an Ed25519 public key"):
        PublicKey(raw)


def test_a_signing_key_shows_and_copies_nothing_private() -> None:
    assert repr(KEY) == f"SigningKey(public={KEY.public.hex()})"
    for leak in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="not copied"):
            leak(KEY)


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_saved_key_is_its_owners_only_and_loads_again(tmp_path: Path, passphrase: bytes | None) -> None:
    path = tmp_path / "keys" / "signing.pem"
    KEY.save(path, passphrase)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (b"ENCRYPTED" in path.read_bytes()) == (passphrase is not None)
    assert SigningKey.load(path, passphrase).sign(b"message") == KEY.sign(b"message")
    assert [file.name for file in path.parent.iterdir()] == ["signing.pem"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o610, 0o601])
def test_a_key_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "signing.pem"
    KEY.save(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"got mode {mode:04o} .*chmod 600"):
        SigningKey.load(path)


def _write_pem(path: Path, key: rsa.RSAPrivateKey | x25519.X25519PrivateKey) -> None:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


BAD_FILES: dict[str, tuple[Callable[[Path], object], bytes | None, str]] = {
    "missing": (lambda path: None, None, "No such file"),
    "folder": (lambda path: path.mkdir(mode=0o700), None, "Is a directory"),
    "empty": (lambda path: path.touch(), None, "got something else"),
    "not-pem": (lambda path: path.write_bytes(b"\xff" * 100), None, "got something else"),
    "cut": (lambda path: (KEY.save(path), path.write_bytes(path.read_bytes()[:-40])), None, "got something else"),
    "public-only": (lambda path: path.write_text("-----BEGIN PUBLIC KEY-----\n"), None, "got something else"),
    "passphrase-missing": (lambda path: KEY.save(path, b"x"), None, "Expected a passphrase for .*, got none"),
    "passphrase-wrong": (lambda path: KEY.save(path, b"x"), b"y", "that this passphrase opens"),
    "passphrase-needless": (lambda path: KEY.save(path), b"y", "Expected no passphrase for .*, got one"),
    "x25519": (lambda path: _write_pem(path, x25519.X25519PrivateKey.generate()), None, "Expected an Ed25519 signing"),
    "rsa": (lambda path: _write_pem(path, rsa.generate_private_key(65537, 1024)), None, "Expected an Ed25519 signing"),
}


@pytest.mark.parametrize(("make", "passphrase", "match"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_file_that_holds_no_usable_key_is_refused(
    tmp_path: Path, make: Callable[[Path], object], passphrase: bytes | None, match: str
) -> None:
    path = tmp_path / "signing.pem"
    make(path)
    if path.exists():
        path.chmod(0o700 if path.is_dir() else 0o600)
    with pytest.raises(KeyFileError, match=match):
        SigningKey.load(path, passphrase)


def test_an_empty_passphrase_protects_nothing_and_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="got an empty one"):
        KEY.save(tmp_path / "signing.pem", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_never_quotes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"
    path.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0LXNlY3JldA==\n-----END PRIVATE KEY-----\n")
    path.chmod(0o600)
    with pytest.raises(KeyFileError) as refused:
        SigningKey.load(path)
    assert "c2VjcmV0" not in str(refused.value) and "secret-secret" not in str(refused.value)
