"""The adapter that a bank is handed follows from the ones before, or nothing is charged."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked_bank import PLAN, ROUNDS, STEPS, secure

from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.state import AdapterSpec, digest, initial_state
from fedbank.adapter.update import RoundRequest
from fedbank.aggregation.adapter_bounds import Reach
from fedbank.aggregation.rules import RULES
from fedbank.aggregation.server_step import ServerStep
from fedbank.config import load_simulate
from fedbank.errors import RunError, UpdateError
from fedbank_client.lineage import CampaignReach, Lineage, campaign_reach

SEED, LONGEST = 7, 0.5


def reach_of(spec: AdapterSpec, rule: str = "fedsvd", campaign: str = "spring") -> CampaignReach:
    own = replace(spec, trainable=RULES[rule])
    return CampaignReach(campaign, SEED, Reach(own, rule, ServerStep(), LONGEST))


def adapters(spec: AdapterSpec, rounds: int) -> list[dict[str, Any]]:
    """The start and what follows: B moves a little each round."""
    state = initial_state(spec, seed=SEED)
    found = [state]
    for number in range(1, rounds + 1):
        moved = {name: t + np.float32(0.01) * number if "lora_B" in name else t for name, t in found[-1].items()}
        found.append(moved)
    return found


def request(adapter: dict[str, Any], number: int, previous: str, campaign: str = "spring") -> RoundRequest:
    return RoundRequest(campaign, number, PLAN.digest(), adapter, previous)


class Called:
    """One bank's lineage, and the rounds that it is called to: ``1``, ``2`` as they follow, ``2x`` on another adapter,
    ``3p`` as it follows but from another one than round 2's, ``3?`` with no word of the one before."""

    def __init__(self, spec: AdapterSpec, folder: Path) -> None:
        self._spec, self._folder = spec, folder
        self._adapters = adapters(spec, 6)
        self._lineage = Lineage(folder, reach_of(spec))

    def restart(self) -> None:
        """Another process in the same folder."""
        self._lineage = Lineage(self._folder, reach_of(self._spec))

    def call(self, word: str) -> None:
        number, kind = int(word[0]), word[1:]
        adapter = self._adapters[number - 1]
        before = digest(self._adapters[number - 2]) if number > 1 else ""
        if kind == "x":
            adapter = {name: t * np.float32(1.001) if "lora_B" in name else t for name, t in adapter.items()}
        previous = {"p": "f" * 64, "?": ""}.get(kind, before)
        self._lineage.follow(request(adapter, number, previous), digest(adapter))


CALLED = {
    "all rounds": ("1 2 3 4", None),
    "a round again": ("1 2 2 3 3 3", None),
    "the round before again": ("1 2 1 2 3", None),
    "a round that was missed": ("1 3 4", None),
    "a bank that joins late": ("4 5", None),
    "a round again on another adapter": ("1 2 2x", r"round 2 on the adapter .* as before"),
    "an earlier round on another adapter": ("1 2 3 2x", r"round 2 on the adapter .* as before"),
    "a round after another one than it was": ("1 2 3p", r"follows on [0-9a-f]{12}, got ffffffffffff"),
    "a round that does not say after which": ("1 2 3?", r"follows on [0-9a-f]{12}, got nothing"),
    "a first round that follows on something": ("1p", r"follows on nothing, got ffff"),
    "back to a round that was missed": ("1 3 2", r"a round after 3, got round 2"),
}


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize(("calls", "refused"), CALLED.values(), ids=CALLED.keys())
def test_what_follows_is_followed_and_nothing_else(
    small_spec: AdapterSpec, tmp_path: Path, calls: str, refused: str | None, restarted: bool
) -> None:
    called, (*earlier, last) = Called(small_spec, tmp_path), calls.split()
    for word in earlier:
        called.call(word)
    if restarted:
        called.restart()
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    if refused is None:
        called.call(last)
        return
    with pytest.raises(UpdateError, match=rf"Expected.*{refused}.*Nothing was charged"):
        called.call(last)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")} == kept
    assert earlier == [] or called.call(earlier[-1]) is None, "what was followed before still is"


Spoil = Callable[[dict[str, Any]], object]
A, B = "l.q_proj.lora_A.weight", "l.q_proj.lora_B.weight"
STARTS: dict[str, tuple[Spoil, bool]] = {
    "as it was drawn": (lambda state: None, True),
    "in the last bit, as another processor computes it": (lambda state: state[A].__imul__(1 + 1e-7), True),
    "a value of A changed": (lambda state: state[A].__setitem__((0, 0), state[A][0, 0] + 1e-3), False),
    "rows of A in another order": (lambda state: state.__setitem__(A, state[A][::-1].copy()), False),
    "a value in B": (lambda state: state[B].__setitem__((0, 0), 1e-3), False),
    "drawn from another seed": (lambda state: state[A].__setitem__(slice(None), -state[A]), False),
}


@pytest.mark.parametrize(("spoil", "follows"), STARTS.values(), ids=STARTS.keys())
def test_round_one_starts_from_what_the_public_seed_gives(
    small_spec: AdapterSpec, tmp_path: Path, spoil: Spoil, follows: bool
) -> None:
    state = {name: tensor.copy() for name, tensor in initial_state(small_spec, seed=SEED).items()}
    spoil(state)
    lineage = Lineage(tmp_path, reach_of(small_spec))
    if follows:
        lineage.follow(request(state, 1, ""), digest(state))
        return
    with pytest.raises(UpdateError, match=r"as the seed 7 gives it, got another"):
        lineage.follow(request(state, 1, ""), digest(state))


@pytest.mark.parametrize(("rule", "follows"), [("ffa", False), ("fedsvd", True)])
def test_what_nobody_trains_stays_as_it_was_drawn(
    small_spec: AdapterSpec, tmp_path: Path, rule: str, follows: bool
) -> None:
    """Under fedsvd A turns with every round; under ffa it is the start's for ever."""
    state = initial_state(small_spec, seed=SEED + 1)
    lineage = Lineage(tmp_path, reach_of(small_spec, rule))
    if follows:
        lineage.follow(request(state, 2, "f" * 64), digest(state))
        return
    with pytest.raises(UpdateError, match="as the seed 7 gives it"):
        lineage.follow(request(state, 2, "f" * 64), digest(state))


def test_campaigns_side_by_side_have_a_lineage_each(small_spec: AdapterSpec, tmp_path: Path) -> None:
    first, second = adapters(small_spec, 2), adapters(small_spec, 3)[1:]
    for campaign, states in (("../spring", first), ("autumn", [first[0], *second[1:]])):
        lineage = Lineage(tmp_path, reach_of(small_spec, campaign=campaign))
        lineage.follow(request(states[0], 1, "", campaign), digest(states[0]))
        lineage.follow(request(states[1], 2, digest(states[0]), campaign), digest(states[1]))
    assert len(list((tmp_path / "adapters").iterdir())) == 2 and len(list(tmp_path.iterdir())) == 1


def test_a_damaged_file_is_said_and_nothing_is_charged(small_spec: AdapterSpec, tmp_path: Path) -> None:
    lineage, (start, _) = Lineage(tmp_path, reach_of(small_spec)), adapters(small_spec, 1)
    lineage.follow(request(start, 1, ""), digest(start))
    (path,) = tmp_path.rglob("*.jsonl")
    path.write_bytes(b"[]\n")
    with pytest.raises(RunError, match=r"Expected the digests of earlier adapters.*Nothing was charged"):
        lineage.follow(request(start, 1, ""), digest(start))


def _overflowing(state: dict[str, Any]) -> None:
    """01_padding_dp.py"""
    name = next(name for name in state if name.endswith("lora_B.weight"))
    state[name][0, 0] = 1e20


def _cancelling(size: float) -> Spoil:
    """08_rounding.py: the second row is three times the first, and their columns cancel but for rounding."""

    def spoil(state: dict[str, Any]) -> None:
        a = next(name for name in state if name.endswith("lora_A.weight"))
        b = a.replace("lora_A", "lora_B")
        weights = np.random.default_rng(0).normal(size=len(state[b])).astype(np.float32)
        state[a][1] = state[a][0] * np.float32(3.0)
        state[b][:, 0], state[b][:, 1] = size * weights, -size * weights / 3

    return spoil


ATTACKS: dict[str, Spoil] = {"01, 1e20": _overflowing, **{f"08, {k:g}": _cancelling(k) for k in (1e2, 1e5, 1e7)}}


@pytest.mark.parametrize("rule", ["fedsvd", "ffa"])
@pytest.mark.parametrize("number", [1, 2, ROUNDS])
@pytest.mark.parametrize("spoil", ATTACKS.values(), ids=ATTACKS.keys())
def test_adapters_of_known_attacks_are_refused_before_anything_is_charged(
    open_bank: Any, model: AdaptedModel, tmp_path: Path, spoil: Spoil, number: int, rule: str
) -> None:
    """By a bank that was called to no earlier round, which can compare with nothing."""
    lineage = Lineage(tmp_path, reach_of(model.spec, rule))
    bank, ledger = open_bank(secure, lineage=lineage)
    state = {name: tensor.copy() for name, tensor in initial_state(model.spec, seed=SEED).items()}
    previous = "" if number == 1 else "f" * 64
    spoil(state)
    with pytest.raises(UpdateError, match=r"Expected.*Nothing was charged and nothing was trained"):
        bank.train(request(state, number, previous).to_bytes())
    assert ledger.charges() == [] and not (tmp_path / "adapters").exists()
    good = initial_state(model.spec, seed=SEED)
    assert bank.train(request(good, number, previous).to_bytes()).num_steps == STEPS
    assert len(ledger.charges()) == 1


def test_terms_say_how_far_a_campaign_gets(small_spec: AdapterSpec) -> None:
    config = load_simulate(["data.customers=60", "banks=2"])
    found = campaign_reach("spring", config, small_spec)
    assert (found.campaign, found.seed, found.reach.rule) == ("spring", 0, "fedsvd")
    assert 1 < found.reach.largest_update < 1e5
    off = load_simulate(["data.customers=60", "banks=2", "privacy=off"])
    assert campaign_reach("spring", off, small_spec).reach.largest_update == float("inf")
