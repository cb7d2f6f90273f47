"""Every bit of a key counts, every uniform has its 52 bits, and no two streams have to do with each other."""

import secrets
from itertools import pairwise

import numpy as np
import pytest
from chacha import keystream

from fedbank.privacy.noise import KEY_BYTES, RandomStream, fresh_key


def _flipped(key: bytes, bit: int) -> bytes:
    changed = bytearray(key)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


KEY = bytes.fromhex("8f3a9d0c5be7712640aa19c2d4fe036b77e15290bd08c93e6a41f25cd7830be6")
START = RandomStream.kept(KEY).uniform(64)


@pytest.mark.parametrize("byte", range(KEY_BYTES))
def test_each_of_the_256_bits_of_a_key_gives_another_stream_and_another_name(byte: int) -> None:
    names = {RandomStream.kept(KEY).replay_id}
    for bit in range(8 * byte, 8 * byte + 8):
        other = RandomStream.kept(_flipped(KEY, bit))
        assert not np.isin(other.uniform(64), START).any()
        names.add(other.replay_id)
    assert len(names) == 9


@pytest.mark.parametrize("seed", range(8))
def test_a_stream_is_the_key_stream_of_the_whole_key(seed: int) -> None:
    """Uniforms and normals come from ChaCha20 under the key as it is: by one that the test has written itself."""
    key = np.random.default_rng(seed).bytes(KEY_BYTES)
    raw = keystream(key, 3000)
    assert np.array_equal(RandomStream.kept(key).uniform(3000), ((raw >> np.uint64(12)) + 0.5) * 2.0**-52)
    signs = np.where(raw & np.uint64(1), 1, -1)
    assert np.array_equal(np.sign(RandomStream.kept(key).normal(3000)), signs)


def test_the_tests_own_chacha_is_that_of_the_rfc() -> None:
    """RFC 8439, appendix A.1, test vector 1: key, counter and nonce zero."""
    assert keystream(bytes(32), 4).tobytes().hex() == "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"


def test_a_uniform_has_52_bits_and_each_is_one_half_of_the_time() -> None:
    steps = (RandomStream.kept(KEY).uniform(40_000) * 2.0**52 - 0.5).astype(np.uint64)
    bits = (steps[:, None] >> np.arange(52, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(0) - 0.5).max() < 5 * 0.5 / np.sqrt(len(steps))
    assert len(np.unique(steps)) == len(steps)
    together = np.corrcoef(bits.T.astype(float)) - np.eye(52)
    assert np.abs(together).max() < 5.5 / np.sqrt(len(steps))


def _rank(keys: list[bytes]) -> int:
    """How many bits of the keys are free of each other: the rank of their bits over GF(2)."""
    rows, rank = [int.from_bytes(key, "big") for key in keys], 0
    while rows:
        row = rows.pop()
        if row:
            rank, lowest = rank + 1, row & -row
            rows = [other ^ row if other & lowest else other for other in rows]
    return rank


def test_fresh_keys_have_256_free_bits() -> None:
    keys = [fresh_key() for _ in range(400)]
    assert {len(key) for key in keys} == {KEY_BYTES} and len(set(keys)) == 400
    assert _rank(keys) == 256
    assert _rank([key[:4] * 8 for key in keys]) <= 32
    ones = np.unpackbits(np.frombuffer(b"".join(keys), np.uint8).reshape(400, -1), axis=1)
    assert np.abs(ones.mean(0) - 0.5).max() < 7 * 0.5 / 20
    apart = [int((one != other).sum()) for one, other in pairwise(ones)]
    assert min(apart) > 60 and max(apart) < 196


@pytest.mark.parametrize("make", [fresh_key, RandomStream.secure], ids=["key", "secure stream"])
def test_a_key_is_what_the_operating_system_gives_whole(monkeypatch: pytest.MonkeyPatch, make: object) -> None:
    """A key of fewer bits, stretched to 256 afterwards, looks like any other: so its source is looked at."""
    asked: list[int | None] = []

    def token_bytes(count: int | None = None) -> bytes:
        asked.append(count)
        return KEY

    monkeypatch.setattr(secrets, "token_bytes", token_bytes)
    made = make()  # type: ignore[operator]
    assert asked == [KEY_BYTES]
    assert made == KEY or np.array_equal(made.uniform(64), START)


CONTEXTS = [
    (seed, campaign, bank, number)
    for seed in (0, 1, 2**31, 2**32, 2**32 + 1, 2**63, 2**64, 2**200)
    for campaign in ("spring", "spring ", "x" * 200 + "a", "x" * 200 + "b")
    for bank in ("bank-1", "bank-11", "Bank-1")
    for number in (1, 2, 11, 257, 65_537, 2**32 + 1)
]


def test_streams_of_seeds_campaigns_banks_and_rounds_have_nothing_in_common() -> None:
    draws = np.stack([RandomStream.derived(*context).uniform(32) for context in CONTEXTS])
    assert len(np.unique(draws)) == draws.size
    assert len({RandomStream.derived(*context).replay_id for context in CONTEXTS}) == len(CONTEXTS)
    values = np.stack([RandomStream.derived(*context).normal(500) for context in CONTEXTS[::4]])
    together = np.corrcoef(values) - np.eye(len(values))
    assert np.abs(together).max() < 6 / np.sqrt(500)
