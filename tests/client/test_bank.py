"""A bank's side of a round: what it refuses, when it charges, what leaves, and what a crash costs."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.state import digest, to_bytes
from fedbank.adapter.update import RoundRequest
from fedbank.data.encode import EncodedUnits
from fedbank.errors import PrivacyError, RunError, UpdateError
from fedbank.privacy.accounting import PrivacyEvent, compute_epsilon
from fedbank.privacy.budget import Budget
from fedbank.privacy.ledger import Ledger
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan, Sampling, UnprotectedPlan
from fedbank.training.local import LocalSettings
from fedbank_client.bank import Bank, Participation

ROUNDS, STEPS = 3, 2
SAMPLING = Sampling(0.5, 4.0, 3, ROUNDS * STEPS)
PLAN = PrivacyPlan.with_noise(SAMPLING, 1.2, 0.5, 1e-5)
Streams = Callable[[int], RandomStream]


def _derived(number: int) -> RandomStream:
    return RandomStream.derived("bank", number)


def _secure(number: int) -> RandomStream:
    """Never the same again, as if a bank forgot its keys."""
    return RandomStream.secure()


KEPT = None
"""What a deployed bank has: secure noise from keys of its own."""


@pytest.fixture(scope="module")
def model(make_model: Callable[..., AdaptedModel]) -> AdaptedModel:
    return make_model("qwen3")


@pytest.fixture
def open_bank(
    tmp_path: Path, model: AdaptedModel, make_units: Callable[..., EncodedUnits]
) -> Callable[..., tuple[Bank, Ledger]]:
    """A bank and its ledger; opening it again is a restart."""

    def open_it(
        streams: Streams | None = _derived,
        plan: Any = PLAN,
        campaign: str = "spring",
        budget: Budget | None = None,
        rate: float = 0.05,
        **options: Any,
    ) -> tuple[Bank, Ledger]:
        participation = Participation(campaign, plan, LocalSettings(STEPS, rate))
        bank = Bank(
            "bank-a",
            participation,
            make_units([1, 2, 5, 1, 3]),
            lambda: model,
            tmp_path,
            stream_for_round=streams,
            device=torch.device("cpu"),
            budget=budget,
            **options,
        )
        return bank, Ledger(tmp_path / "ledger.jsonl", "bank-a")

    return open_it


def _request(
    model: AdaptedModel, number: int = 1, campaign: str = "spring", shift: float = 0.0, plan: Any = PLAN
) -> bytes:
    rng = np.random.default_rng(3)
    adapter = {n: (rng.normal(size=s) + shift).astype(np.float32) for n, s in model.spec.shapes().items()}
    return RoundRequest(campaign, number, plan.digest(), adapter).to_bytes()


def test_an_update_answers_its_request(open_bank: Any, model: AdaptedModel) -> None:
    bank, ledger = open_bank()
    request = _request(model)
    update = bank.train(request)
    base = digest(RoundRequest.from_bytes(request, model.spec).adapter)
    assert (update.campaign, update.round, update.bank, update.num_steps) == ("spring", 1, "bank-a", STEPS)
    assert (update.base_digest, update.plan_digest) == (base, PLAN.digest())
    assert all(np.abs(tensor).max() > 0 for tensor in update.tensors.values())
    (charge,) = ledger.charges()
    assert (charge.sampling_prob, charge.noise_multiplier, charge.num_steps) == (0.5, 1.2, STEPS)
    assert (charge.campaign, charge.round, charge.plan_digest) == ("spring", 1, PLAN.digest())
    assert charge.unit == "customer"


def test_nothing_but_the_agreed_fields_leaves(open_bank: Any, model: AdaptedModel) -> None:
    bank, _ = open_bank()
    content = bank.train(_request(model)).to_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    fields = json.loads(header.pop("__metadata__")["fedbank"])
    assert header.keys() == set(model.spec.trainable_shapes())
    assert fields.keys() == {"kind", "campaign", "round", "bank", "base_digest", "plan_digest", "num_steps"}
    assert len(content) == 8 + int.from_bytes(content[:8], "little") + 4 * sum(p.numel() for p in model.parameters)


@pytest.mark.parametrize("streams", [_derived, _secure, KEPT], ids=["derived", "secure", "kept"])
@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_asking_twice_gives_the_same_bytes_and_one_charge(
    open_bank: Any, model: AdaptedModel, streams: Streams, restart: bool
) -> None:
    bank, ledger = open_bank(streams)
    first = bank.train(_request(model)).to_bytes()
    if restart:
        bank, ledger = open_bank(streams)
    assert bank.train(_request(model)).to_bytes() == first
    assert len(ledger.charges()) == 1


@pytest.mark.parametrize("sync", [True, False])
def test_charge_and_finished_update_are_on_disk_before_the_update_is_returned(
    open_bank: Any, model: AdaptedModel, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    """In this order, and by default; a simulation may leave the disk to the kernel."""
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    bank, _ = open_bank() if sync else open_bank(sync=False)
    bank.train(_request(model))
    files = [name for name in synced if "." in name]
    assert [name.rpartition(".")[0] for name in files[:-1]] == ["ledger"] * (4 if sync else 0)
    assert bool(files) == sync
    assert synced[-1:] == (["finished"] if sync else [])


REFUSED = {
    "other-plan": (lambda model: _request(model, plan=PrivacyPlan.with_noise(SAMPLING, 1.1, 0.5, 1e-5)), UpdateError),
    "other-campaign": (lambda model: _request(model, campaign="autumn"), UpdateError),
    "round-zero": (lambda model: _request(model, 0), PrivacyError),
    "round-negative": (lambda model: _request(model, -1), PrivacyError),
    "round-after-the-last": (lambda model: _request(model, ROUNDS + 1), PrivacyError),
    "round-huge": (lambda model: _request(model, 10**30), PrivacyError),
    "nonsense": (lambda model: b"train, please", UpdateError),
    "not-finite": (lambda model: _request(model, shift=np.nan), UpdateError),
    "update-instead": (lambda model: to_bytes(model.read(), {"kind": "update"}), UpdateError),
}


@pytest.mark.parametrize(("make", "error"), REFUSED.values(), ids=REFUSED.keys())
def test_what_was_not_agreed_is_refused_and_costs_nothing(
    open_bank: Any, model: AdaptedModel, tmp_path: Path, make: Callable[[AdaptedModel], bytes], error: type
) -> None:
    bank, ledger = open_bank()
    with pytest.raises(error, match="Expected"):
        bank.train(make(model))
    assert ledger.charges() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("streams", [_derived, _secure, KEPT], ids=["derived", "secure", "kept"])
def test_the_charge_is_on_disk_before_anything_is_trained(
    open_bank: Any, model: AdaptedModel, streams: Streams
) -> None:
    """A forward pass that fails is a crash: the charge is there, an update is not."""
    bank, ledger = open_bank(streams)
    seen: list[int] = []

    def fail(*args: object) -> None:
        seen.append(len(ledger.charges()))
        raise MemoryError("the machine went away")

    handle = model.base.model.register_forward_pre_hook(fail)
    try:
        with pytest.raises(MemoryError):
            bank.train(_request(model))
    finally:
        handle.remove()
    assert seen == [1]
    assert len(ledger.charges()) == 1
    bank, ledger = open_bank(streams)
    bank.train(_request(model))
    assert len(ledger.charges()) == (2 if streams is _secure else 1)


def _crash(bank: Bank, model: AdaptedModel, request: bytes) -> None:
    """Cut the computation off after its charge."""

    def fail(*args: object) -> None:
        raise MemoryError("the machine went away")

    handle = model.base.model.register_forward_pre_hook(fail)
    try:
        with pytest.raises(MemoryError):
            bank.train(request)
    finally:
        handle.remove()


def _keys(folder: Path) -> list[Path]:
    return sorted(folder.glob("keys/*"))


def test_the_key_of_a_round_is_its_owners_only_and_is_destroyed_when_the_update_is_kept(
    open_bank: Any, model: AdaptedModel, tmp_path: Path
) -> None:
    bank, _ = open_bank(KEPT)
    _crash(bank, model, _request(model))
    (key,) = _keys(tmp_path)
    assert key.stat().st_mode & 0o777 == 0o600 and key.stat().st_size == 32
    secret = key.read_bytes()
    bank, _ = open_bank(KEPT)
    update = bank.train(_request(model)).to_bytes()
    assert _keys(tmp_path) == []
    others = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(secret in content or secret.hex().encode() in content for content in [update, *others])


def test_rounds_and_adapters_have_keys_of_their_own(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    bank, ledger = open_bank(KEPT)
    for number, shift in ((1, 0.0), (1, 0.5), (2, 0.0)):
        _crash(bank, model, _request(model, number, shift=shift))
    assert len({path.read_bytes() for path in _keys(tmp_path)}) == 3
    assert len({charge.replay_id for charge in ledger.charges()}) == 3


def test_a_key_that_outlived_its_round_is_destroyed_when_the_update_is_sent_again(
    open_bank: Any, model: AdaptedModel, tmp_path: Path
) -> None:
    """Killed between keeping the update and destroying the key."""
    bank, _ = open_bank(KEPT)
    _crash(bank, model, _request(model))
    (key,) = _keys(tmp_path)
    content = key.read_bytes()
    bank.train(_request(model))
    key.write_bytes(content)
    bank.train(_request(model))
    assert _keys(tmp_path) == []


def test_without_a_key_on_disk_nothing_is_charged(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("not a folder")
    bank, ledger = open_bank(KEPT)
    with pytest.raises(RunError, match=r"Expected to keep the key of round 1.*Nothing was charged"):
        bank.train(_request(model))
    assert ledger.charges() == []


def test_a_damaged_key_is_refused(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    bank, ledger = open_bank(KEPT)
    _crash(bank, model, _request(model))
    (key,) = _keys(tmp_path)
    key.write_bytes(b"short")
    with pytest.raises(RunError, match="Expected 32 bytes"):
        bank.train(_request(model))
    assert len(ledger.charges()) == 1


def test_rounds_are_charged_across_restarts(open_bank: Any, model: AdaptedModel) -> None:
    for number in range(1, ROUNDS + 1):
        bank, ledger = open_bank()
        bank.train(_request(model, number, shift=float(number)))
    charges = ledger.charges()
    assert [charge.round for charge in charges] == [1, 2, 3]
    events = [PrivacyEvent(c.sampling_prob, c.noise_multiplier, c.num_steps) for c in charges]
    assert compute_epsilon(events, PLAN.delta) == pytest.approx(PLAN.epsilon(), rel=1e-3)


def test_a_round_on_another_adapter_is_another_release(open_bank: Any, model: AdaptedModel) -> None:
    """The same noise on two different gradients would cancel in their difference; fresh noise is charged again."""
    bank, ledger = open_bank(_derived)
    bank.train(_request(model, 1))
    with pytest.raises(PrivacyError, match="no noise"):
        bank.train(_request(model, 1, shift=0.5))
    assert len(ledger.charges()) == 1
    bank, ledger = open_bank(_secure)
    bank.train(_request(model, 1, shift=0.5))
    assert len(ledger.charges()) == 2


def test_a_coordinator_cannot_make_a_bank_spend_more_than_its_plan(open_bank: Any, model: AdaptedModel) -> None:
    """Asking for one round again and again, each time from another adapter, must end when the budget does."""
    bank, ledger = open_bank(_secure)
    with pytest.raises(PrivacyError, match=r"Expected|would"):
        for attempt in range(ROUNDS + 1):
            bank.train(_request(model, 1, shift=float(attempt)))
    assert sum(charge.num_steps for charge in ledger.charges()) <= SAMPLING.num_steps


def test_a_campaign_that_changes_its_plan_is_refused(open_bank: Any, model: AdaptedModel) -> None:
    bank, _ = open_bank(_secure)
    bank.train(_request(model))
    other = PrivacyPlan.with_noise(SAMPLING, 2.4, 0.5, 1e-5)
    bank, ledger = open_bank(_secure, plan=other)
    with pytest.raises(PrivacyError, match="another plan"):
        bank.train(_request(model, plan=other))
    assert len(ledger.charges()) == 1


def test_the_newest_update_and_the_one_before_are_kept(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    bank, _ = open_bank()
    for number in (1, 2, 3):
        bank.train(_request(model, number))
    kept = [path.name for path in (tmp_path / "finished").iterdir()]
    assert sorted(name[16:] for name in kept) == ["-round-00002.safetensors", "-round-00003.safetensors"]


def test_an_unprotected_campaign_charges_nothing(open_bank: Any, model: AdaptedModel) -> None:
    bank, ledger = open_bank(plan=UnprotectedPlan(SAMPLING))
    update = bank.train(_request(model, plan=UnprotectedPlan(SAMPLING)))
    assert ledger.charges() == []
    assert update.plan_digest == UnprotectedPlan(SAMPLING).digest()


def test_a_round_that_would_pass_the_banks_budget_is_refused_and_costs_nothing(
    open_bank: Any, model: AdaptedModel
) -> None:
    """The bank's own limit, over all campaigns, holds whatever the plan of a campaign would permit."""
    one, two = (compute_epsilon([PLAN.event(rounds * STEPS)], 1e-5) for rounds in (1, 2))
    budget = Budget((one + two) / 2, None, 1e-5)
    bank, ledger = open_bank(_secure, budget=budget)
    bank.train(_request(model))
    bank.train(_request(model))  # asked again: sent again
    for campaign, number in (("spring", 2), ("autumn", 1)):
        bank, ledger = open_bank(_secure, campaign=campaign, budget=budget)
        with pytest.raises(PrivacyError, match=r"limit of epsilon .* nothing was sent"):
            bank.train(_request(model, number, campaign))
    assert len(ledger.charges()) == 1


def test_campaigns_that_run_side_by_side_do_not_touch_each_others_updates(open_bank: Any, model: AdaptedModel) -> None:
    names = ("spring", "../autumn", "x" * 300)
    sent = {
        name: open_bank(_secure, campaign=name)[0].train(_request(model, campaign=name)).to_bytes() for name in names
    }
    again = {
        name: open_bank(_secure, campaign=name)[0].train(_request(model, campaign=name)).to_bytes() for name in names
    }
    assert again == sent
    assert len(open_bank()[1].charges()) == 3


def test_books_that_were_put_back_are_noticed_in_another_campaign_too(
    open_bank: Any, model: AdaptedModel, tmp_path: Path
) -> None:
    bank, _ = open_bank()
    bank.train(_request(model, 1))
    books = {path: path.read_bytes() for path in tmp_path.glob("ledger.*")}
    bank.train(_request(model, 2, shift=1.0))
    for path, content in books.items():
        path.write_bytes(content)
    other = PrivacyPlan.with_noise(SAMPLING, 2.4, 0.5, 1e-5)
    bank, _ = open_bank(campaign="autumn", plan=other)
    with pytest.raises(PrivacyError, match=r"hold round 2 of spring, .* older copy"):
        bank.train(_request(model, campaign="autumn", plan=other))


def test_an_update_without_privacy_needs_no_charge(open_bank: Any, model: AdaptedModel) -> None:
    plain = UnprotectedPlan(SAMPLING)
    bank, _ = open_bank(plan=plain)
    bank.train(_request(model, plan=plain))
    bank, ledger = open_bank(campaign="autumn")
    bank.train(_request(model, campaign="autumn"))
    assert len(ledger.charges()) == 1


@pytest.mark.parametrize("copy", ["older", "none"])
def test_older_copies_of_ledger_and_head_together_are_noticed_by_the_finished_update(
    open_bank: Any, model: AdaptedModel, tmp_path: Path, copy: str
) -> None:
    """Neither file contradicts the other: only the update that was sent says that a charge is missing."""
    old = tmp_path / "old"
    old.mkdir()
    files = [tmp_path / "ledger.jsonl", tmp_path / "ledger.head"]
    bank, ledger = open_bank(_secure)
    bank.train(_request(model, 1))
    for file in files:
        shutil.copy(file, old)
    bank.train(_request(model, 2))
    for file in files:
        file.unlink()
        if copy == "older":
            shutil.copy(old / file.name, file)
    bank, ledger = open_bank(_secure)
    before = ledger.charges()
    for number in (2, 3):
        with pytest.raises(PrivacyError, match=r"hold round 2 of spring, .* older copy"):
            bank.train(_request(model, number))
    assert ledger.charges() == before


def test_a_damaged_finished_update_is_not_sent(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    bank, ledger = open_bank(_secure)
    bank.train(_request(model))
    (kept,) = (tmp_path / "finished").iterdir()
    kept.write_bytes(kept.read_bytes()[:-40])
    bank, ledger = open_bank(_secure)
    with pytest.raises(RunError, match=r"damaged file. Delete it"):
        bank.train(_request(model))
    assert len(ledger.charges()) == 1
    bank.train(_request(model, 2))
    assert len(ledger.charges()) == 2


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("streams", [_derived, _secure], ids=["derived", "secure"])
def test_a_bank_leaves_its_ledger_and_noised_updates_on_disk_and_nothing_else(
    open_bank: Any,
    model: AdaptedModel,
    tmp_path: Path,
    streams: Streams,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Pitfall 25: checkpoints, crash dumps and logs carry private state. Also after a round that failed half-way."""
    bank, _ = open_bank(streams)

    def fail(*args: object) -> None:
        raise MemoryError("the machine went away")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    first = bank.train(_request(model, 1)).to_bytes()
    handle = model.base.model.register_forward_hook(fail)
    try:
        with pytest.raises(MemoryError):
            bank.train(_request(model, 2))
    finally:
        handle.remove()
    after_failure = _files(tmp_path)
    second = bank.train(_request(model, 2)).to_bytes()
    books = ["ledger.head", "ledger.jsonl"]
    assert [name for name in after_failure if "finished" not in name] == books
    names = _files(tmp_path)
    assert len(after_failure) == len(names) == 3
    assert [name for name in names if "finished" not in name] == books
    (kept,) = (tmp_path / "finished").iterdir()
    assert kept.read_bytes() == second != first  # the very bytes that left: noised, with public metadata
    assert kept.stat().st_mode & 0o777 == 0o600
    for line in (tmp_path / "ledger.jsonl").read_text().splitlines()[1:]:
        assert json.loads(line).keys() == {
            *("previous", "time", "campaign", "round", "base_digest", "plan_digest"),
            *("sampling_prob", "noise_multiplier", "num_steps", "replay_id", "unit"),
        }
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


def test_what_a_crash_left_of_an_update_is_removed(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    bank, _ = open_bank()
    bank.train(_request(model))
    (kept,) = (tmp_path / "finished").iterdir()
    part = kept.with_name(f".{kept.name}.abc123")
    part.write_bytes(kept.read_bytes()[:100])
    kept.unlink()
    bank, _ = open_bank()
    bank.train(_request(model))
    assert list((tmp_path / "finished").iterdir()) == [kept]


def test_an_update_that_cannot_be_kept_is_not_sent(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    """The disk fills up between the charge and the update."""
    bank, ledger = open_bank(_derived)
    finished = tmp_path / "finished"
    finished.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(finished)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    (finished / "filler").write_bytes(bytes(4096))
    try:
        with pytest.raises(RunError, match=r"No space left on device.*Nothing was sent"):
            bank.train(_request(model))
        assert [path.name for path in finished.iterdir()] == ["filler"]
    finally:
        subprocess.run(["umount", str(finished)], check=True)
    assert len(ledger.charges()) == 1
    bank.train(_request(model))
    assert len(ledger.charges()) == 1


def test_on_a_read_only_disk_nothing_is_trained(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    bank, _ = open_bank(_secure)
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    handle = model.base.model.register_forward_pre_hook(lambda *args: pytest.fail("the model was run"))
    try:
        with pytest.raises(PrivacyError, match=r"Read-only file system.*Nothing was trained and nothing was sent"):
            bank.train(_request(model))
    finally:
        handle.remove()
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_an_update_that_moves_nothing_is_not_kept_or_sent_and_its_charge_stands_once(
    open_bank: Any, model: AdaptedModel, tmp_path: Path
) -> None:
    """Pitfall 12: noise moves every weight, so nothing having moved means that something else was trained."""
    for _ in range(2):
        bank, ledger = open_bank(_derived, rate=0.0)
        with pytest.raises(RunError, match="move the adapter"):
            bank.train(_request(model))
        assert len(ledger.charges()) == 1
    assert not (tmp_path / "finished").exists()
