"""A consortium of real processes with a member that lies: it is left out by name, and nobody else notices."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alliance import Alliance, wait_round
from consortium import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.long]  # the same lies are told in one process by every test run

HONEST, LIAR, ROUNDS = {"bank-a", "bank-b"}, "bank-c", 6
CAMPAIGN = (f"training.rounds={ROUNDS}", "training.local_steps=1", "training.expected_batch=16", "privacy.epsilon=3")


class WithLiar(Alliance):
    """``bank-c`` lies as the file ``lie`` says."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, quorum=2)
        self.lie = folder / "lie"

    def start_liar(self, lie: str) -> None:
        self.lie.write_text(lie, "utf-8")
        program = [sys.executable, str(Path(__file__).parent / "lying_bank.py"), str(self.home(LIAR))]
        environment = os.environ | {"LIE": str(self.lie), "OMP_NUM_THREADS": "1"}
        with (self.folder / f"{LIAR}.log").open("ab") as log:
            self._processes[LIAR] = subprocess.Popen(
                [*program, "seed=2", "data.customers=400", "threads=1"], stdout=log, stderr=log, env=environment
            )

    def last_round(self) -> set[str]:
        history = self.history()
        return set(history[-1]["accepted"]) if history else set()

    def shown(self, bank: str) -> tuple[str, str]:
        (found,) = [one for one in self.status()["banks"] if one["bank"] == bank]
        return found["state"], found["reason"]


@pytest.fixture
def alliance(tmp_path: Path) -> Iterator[WithLiar]:
    made = WithLiar(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_a_liar_is_left_out_then_honest_then_revoked_and_one_campaign_goes_through_all_of_it(
    alliance: WithLiar,
) -> None:
    alliance.start_server()
    for bank in sorted(HONEST):
        alliance.start_bank(bank)
    alliance.start_liar("unreadable")
    alliance.wait_online()

    alliance.start_campaign(*CAMPAIGN)
    wait_round(alliance, 1)
    assert alliance.stop("campaign") == 0
    assert alliance.last_round() == HONEST
    state, reason = alliance.shown(LIAR)
    assert state == "excluded" and "Expected a plan that can be read" in reason
    assert f"{LIAR}: Expected a plan" in (alliance.coordinator / "evidence.jsonl").read_text("utf-8")

    alliance.lie.write_text("", "utf-8")
    alliance.start_campaign(*CAMPAIGN)
    wait_for(lambda: LIAR in alliance.last_round(), 120, alliance.logs)
    assert alliance.stop("campaign") == 0
    assert alliance.shown(LIAR)[0] != "excluded"

    alliance.run("server", "revoke", LIAR, "--dir", str(alliance.coordinator), "--reason", "it lied")
    alliance.start_campaign(*CAMPAIGN)
    assert alliance.wait_end("campaign", 180) == 0, alliance.logs()
    history = alliance.history()
    assert [line["round"] for line in history] == list(range(1, ROUNDS + 1))
    assert set(history[0]["accepted"]) == HONEST == alliance.last_round()
