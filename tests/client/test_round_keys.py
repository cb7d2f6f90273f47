"""The keys of rounds on disk: all of their bits count, none is that of another round, and a damaged one is refused."""

from pathlib import Path

import numpy as np
import pytest
from chacha import keystream

from fedbank.errors import RunError
from fedbank.privacy.noise import KEY_BYTES
from fedbank_client.round_keys import RoundKeys

BASE = "ab" * 32


def _uniforms(key: bytes) -> np.ndarray:
    """By the test's own ChaCha20."""
    return np.asarray(((keystream(key, 50) >> np.uint64(12)) + 0.5) * 2.0**-52)


def test_the_stream_of_a_round_is_that_of_the_whole_key_on_disk(tmp_path: Path) -> None:
    """Before and after a restart, and for every one of its bits."""
    keys = RoundKeys(tmp_path, sync=False)
    first = keys.stream("spring", 1, BASE).uniform(50)
    (path,) = tmp_path.glob("*.key")
    key = path.read_bytes()
    assert len(key) == KEY_BYTES
    assert np.array_equal(first, _uniforms(key))
    assert np.array_equal(RoundKeys(tmp_path, sync=False).stream("spring", 1, BASE).uniform(50), first)
    for bit in range(8 * KEY_BYTES):
        changed = (int.from_bytes(key, "big") ^ 1 << bit).to_bytes(KEY_BYTES, "big")
        path.write_bytes(changed)
        found = RoundKeys(tmp_path, sync=False).stream("spring", 1, BASE).uniform(50)
        assert np.array_equal(found, _uniforms(changed)) and not np.isin(found, first).any()


def test_every_round_of_every_campaign_on_every_adapter_has_a_key_of_its_own(tmp_path: Path) -> None:
    keys, streams = RoundKeys(tmp_path, sync=False), []
    releases = [
        (campaign, number, base)
        for campaign in ("spring", "spring ", "x" * 300 + "a", "x" * 300 + "b")
        for number in (1, 2, 11, 255, 256, 257, 65_537)
        for base in (BASE, "cd" * 32)
    ]
    for release in releases:
        streams.append(keys.stream(*release))
    written = {path.read_bytes() for path in tmp_path.glob("*.key")}
    assert len(written) == len(releases) == len({stream.replay_id for stream in streams})
    draws = np.stack([stream.uniform(40) for stream in streams])
    assert len(np.unique(draws)) == draws.size


@pytest.mark.parametrize("size", [0, 4, 16, 31, 33])
def test_a_key_that_was_cut_or_grew_is_refused(tmp_path: Path, size: int) -> None:
    keys = RoundKeys(tmp_path, sync=False)
    keys.stream("spring", 1, BASE)
    (path,) = tmp_path.glob("*.key")
    path.write_bytes(bytes(size))
    with pytest.raises(RunError, match=f"Expected 32 bytes .*got {size}"):
        keys.stream("spring", 1, BASE)


def test_other_data_has_other_noise(tmp_path: Path) -> None:
    """A copy of the folder that trains on other data would, with the same noise, give the difference away."""
    keys = RoundKeys(tmp_path, sync=False)
    draws = {data: keys.stream("spring", 1, BASE, data) for data in (b"a" * 32, b"b" * 32)}
    assert len({stream.replay_id for stream in draws.values()}) == 2, "the ledger charges both"
    first, second = (stream.uniform(50) for stream in draws.values())
    assert not np.isin(first, second).any()
    assert np.array_equal(RoundKeys(tmp_path, sync=False).stream("spring", 1, BASE, b"a" * 32).uniform(50), first)
