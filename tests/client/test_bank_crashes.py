"""What a crash costs a bank, and what it leaves: charges before work, keys of a round, full disks, old copies."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from asked_bank import KEPT, SAMPLING, Streams, derived, request_for, secure

from fedbank.adapter.lora import AdaptedModel
from fedbank.errors import PrivacyError, RunError
from fedbank.privacy.plan import PrivacyPlan
from fedbank_client.bank import Bank


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
    bank.train(request_for(model))
    files = [name for name in synced if "." in name]
    assert [name.rpartition(".")[0] for name in files[:-1]] == ["ledger"] * (4 if sync else 0)
    assert bool(files) == sync
    assert synced[-1:] == (["finished"] if sync else [])


@pytest.mark.parametrize("streams", [derived, secure, KEPT], ids=["derived", "secure", "kept"])
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
            bank.train(request_for(model))
    finally:
        handle.remove()
    assert seen == [1]
    assert len(ledger.charges()) == 1
    bank, ledger = open_bank(streams)
    bank.train(request_for(model))
    assert len(ledger.charges()) == (2 if streams is secure else 1)


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
    _crash(bank, model, request_for(model))
    (key,) = _keys(tmp_path)
    assert key.stat().st_mode & 0o777 == 0o600 and key.stat().st_size == 32
    secret = key.read_bytes()
    bank, _ = open_bank(KEPT)
    update = bank.train(request_for(model)).to_bytes()
    assert _keys(tmp_path) == []
    others = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(secret in content or secret.hex().encode() in content for content in [update, *others])


def test_rounds_and_adapters_have_keys_of_their_own(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    bank, ledger = open_bank(KEPT)
    for number, shift in ((1, 0.0), (1, 0.5), (2, 0.0)):
        _crash(bank, model, request_for(model, number, shift=shift))
    assert len({path.read_bytes() for path in _keys(tmp_path)}) == 3
    assert len({charge.replay_id for charge in ledger.charges()}) == 3


def test_a_key_that_outlived_its_round_is_destroyed_when_the_update_is_sent_again(
    open_bank: Any, model: AdaptedModel, tmp_path: Path
) -> None:
    """Killed between keeping the update and destroying the key."""
    bank, _ = open_bank(KEPT)
    _crash(bank, model, request_for(model))
    (key,) = _keys(tmp_path)
    content = key.read_bytes()
    bank.train(request_for(model))
    key.write_bytes(content)
    bank.train(request_for(model))
    assert _keys(tmp_path) == []


def test_without_a_key_on_disk_nothing_is_charged(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("not a folder")
    bank, ledger = open_bank(KEPT)
    with pytest.raises(RunError, match=r"Expected to keep the key of round 1.*Nothing was charged"):
        bank.train(request_for(model))
    assert ledger.charges() == []


def test_a_damaged_key_is_refused(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    bank, ledger = open_bank(KEPT)
    _crash(bank, model, request_for(model))
    (key,) = _keys(tmp_path)
    key.write_bytes(b"short")
    with pytest.raises(RunError, match="Expected 32 bytes"):
        bank.train(request_for(model))
    assert len(ledger.charges()) == 1


def test_books_that_were_put_back_are_noticed_in_another_campaign_too(
    open_bank: Any, model: AdaptedModel, tmp_path: Path
) -> None:
    bank, _ = open_bank()
    bank.train(request_for(model, 1))
    books = {path: path.read_bytes() for path in tmp_path.glob("ledger.*")}
    bank.train(request_for(model, 2, shift=1.0))
    for path, content in books.items():
        path.write_bytes(content)
    other = PrivacyPlan.with_noise(SAMPLING, 2.4, 0.5, 1e-5)
    bank, _ = open_bank(campaign="autumn", plan=other)
    with pytest.raises(PrivacyError, match=r"hold round 2 of spring, .* older copy"):
        bank.train(request_for(model, campaign="autumn", plan=other))


@pytest.mark.parametrize("copy", ["older", "none"])
def test_older_copies_of_ledger_and_head_together_are_noticed_by_the_finished_update(
    open_bank: Any, model: AdaptedModel, tmp_path: Path, copy: str
) -> None:
    """Neither file contradicts the other: only the update that was sent says that a charge is missing."""
    old = tmp_path / "old"
    old.mkdir()
    files = [tmp_path / "ledger.jsonl", tmp_path / "ledger.head"]
    bank, ledger = open_bank(secure)
    bank.train(request_for(model, 1))
    for file in files:
        shutil.copy(file, old)
    bank.train(request_for(model, 2))
    for file in files:
        file.unlink()
        if copy == "older":
            shutil.copy(old / file.name, file)
    bank, ledger = open_bank(secure)
    before = ledger.charges()
    for number in (2, 3):
        with pytest.raises(PrivacyError, match=r"hold round [12] of spring, .* older copy"):
            bank.train(request_for(model, number))
    assert ledger.charges() == before


def test_a_damaged_finished_update_is_not_sent(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    bank, ledger = open_bank(secure)
    bank.train(request_for(model))
    (kept,) = (tmp_path / "finished").iterdir()
    kept.write_bytes(kept.read_bytes()[:-40])
    bank, ledger = open_bank(secure)
    with pytest.raises(RunError, match=r"damaged file. Delete it"):
        bank.train(request_for(model))
    assert len(ledger.charges()) == 1
    bank.train(request_for(model, 2))
    assert len(ledger.charges()) == 2


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("streams", [derived, secure], ids=["derived", "secure"])
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
    first = bank.train(request_for(model, 1)).to_bytes()
    handle = model.base.model.register_forward_hook(fail)
    try:
        with pytest.raises(MemoryError):
            bank.train(request_for(model, 2))
    finally:
        handle.remove()
    after_failure = _files(tmp_path)
    second = bank.train(request_for(model, 2)).to_bytes()
    books = ["ledger.head", "ledger.jsonl"]
    assert [name for name in after_failure if "finished" not in name] == books
    names = _files(tmp_path)
    assert (len(after_failure), len(names)) == (3, 4)
    assert [name for name in names if "finished" not in name] == books
    kept = sorted((tmp_path / "finished").iterdir())
    assert [path.read_bytes() for path in kept] == [first, second]  # the bytes that left: noised, public metadata
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
    for line in (tmp_path / "ledger.jsonl").read_text().splitlines()[1:]:
        assert json.loads(line).keys() == {
            *("previous", "time", "campaign", "round", "base_digest", "plan_digest"),
            *("sampling_prob", "noise_multiplier", "num_steps", "replay_id", "unit"),
        }
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


def test_what_a_crash_left_of_an_update_is_removed(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    bank, _ = open_bank()
    bank.train(request_for(model))
    (kept,) = (tmp_path / "finished").iterdir()
    part = kept.with_name(f".{kept.name}.abc123")
    part.write_bytes(kept.read_bytes()[:100])
    kept.unlink()
    bank, _ = open_bank()
    bank.train(request_for(model))
    assert list((tmp_path / "finished").iterdir()) == [kept]


def test_an_update_that_cannot_be_kept_is_not_sent(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    """The disk fills up between the charge and the update."""
    bank, ledger = open_bank(derived)
    finished = tmp_path / "finished"
    finished.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(finished)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    (finished / "filler").write_bytes(bytes(4096))
    try:
        with pytest.raises(RunError, match=r"No space left on device.*Nothing was sent"):
            bank.train(request_for(model))
        assert [path.name for path in finished.iterdir()] == ["filler"]
    finally:
        subprocess.run(["umount", str(finished)], check=True)
    assert len(ledger.charges()) == 1
    bank.train(request_for(model))
    assert len(ledger.charges()) == 1


def test_on_a_read_only_disk_nothing_is_trained(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    bank, _ = open_bank(secure)
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    handle = model.base.model.register_forward_pre_hook(lambda *args: pytest.fail("the model was run"))
    try:
        with pytest.raises(PrivacyError, match=r"Read-only file system.*Nothing was trained and nothing was sent"):
            bank.train(request_for(model))
    finally:
        handle.remove()
        subprocess.run(["umount", str(tmp_path)], check=True)
