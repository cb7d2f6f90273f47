"""The coordinator's store: the committed state or the one before, never a damaged one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedbank.adapter.state import AdapterSpec, LoraPair, digest
from fedbank.aggregation.rounds import GlobalState
from fedbank.aggregation.server_step import StepState
from fedbank.errors import RunError
from fedbank_server.store import CampaignStore


@pytest.fixture
def state(small_spec: AdapterSpec, make_state: Callable[..., dict[str, Any]]) -> GlobalState:
    first = {pair.b_name: np.full((pair.num_out, 3), 0.5, np.float32) for pair in small_spec.pairs}
    second = {name: tensor + 1 for name, tensor in first.items()}
    return GlobalState(7, make_state(small_spec, 0), StepState(first, second))


def _same(one: GlobalState, other: GlobalState) -> bool:
    return (one.round, one.digest(), digest(one.step.first), digest(one.step.second)) == (
        other.round,
        other.digest(),
        digest(other.step.first),
        digest(other.step.second),
    )


def test_a_state_comes_back_whole(tmp_path: Path, small_spec: AdapterSpec, state: GlobalState) -> None:
    store = CampaignStore(tmp_path / "run" / "state.safetensors")
    assert store.load(small_spec) is None
    store.save(state, {})
    loaded = store.load(small_spec)
    assert loaded is not None
    assert _same(loaded, state)
    store.save(GlobalState(8, state.adapter, previous="ab" * 32), {"seconds": 2.5})
    after = store.load(small_spec)
    assert after is not None
    assert (after.round, after.step.first, after.previous) == (8, {}, "ab" * 32)


def test_a_crash_while_saving_leaves_the_state_before(
    tmp_path: Path, small_spec: AdapterSpec, state: GlobalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CampaignStore(tmp_path / "state.safetensors")
    store.save(state, {})

    def crash(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        store.save(GlobalState(8, state.adapter), {"seconds": 2.5})
    loaded = store.load(small_spec)
    assert loaded is not None
    assert _same(loaded, state)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "seven-bytes": lambda content: content[:7],
    "cut": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "ones": lambda content: b"\xff" * len(content),
    "text": lambda content: b"this is not a state of a campaign",
    "no-header-fields": lambda content: content.replace(b'"digest"', b'"dogest"'),
    "round-not-a-number": lambda content: content.replace(b'"round":"7"', b'"round":"x"'),
    "round-changed": lambda content: content.replace(b'"round":"7"', b'"round":"6"'),
    "deep-header": lambda content: (100_000).to_bytes(8, "little") + b"[" * 100_000,
    "header-a-list": lambda content: (2).to_bytes(8, "little") + b"[]",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.fault(23)
def test_a_damaged_file_is_refused(
    tmp_path: Path, small_spec: AdapterSpec, state: GlobalState, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "state.safetensors"
    CampaignStore(path).save(state, {})
    content = path.read_bytes()
    assert damage(content) != content
    path.write_bytes(damage(content))
    with pytest.raises(RunError, match="damaged"):
        CampaignStore(path).load(small_spec)


@pytest.mark.parametrize("part", ["adapter", "first", "second"])
@pytest.mark.fault(23)
def test_a_changed_value_is_refused_wherever_it_is(
    tmp_path: Path, small_spec: AdapterSpec, state: GlobalState, part: str
) -> None:
    path = tmp_path / "state.safetensors"
    CampaignStore(path).save(state, {})
    group = {"adapter": state.adapter, "first": state.step.first, "second": state.step.second}[part]
    needle = group[small_spec.pairs[0].b_name].tobytes()
    content = path.read_bytes()
    assert content.count(needle) == 1
    at = content.index(needle)
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(RunError, match="damaged"):
        CampaignStore(path).load(small_spec)


def test_the_state_of_another_adapter_is_refused(tmp_path: Path, small_spec: AdapterSpec, state: GlobalState) -> None:
    store = CampaignStore(tmp_path / "state.safetensors")
    store.save(state, {})
    other = AdapterSpec(3, 6.0, ("q_proj",), (LoraPair("l.q_proj", 7, 9),), "B")
    with pytest.raises(RunError, match="another adapter"):
        store.load(other)


def test_what_a_round_cost_is_kept_with_it(tmp_path: Path) -> None:
    store = CampaignStore(tmp_path / "state.safetensors")
    assert store.costs() == {}
    store.save(GlobalState(1, {"a": np.ones((1, 1), np.float32)}), {"seconds": 2.5, "bytes_up": 10})
    assert store.costs() == {"seconds": 2.5, "bytes_up": 10}
