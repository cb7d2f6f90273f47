"""``fedbank ... | head``: whoever reads the output may end first, and nobody is told a story of pipes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedbank.evidence.log import EvidenceLog
from fedbank.sealing.keys import SigningKey


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "evidence.jsonl"
    with EvidenceLog(path, "log", SigningKey.derived("nobody reads")) as evidence:
        for number in range(20):
            evidence.append("counted", str(number), "done", "somebody")
    return path


@pytest.mark.parametrize(
    "words",
    [
        ["evidence", "show", "{log}"],
        ["evidence", "verify", "{log}"],
        ["evidence", "show", "--help"],
        ["--version"],
        ["client", "--help"],
        ["--help"],
    ],
    ids=" ".join,
)
def test_an_output_that_nobody_reads_ends_the_command_quietly(log: Path, words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # before the command begins: nothing that it writes can ever be read
    with os.fdopen(writing, "wb") as nowhere:
        command = [sys.executable, "-m", "fedbank.cli", *(word.format(log=log) for word in words)]
        done = subprocess.run(command, stdout=nowhere, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.stderr == ""
    assert done.returncode in (0, 1, 141), "Rich and argparse notice it themselves"
