"""A bank that is killed at random moments keeps books that are never below what it spent."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LOOP = Path(__file__).with_name("kill_loop.py")


@pytest.mark.slow
def test_a_bank_that_is_killed_again_and_again_keeps_true_books() -> None:
    command = [sys.executable, str(LOOP), "--kills", "25"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    printed = json.loads(done.stdout)
    assert printed["wrong"] == []
    assert sum(printed[streams]["kills"] for streams in ("replayable", "secure")) == 25
    for streams in ("replayable", "secure"):
        assert printed[streams]["charges"] >= printed[streams]["rounds"] > 0
        assert printed[streams]["charges"] in (printed[streams]["rounds"], printed[streams]["rounds"] + 1)
