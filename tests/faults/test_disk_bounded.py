"""Disk is bounded: after 200 rounds there is what one round needs, and the few lines that each leaves for ever."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from whole_consortium import WholeConsortium

from fedbank_server.evidence import EvidenceObserver
from fedbank_server.observer import CommittedRound

ROUNDS, SETTLED = 200, 20
SETTINGS = (f"training.rounds={ROUNDS}", "training.local_steps=1", "training.expected_batch=2")
LASTING = {
    "coordinator": ("campaigns/*/history.jsonl", "evidence.jsonl", "evidence.checkpoints"),
    "bank": ("training/ledger.jsonl", "evidence.jsonl", "evidence.checkpoints"),
}
"""The only files that grow."""
MOST = {"coordinator": 2_500, "bank": 1_000}
"""Bytes that a round of two banks may leave."""


def sizes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.mark.long
@pytest.mark.slow
def test_a_round_leaves_a_few_lines_and_nothing_else(tmp_path: Path) -> None:
    consortium = WholeConsortium(tmp_path, customers=20)
    folders = {"coordinator": consortium.coordinator, "bank": consortium.banks["bank-a"]}
    seen: dict[str, list[dict[Path, int]]] = {name: [] for name in folders}

    class Scales(EvidenceObserver):
        def round_committed(self, committed: CommittedRound) -> None:
            super().round_committed(committed)
            for name, folder in folders.items():
                seen[name].append(sizes(folder))

    consortium.run(*SETTINGS, observe=Scales)
    for name, folder in folders.items():
        lasting = {path for pattern in LASTING[name] for path in folder.glob(pattern)}
        totals = np.asarray([sum(found.values()) for found in seen[name]])
        lines = np.asarray([sum(found[path] for path in lasting & found.keys()) for found in seen[name]])
        rest = totals - lines
        assert len(totals) == ROUNDS
        assert np.ptp(rest[SETTLED:]) <= 200, (name, rest[SETTLED:])  # one more digit in a number, no more
        per_round = np.diff(lines)[SETTLED:].mean()
        assert per_round <= MOST[name], (name, per_round)
        assert len(seen[name][-1]) == len(seen[name][SETTLED]), "no file more"
        print(f"{name}: {per_round:.0f} bytes a round stay, {rest[-1]} bytes beside them")  # noqa: T201
