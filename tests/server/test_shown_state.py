"""What is shown of a campaign is so: its quorum whoever has sent, its deadline, and that nobody runs it any more."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from grid_consortium import GridConsortium

from fedbank.adapter.update import Update
from fedbank.durable import open_locked
from fedbank.errors import RunError
from fedbank.membership.terms import DeadlineRule
from fedbank_server.authority import create_consortium
from fedbank_server.campaign_folder import RUN_LOCK, CampaignFolder
from fedbank_server.overview import read_overview
from fedbank_server.snapshot import CampaignStatus
from fedbank_server.start import run_command

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CAMPAIGN = "spring-0123456789abcdef"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A coordinator's folder."""
    made = tmp_path / "coordinator"
    create_consortium(made, "Alliance", NOW, hosts=("localhost",), port=8443, passphrase=None)
    return made


def leave(folder: Path, phase: str, committed: int) -> None:
    """The files of a campaign of three rounds that is in this state."""
    kept = CampaignFolder.of(folder, CAMPAIGN)
    kept.folder.mkdir(parents=True)
    (kept.folder.parent / "current").write_text(CAMPAIGN)
    status = CampaignStatus(CAMPAIGN, 2, 3, committed, "ab" * 32, 1, phase, 2, "", {}, "", NOW.isoformat(), 20)
    status.save(kept.status)
    (folder / RUN_LOCK).touch()


def test_a_campaign_whose_command_is_gone_is_said_to_stand_still(folder: Path) -> None:
    leave(folder, "collecting", 1)
    assert "No fedbank server run is at work" in read_overview(folder, NOW).problem
    with open_locked(folder / RUN_LOCK, write=True):
        assert read_overview(folder, NOW).problem == ""


@pytest.mark.parametrize(("phase", "committed"), [("committed", 3), ("paused", 1)])
def test_a_campaign_that_has_ended_or_waits_for_a_person_does_not(folder: Path, phase: str, committed: int) -> None:
    leave(folder, phase, committed)
    assert read_overview(folder, NOW).problem == ""


def test_the_quorum_that_is_shown_is_the_agreed_one_before_and_after_a_commit(
    make_consortium: Callable[..., GridConsortium],
) -> None:
    c = make_consortium(quorum=2, rounds=2)
    assert len(c.banks) > 2
    c.run()
    assert {status.needed for status in c.seen.statuses} == {2}


def test_one_bank_that_is_gone_in_the_first_round_holds_up_nobody_for_a_day(
    make_consortium: Callable[..., GridConsortium],
) -> None:
    c = make_consortium(quorum=2, deadline=DeadlineRule(factor=1.0, floor_s=0.5, ceiling_s=86400.0), rounds=1)
    gone = threading.Event()

    def never(update: Update) -> Update:
        gone.wait(60)
        return update

    c.banks["bank-3"].act = never
    try:
        assert c.run().round == 1
    finally:
        gone.set()
    (line,) = c.store.history.lines()
    assert line.missing == ["bank-3"]
    deadlines = [datetime.fromisoformat(status.deadline) for status in c.seen.statuses if status.deadline]
    assert deadlines[0] - deadlines[-1] > timedelta(hours=23), "the deadline that is shown comes nearer too"


def test_a_campaign_under_a_service_manager_is_the_only_one_too(folder: Path) -> None:
    words = ["--dir", str(folder), "--unsupervised", "model=path", f"model.path={folder}"]  # no model: it ends at once
    with open_locked(folder / RUN_LOCK, write=True), pytest.raises(RunError, match="no other fedbank server run"):
        run_command(words)
