import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from own_log import DIGEST, KEY, ORIGIN, fill, open_log

from fedbank.evidence.errors import EvidenceError
from fedbank.evidence.files import checkpoints_of
from fedbank.evidence.log import EvidenceLog
from fedbank.evidence.trail import INTERVAL
from fedbank.evidence.verify import verify_log
from fedbank.sealing.keys import SigningKey


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("already", [0, 1, 98, 99, 100])
def test_killed_at_any_system_call_the_log_verifies_and_goes_on(
    path: Path, already: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(open_log(path, sync=False), already)
    kept = path.parent.with_name("kept")
    path.parent.mkdir(exist_ok=True)
    shutil.copytree(path.parent, kept)
    for number in range(1, 100):
        shutil.rmtree(path.parent)
        shutil.copytree(kept, path.parent)
        calls = 0

        def dying(name: str, real: Callable[..., object], at: int = number) -> Callable[..., object]:
            def call(*args: object) -> object:
                nonlocal calls
                calls += 1
                if calls == at and name == "pwrite":  # only the first half of it reached the file
                    descriptor, content, offset = args
                    real(descriptor, content[: len(content) // 2], offset)
                if calls == at:
                    raise Killed
                return real(*args)

            return call

        returned = 0
        with monkeypatch.context() as patch:
            for name in ("pwrite", "fsync", "ftruncate"):
                patch.setattr(os, name, dying(name, getattr(os, name)))
            try:
                log = open_log(path)
                for _ in range(2):
                    fill(log, 1)
                    returned += 1
            except Killed:
                pass
        found = verify_log(path, KEY.public.raw)
        assert already + returned <= found.entries <= already + returned + 1
        with open_log(path) as log:
            fill(log, 2)
        assert verify_log(path, KEY.public.raw).signed == found.entries + 2
        if returned == 2:
            assert number > 4
            return
    raise AssertionError("the entries never went through")


APPENDER = """
import sys
from pathlib import Path
from fedbank.evidence.log import EvidenceLog
from fedbank.sealing.keys import SigningKey
with EvidenceLog(Path(sys.argv[1]), "nordic.example/coordinator", SigningKey.derived("log"), sync=False) as log:
    for number in range(1_000_000):
        log.append("update.admitted", "ab" * 32, "accepted", "bank-a")
        print(number, flush=True)
        if number % 7 == 0:
            log.checkpoint()
"""


def test_a_log_whose_writer_is_killed_verifies_and_has_all_that_was_returned(path: Path) -> None:
    count = 0
    for trial in range(6):
        writer = subprocess.Popen([sys.executable, "-c", APPENDER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        for _ in range(5 + 37 * trial):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().splitlines()
        writer.wait(10)
        returned = count + 5 + 37 * trial + len([line for line in rest if line])
        found = verify_log(path, KEY.public.raw)
        assert returned - 1 <= found.entries <= returned + 1  # the last number may be cut
        count = found.entries


@pytest.mark.parametrize("keep", [1, 40, -1])
def test_a_last_entry_that_a_crash_cut_short_is_dropped(path: Path, keep: int) -> None:
    fill(open_log(path), 2)
    whole = path.read_bytes()
    fill(open_log(path), 1)
    path.write_bytes(whole + path.read_bytes()[len(whole) :][:keep])
    assert verify_log(path, KEY.public.raw).entries == 2
    with open_log(path) as log:
        assert log.append("update.admitted", DIGEST, "again", "bank-a") == 2
    assert verify_log(path, KEY.public.raw).signed == 3


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_last_checkpoint_that_a_crash_cut_short_is_dropped_and_made_again(path: Path, keep: int) -> None:
    fill(open_log(path, sync=False), INTERVAL)
    beside = checkpoints_of(path)
    beside.write_bytes(beside.read_bytes()[:keep])
    assert verify_log(path, KEY.public.raw).signed == 0
    fill(open_log(path), 1)
    found = verify_log(path, KEY.public.raw)
    assert (found.entries, found.signed) == (INTERVAL + 1, INTERVAL)


@pytest.mark.parametrize("already", [0, 1, INTERVAL - 1])
@pytest.mark.parametrize("target", ["evidence.jsonl", "evidence.checkpoints"])
@pytest.mark.fault(22)
def test_on_a_full_disk_the_caller_is_told_and_the_log_stays_whole(
    path: Path, already: int, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(path)
    fill(log, already)
    real = os.pwrite

    def full(descriptor: int, content: bytes, offset: int) -> int:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name != target:
            return real(descriptor, content, offset)
        if len(content) < 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, content[:20], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(EvidenceError, match="No space left on device"):
            fill(log, 1)
            log.checkpoint()
    assert verify_log(path, KEY.public.raw).entries in (already, already + 1)
    with log:
        fill(log, 3)
    assert verify_log(path, KEY.public.raw).signed >= already + 3


# --- a log that is not what it was -------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1])),
    "emptied": lambda path: path.write_bytes(b""),
    "removed": lambda path: path.unlink(),
    "replaced-by-a-copy": lambda path: (
        shutil.copy(path, path.with_name("copy")),
        path.with_name("copy").replace(path),
    ),
    "checkpoints-emptied": lambda path: checkpoints_of(path).write_bytes(b""),
    "checkpoints-removed": lambda path: checkpoints_of(path).unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_log_that_was_cut_or_replaced_while_it_is_open_is_not_gone_on_with(
    path: Path, change: Callable[[Path], object]
) -> None:
    log = open_log(path)
    fill(log, 3)
    log.checkpoint()
    change(path)
    with pytest.raises(EvidenceError, match="was cut or replaced"):
        fill(log, 1)


def test_nothing_is_appended_to_a_damaged_log(path: Path) -> None:
    with open_log(path) as log:
        fill(log, 3)
    path.write_bytes(path.read_bytes().replace(b"norm 1", b"norm 9"))
    before = path.read_bytes()
    log = open_log(path)
    for _ in range(2):
        with pytest.raises(EvidenceError, match="Expected entry 1"):
            fill(log, 1)
        assert path.read_bytes() == before


@pytest.mark.parametrize(("origin", "key"), [("other.example", KEY), (ORIGIN, SigningKey.derived("other"))])
def test_a_log_of_somebody_else_is_not_gone_on_with(path: Path, origin: str, key: SigningKey) -> None:
    with open_log(path) as log:
        fill(log, 3)
    with pytest.raises(EvidenceError, match="checkpoint 0"):
        fill(EvidenceLog(path, origin, key), 1)
