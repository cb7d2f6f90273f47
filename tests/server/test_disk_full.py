"""Row 22 of the table of faults, for real: a disk or a quota that is full when a round is committed or told of."""

import dataclasses
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from numeric_bank import key_of, numeric_spec

from fedbank.adapter.state import AdapterSpec, LoraPair
from fedbank.adapter.update import COORDINATOR
from fedbank.errors import FedBankError, RunError
from fedbank.evidence.log import EvidenceLog
from fedbank.evidence.verify import verify_log
from fedbank_server.evidence import EvidenceObserver

Make = Callable[..., Any]
Seen = Callable[[str], None]
STATE_BYTES = 2 * 2 * 20_000 * 4


def _large_state() -> AdapterSpec:
    """A is large and stays at the coordinator, B is small and travels."""
    pairs = tuple(LoraPair(f"layers.{number}.q_proj", 20_000, 8) for number in range(2))
    return dataclasses.replace(numeric_spec(), pairs=pairs)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process grows beyond (RLIMIT_FSIZE): what a quota does, without the right to mount."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def a_disk_for(folder: Path, size: int) -> Iterator[Callable[[int], None]]:
    """A file system of its own; gives what makes it larger."""
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield lambda more: subprocess.run(["mount", "-o", f"remount,size={more}", folder], check=True)  # type: ignore[func-returns-value]
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.fault(22)
def test_a_disk_that_is_full_at_a_commit_stops_the_campaign_which_goes_on_where_it_was(
    make_consortium: Make, seen: Seen
) -> None:
    c = make_consortium(rounds=3, adapter=_large_state())
    with a_disk_for(c.folder / "campaign", int(1.6 * STATE_BYTES)) as grow:
        with pytest.raises(RunError, match=r"state\.safetensors, got: No space left on device\. Free space") as full:
            c.run()
        committed = c.store.load(c.terms.adapter)
        assert committed is not None and committed.round == 1
        grow(4 * STATE_BYTES)
        assert c.run().round == 3
        assert all(bank.charged() == [1, 2, 3] for bank in c.banks.values())
    seen("commit: " + str(full.value).replace(str(c.folder), ""))


@pytest.mark.fault(22)
def test_a_quota_that_is_reached_at_a_commit_does_the_same(make_consortium: Make) -> None:
    c = make_consortium(rounds=2, adapter=_large_state())
    with files_of_at_most(STATE_BYTES // 2), pytest.raises(RunError, match=r"state\.safetensors, got: File too large"):
        c.run()
    assert c.store.load(c.terms.adapter) is None
    assert not list((c.folder / "campaign").glob(".state*")), "nothing half-written stays"
    assert c.run().round == 2
    assert all(bank.charged() == [1, 2] for bank in c.banks.values())


@pytest.mark.fault(22)
def test_evidence_that_cannot_be_written_stops_the_campaign_which_goes_on_where_it_was(
    make_consortium: Make, tmp_path: Path, seen: Seen
) -> None:
    c = make_consortium(rounds=3)
    path, key = tmp_path / "evidence.jsonl", key_of(COORDINATOR)
    with EvidenceLog(path, "test/coordinator", key) as log:
        for _ in range(60):
            log.append("filler", "x", "y" * 200, "coordinator")
        c.seen = EvidenceObserver(log, "spring", lambda text: None)
        with files_of_at_most(path.stat().st_size + 100), pytest.raises(FedBankError, match="File too large") as full:
            c.run()
        committed = c.store.load(c.terms.adapter)
        assert committed is not None and committed.round == 1
        assert c.run().round == 3
        assert c.run().round == 3, "a further start finds everything in its place"
        logged = [entry.result.partition(":")[0] for entry in log.entries("round-committed")]
        assert logged == ["spring round 1", "spring round 2", "spring round 3"], (
            "the one that found no room is made up for"
        )
    assert verify_log(path, key.public.raw).entries >= 62
    assert all(bank.charged() == [1, 2, 3] for bank in c.banks.values())
    seen("evidence: " + str(full.value).replace(str(tmp_path), ""))
