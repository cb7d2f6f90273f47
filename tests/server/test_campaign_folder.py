"""A campaign's folder: one process at a time, stops and full disks, files that do not tell the same story."""

from collections.abc import Callable
from typing import Any

import pytest
from grid_consortium import adapter_after

import fedbank_server.round_store as module
from fedbank.errors import RunError

Make = Callable[..., Any]


def test_a_campaign_is_run_by_one_process_at_a_time(make_consortium: Make) -> None:
    c = make_consortium(rounds=1)
    with c.store.exclusive(), pytest.raises(RunError, match="only one"), c.store.exclusive(patience_s=0.1):
        pass
    assert c.run().round == 1


def test_a_stop_ends_the_campaign_between_two_replies_and_it_goes_on_later(make_consortium: Make) -> None:
    c = make_consortium(rounds=3)
    stopped = c.run(stop=lambda: len(c.seen.committed) == 2)
    assert stopped.round == 2
    assert c.run().digest() == adapter_after(c, [list(c.banks)] * 3)
    assert all(bank.charged() == [1, 2, 3] for bank in c.banks.values())


@pytest.mark.fault(22)
def test_a_full_disk_ends_it_with_the_file_and_nothing_is_lost(
    make_consortium: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = make_consortium(rounds=2)
    real, writes = module.write_atomic, []

    def full(path: Any, content: bytes, **options: Any) -> None:
        writes.append(path)
        if path.name == "00002-bank-2.update":
            raise OSError(28, "No space left on device")
        real(path, content, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomic", full)
        with pytest.raises(RunError, match=r"00002-bank-2.update, got: No space left.*goes on where it was"):
            c.run()
    state = c.store.load(c.terms.adapter)
    assert state is not None and state.round == 1
    assert c.run().digest() == adapter_after(c, [list(c.banks)] * 2)
    assert all(bank.charged() == [1, 2] for bank in c.banks.values())


DAMAGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "an older state": (lambda folder: _older(folder), "older copy"),
    "no state": (lambda folder: (folder / "state.safetensors").unlink(), "older copy"),
    "a history that lacks a round": (lambda folder: _cut(folder, -1), "history to hold the rounds to 2"),
    "no history": (lambda folder: (folder / "history.jsonl").unlink(), "history to hold the rounds to 2, got those to"),
    "a history with a strange line": (lambda folder: (folder / "history.jsonl").write_text("{}\n"), "line 1"),
    "a record that is none": (lambda folder: (folder / "round.json").write_text("[]"), "Delete the file"),
}


def _older(folder: Any) -> None:
    (folder / "state.safetensors").write_bytes((folder / "state-1").read_bytes())


def _cut(folder: Any, lines: int) -> None:
    path = folder / "history.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.fault(23)
def test_files_that_do_not_tell_the_same_story_are_refused(
    make_consortium: Make, damage: Callable[[Any], object], words: str
) -> None:
    c = make_consortium(rounds=3)
    folder = c.folder / "campaign"
    c.run(stop=lambda: len(c.seen.committed) == 1)
    (folder / "state-1").write_bytes((folder / "state.safetensors").read_bytes())
    c.run(stop=lambda: len(c.seen.committed) == 2)
    damage(folder)
    with pytest.raises(RunError, match=words):
        c.run()


def test_the_disk_holds_the_updates_of_one_committed_round(make_consortium: Make) -> None:
    c = make_consortium(rounds=30)
    c.run()
    updates = sorted(path.name for path in (c.folder / "campaign" / "updates").iterdir())
    assert updates == [f"00030-bank-{number}.update" for number in (1, 2, 3)]
