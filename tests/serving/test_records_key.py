"""The key of a bank's records in its file: 0600, or under a passphrase, and refused in words otherwise."""

import copy
import pickle
import stat
from pathlib import Path

import pytest

from fedbank.certificates import CertificateError
from fedbank.serving.store.vault import RecordsKey, VaultError, open_sealed, seal


def _same(one: RecordsKey, other: RecordsKey) -> bool:
    return one.pseudonym("test") == other.pseudonym("test")


@pytest.mark.parametrize("passphrase", [None, b"correct horse battery staple"])
def test_a_key_is_read_as_it_was_written(passphrase: bytes | None, tmp_path: Path) -> None:
    key, path = RecordsKey.generate(), tmp_path / "records.key"
    key.save(path, passphrase)
    assert _same(RecordsKey.load(path, passphrase), key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (key._raw.hex() in path.read_text()) is (passphrase is None)


@pytest.mark.parametrize(
    ("kept", "given", "words"),
    [
        (None, b"one", "no passphrase"),
        (b"one", None, "Expected a passphrase"),
        (b"one", b"two", "this passphrase opens"),
        (b"one", b"", "this passphrase opens"),
    ],
)
def test_the_wrong_passphrase_opens_nothing(
    kept: bytes | None, given: bytes | None, words: str, tmp_path: Path
) -> None:
    RecordsKey.generate().save(tmp_path / "k", kept)
    with pytest.raises(VaultError, match=words):
        RecordsKey.load(tmp_path / "k", given)


@pytest.mark.parametrize("content", ["", "hello", "fedbank-records-key/1 plain", "fedbank-records-key/1 plain 00ff"])
def test_a_file_that_holds_no_key_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "k").write_text(content)
    (tmp_path / "k").chmod(0o600)
    with pytest.raises(VaultError, match="a whole records key"):
        RecordsKey.load(tmp_path / "k")


def test_a_key_that_others_may_read_or_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="got none"):
        RecordsKey.load(tmp_path / "k")
    RecordsKey.generate().save(tmp_path / "k")
    (tmp_path / "k").chmod(0o640)
    with pytest.raises(CertificateError, match="chmod 600"):
        RecordsKey.load(tmp_path / "k")


def test_a_key_is_never_written_over_another(tmp_path: Path) -> None:
    key = RecordsKey.generate()
    key.save(tmp_path / "k")
    with pytest.raises(VaultError, match="Expected no file"):
        RecordsKey.generate().save(tmp_path / "k")
    assert _same(RecordsKey.load(tmp_path / "k"), key)


def test_a_key_does_not_leave_its_object() -> None:
    key = RecordsKey.generate()
    for leave in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            leave(key)


def test_what_is_sealed_twice_looks_different_and_opens_in_its_place_only() -> None:
    key, text = bytes(32), b"text"
    first, second = seal(key, "here", text), seal(key, "here", text)
    assert first != second and open_sealed(key, "here", first) == open_sealed(key, "here", second) == text
    wrong = [(bytes(31) + b"1", "here", first), (key, "there", first), (key, "here", first[:-1])]
    wrong += [(key, "here", first[:i] + bytes([first[i] ^ 1]) + first[i + 1 :]) for i in range(len(first))]
    for with_key, place, sealed in wrong:
        with pytest.raises(VaultError):
            open_sealed(with_key, place, sealed)


def test_a_customers_key_is_wrapped_for_that_customer_and_bank() -> None:
    bank = RecordsKey.generate()
    key, wrapped = bank.new_customer_key("a" * 32)
    assert bank.unwrap("a" * 32, wrapped) == key and key not in wrapped
    assert bank.new_customer_key("a" * 32)[0] != key
    for other, customer in ((bank, "b" * 32), (RecordsKey.generate(), "a" * 32)):
        with pytest.raises(VaultError):
            other.unwrap(customer, wrapped)


def test_the_key_of_a_thing_is_its_own() -> None:
    key, other = RecordsKey.generate(), RecordsKey.generate()
    keys = {key.key_of("session", "a"), key.key_of("session", "b"), key.key_of("cached answer", "a")}
    keys |= {key.key_of("session", "a", "b"), key.key_of("session"), other.key_of("session", "a")}
    assert len(keys) == 6 and {len(one) for one in keys} == {32}
    assert key.key_of("session", "a") == RecordsKey(key._raw).key_of("session", "a")
    assert key.pseudonym("session", "a") not in key.key_of("session", "a").hex()
