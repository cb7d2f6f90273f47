"""Row 24 of the table of faults: Flower's database is held by somebody else, or damaged, under a real SuperLink."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "deployment"))

from consortium import Consortium, exchange, payload_of, wait_for

pytestmark = pytest.mark.slow
_HOLD = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
held.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another_process(database: Path) -> Iterator[None]:
    """An exclusive lock, as a backup program or an administrator's shell takes it."""
    command = [sys.executable, "-c", _HOLD, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"held\n"
            yield
        finally:
            holder.stdin.close()
            holder.wait(20)


@pytest.fixture
def consortium(tmp_path: Path) -> Iterator[Consortium]:
    made = Consortium(tmp_path, banks=("bank1",))
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.fault(24)
def test_while_the_database_is_locked_everybody_waits_and_nothing_is_lost(
    consortium: Consortium, seen: Callable[[str], None]
) -> None:
    consortium.start_server()
    consortium.start_banks()
    with consortium.grid() as grid:
        wait_for(lambda: bool(grid.banks()), 60, consortium.log_of("bank1"))
        node = grid.banks()["bank1"]
        answers: list[bytes] = []
        asking = threading.Thread(
            target=lambda: answers.extend(map(payload_of, exchange(grid, {node: b"x"}, 120).values()))
        )
        with held_by_another_process(consortium.folder / "superlink.db"):
            asking.start()
            wait_for(lambda: consortium.status("bank1")["state"] == "offline", 60, consortium.log_of("bank1"))
            said = consortium.status("bank1")["last_error"]
        asking.join(120)
    assert answers == [b"x"]
    wait_for(lambda: consortium.status("bank1")["state"] == "online", 60, consortium.log_of("bank1"))
    assert consortium.processes["serve"].poll() is None and consortium.processes["bank1"].poll() is None
    seen(f"locked: the bank reads: {said.replace(f'127.0.0.1:{consortium.public}', 'HOST')[:80]}; nothing lost")


@pytest.mark.fault(24)
def test_a_database_with_a_damaged_page_is_named(consortium: Consortium, seen: Callable[[str], None]) -> None:
    path = consortium.folder / "superlink.db"
    consortium.start_server()
    server = consortium.processes.pop("serve")
    server.terminate()
    server.wait(60)
    content = path.read_bytes()
    path.write_bytes(content[:100] + bytes(byte ^ 0x55 for byte in content[100:4096]) + content[4096:])
    assert consortium.start("serve").wait(60) == 1
    said = consortium.log_of("serve")()
    assert f"Expected Flower's database in {path}" in said and "Restore a backup" in said
    seen("damaged: Expected Flower's database in FILE ... Restore a backup, or move the file away")
