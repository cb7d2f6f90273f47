"""The soak in short: a few rounds, three faults, every invariant; and a charge too many that its checker must find."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from soak import Settings, Soak

from fedbank.privacy.ledger import LEDGER, Ledger, read_ledger

SHORT = Settings(4, every_s=0.0, seed=97, steps=20, a_round_between=True, most_faults=3, longest_s=3.0)
"""A bank's process is killed, the campaign's is frozen, the server is killed with its supervisor."""


@pytest.mark.slow
def test_a_consortium_lives_through_a_short_soak_and_its_checker_sees_a_charge_too_many(tmp_path: Path) -> None:
    told: list[str] = []
    soak = Soak(SHORT, tmp_path, told.append)
    figures = soak.run()
    assert figures["violations"] == [], told
    assert figures["rounds"] == SHORT.rounds
    assert figures["by_fault"] == {"kill bank-1": 1, "freeze campaign": 1, "kill-supervisor server": 1}, told
    assert figures["checks"] == 4
    path = tmp_path / "bank-1" / "training" / LEDGER
    charge = read_ledger(path).charges[0]
    Ledger(path, "bank-1").charge(replace(charge, replay_id=None), max_steps=10_000)
    soak.check("a planted charge", ended=True)
    assert len(soak.violations) == 1
    assert soak.violations[0].startswith("after a planted charge: bank-1: round 1 of ")
    assert soak.violations[0].endswith(" is charged 2 times")
