"""A release is loaded in a process of its own, which has no network and may die without harm.

What happens in that process is seen through ``sitecustomize``, which Python runs as it starts.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from release_world import write_release

from fedbank.release.errors import ReleaseError
from fedbank_client.adoption import score_apart

_CONNECTS_AT_THE_END = """
import atexit, os, socket
from pathlib import Path
def at_the_end():
    try:
        socket.create_connection(("127.0.0.1", {port}), timeout=5).close()
        said = "connected"
    except OSError as error:
        said = str(error)
    Path({out!r}).write_text(str(os.getpid()) + "|" + said)
atexit.register(at_the_end)
"""


def in_the_child(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code, "utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release that the child refuses before it loads any library of models."""
    made = tmp_path / "release"
    made.mkdir()
    write_release(made, "spring-1")
    (made / "code.py").write_text("")
    return made


def test_the_process_that_loads_a_release_is_another_and_has_no_network(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "said"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        in_the_child(monkeypatch, tmp_path / "site", _CONNECTS_AT_THE_END.format(port=port, out=str(out)))
        with pytest.raises(ReleaseError, match="Expected an adapter that loads and answers, got: Expected exactly"):
            score_apart(release, ())
    number, said = out.read_text().split("|")
    assert said == "this process has no network" and int(number) != os.getpid()


def test_no_module_of_the_folder_that_a_bank_stands_in_runs(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reviews a draft may well stand in its folder: beside files/ it may hold anything."""
    out = tmp_path / "ran"
    for name in ("numpy.py", "hydra.py", "fedbank.py"):
        (tmp_path / name).write_text(f"open({str(out)!r}, 'w').close()\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReleaseError, match="Expected exactly"):
        score_apart(release, ())
    assert not out.exists()


def test_a_process_without_network_asks_for_no_address_either() -> None:
    code = """
import socket
from fedbank_client.evaluation import _cut_off
_cut_off()
for ask in (
    lambda: socket.getaddrinfo("localhost", 80),
    lambda: socket.gethostbyname("localhost"),
    lambda: socket.create_connection(("127.0.0.1", 9)),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendmsg([b"x"], [], 0, ("127.0.0.1", 9)),
):
    try:
        ask()
    except OSError as error:
        assert str(error) == "this process has no network", error
    else:
        raise SystemExit("it was answered")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "exit code -11"),
        ("import os; os._exit(7)", "exit code 7"),
        ("import os, sys; sys.stderr.write('first\\nlast line'); sys.stderr.flush(); os._exit(1)", "last line"),
        ("import os; os.write(1, b'no scores'); os._exit(0)", "what fedbank evaluate --json printed"),
        ("import os; os.write(1, b'{' * 2000000); os._exit(0)", "what fedbank evaluate --json printed"),
    ],
)
def test_whatever_becomes_of_it_is_a_check_that_failed(
    code: str, why: str, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_child(monkeypatch, tmp_path / "site", code)
    with pytest.raises(ReleaseError, match=why) as refused:
        score_apart(release, ())
    assert refused.value.check in ("load", "evaluation")
