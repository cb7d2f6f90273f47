"""What a bank that has left is told: that it has, and how to come back; and what any bank's status says."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fedbank.durable import open_locked
from fedbank.errors import RunError
from fedbank.membership.health import FAIL
from fedbank_client.doctor import examine
from fedbank_client.enrolment import join, leave
from fedbank_client.home import Home
from fedbank_client.start import start_command, status_command, status_file

COME_BACK = r"bank-a, which has left\. To come back, .* fedbank client init NEW .* --continue"


@pytest.fixture
def left(make_member: Callable[..., Home], now: datetime) -> Home:
    home = make_member()
    leave(home, now)
    return home


def test_nothing_is_started_and_no_package_is_taken_after_leaving(
    left: Home, admit_bank: Callable[..., bytes], coordinator: Path, now: datetime
) -> None:
    with pytest.raises(RunError, match=COME_BACK):
        start_command(["--dir", str(left.folder), "--unsupervised"])
    with pytest.raises(RunError, match=COME_BACK):
        join(left, admit_bank(left), now)


def test_the_doctor_finds_nothing_wrong_with_having_left(left: Home) -> None:
    found = list(examine(left, lambda: datetime.now(UTC)))
    assert not [finding for finding in found if finding.level == FAIL]
    assert any("has left Test Consortium" in finding.message for finding in found)


def status(home: Home, capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    status_command(["--dir", str(home.folder)])
    text = capsys.readouterr().out
    status_command(["--dir", str(home.folder), "--json"])
    return text, json.loads(capsys.readouterr().out)


def test_the_status_says_that_the_bank_has_left_or_has_not_joined(
    left: Home, enrol_bank: Callable[..., Home], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "bank-a, has left Test Consortium" in status(left, capsys)[0]
    assert "bank-b, not yet a member of" in status(enrol_bank("bank-b"), capsys)[0]


TRAINING = {
    "campaign": "spring",
    "round": 2,
    "step": 7,
    "num_steps": 30,
    "began": "2026-03-01T12:00:00+00:00",
    "expected_end": "2026-03-01T12:00:40+00:00",
}


def test_the_status_tells_the_true_step_and_end_while_the_process_lives(
    make_member: Callable[..., Home], capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_member()
    about = {"state": "working", "since": "2026-03-01T12:00:00", "last_poll": "", "last_error": "", "pid": 1}
    status_file(home).write_text(json.dumps({**about, "training": TRAINING}))
    with open_locked(status_file(home).with_suffix(".lock"), write=True, patience_s=0.0):  # as the node does
        text, values = status(home, capsys)
    assert "round 2, step 7 of 30, expected to end 2026-03-01T12:00:40+00:00" in text
    assert (values["state"], values["training"]) == ("working", TRAINING)
    text, values = status(home, capsys)
    assert (values["state"], values["training"]) == ("not running", None) and "step 7" not in text


def test_the_status_says_until_when_the_bank_waits_for_its_hours(
    make_member: Callable[..., Home], capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_member()
    assert status(home, capsys)[1]["trains_from"] is None
    opens = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(hours=2)
    hours = f"{opens:%H:%M}-{opens + timedelta(hours=1):%H:%M}"
    text = home.policy.read_text("utf-8").replace("training_hours: any", f'training_hours: "{hours}"')
    home.policy.write_text(text, "utf-8")
    text, values = status(home, capsys)
    assert values["trains_from"] == opens.isoformat(timespec="minutes")
    assert f"trains again from {values['trains_from']}" in text
