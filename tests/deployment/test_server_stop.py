"""``fedbank server stop`` ends the server of its folder, however it was started, and nothing else."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from consortium import free_port, listens, wait_for

from fedbank.errors import ConfigError, RunError
from fedbank_server.authority import create_consortium
from fedbank_server.consortium import Files, read_consortium
from fedbank_server.start import stop_command

WAYS = {"supervised": [], "unsupervised": ["--unsupervised"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "coordinator"
    create_consortium(made, "Alliance", datetime.now(UTC), hosts=("localhost",), port=free_port(), passphrase=None)
    settings = Files(made).settings
    settings.write_text(re.sub(r"private: \S+", f'private: "127.0.0.1:{free_port()}"', settings.read_text()))
    return made


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("words", WAYS.values(), ids=WAYS.keys())
def test_the_server_is_stopped_however_it_was_started(
    folder: Path, processes: list[subprocess.Popen[bytes]], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "fedbank.cli", "server", "start", "--dir", str(folder), *words]
    environment = {name: value for name, value in os.environ.items() if name != "FEDBANK_SUPERVISOR"}
    processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
    port = int(read_consortium(folder).private.rpartition(":")[2])
    wait_for(lambda: listens(port), 60)
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 2 and "Expected no other fedbank server start" in second.stderr
    assert stop_command(["--dir", str(folder)]) == 0
    assert processes[0].wait(30) == 0
    assert capsys.readouterr().out == "The server has stopped.\n"
    assert not listens(port)
    with pytest.raises(RunError, match="got none"):
        stop_command(["--dir", str(folder)])


def test_a_number_that_a_crash_left_behind_ends_no_stranger(
    folder: Path, processes: list[subprocess.Popen[bytes]]
) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    processes.append(stranger)
    (folder / "server.lock").touch()
    (folder / "server.pid").write_text(str(stranger.pid))
    with pytest.raises(RunError, match="Expected a server that runs"):
        stop_command(["--dir", str(folder)])
    assert stranger.poll() is None


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "bank.example", "[::]", "[::1]"])
def test_operators_are_served_on_this_machine_and_another_host_is_refused(folder: Path, host: str) -> None:
    settings = Files(folder).settings
    settings.write_text(re.sub(r"private: \S+", f'private: "{host}:9444"', settings.read_text()))
    with pytest.raises(ConfigError, match=r"listen\.private .* 127\.0\.0\.1.*ssh -L"):
        read_consortium(folder)
