"""A consortium of real processes with one lying member of each kind: what becomes of the campaign and of the adapter.

It is compared with a campaign of the honest banks alone, in folders of their own, with the same randomness.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from alliance import Alliance
from lying_updates import LIES, MALLORY, SIZE, TRUDY
from repeatable_bank import CUSTOMERS, stream_of
from whole_consortium import WholeConsortium

pytestmark = pytest.mark.slow
HONEST = ("bank-a", "bank-b", "bank-c")
SETTINGS = (
    *(f"training.rounds={len(LIES)}", "training.local_steps=1", "training.expected_batch=16", "privacy.epsilon=8"),
    *("aggregation=ffa", "aggregation.weights=declared"),
)
_HERE = Path(__file__).parent


class Liars:
    """One campaign of three honest banks and two liars by the real commands, to its end."""

    def __init__(self, folder: Path) -> None:
        self.alliance = Alliance(folder, banks=(*HONEST, MALLORY, TRUDY), quorum=3)
        try:
            self._run()
        finally:
            self.alliance.close()

    def _run(self) -> None:
        alliance = self.alliance
        alliance.start_server()
        for seed, bank in enumerate(alliance.banks):
            program = str(_HERE / ("repeatable_bank.py" if bank in HONEST else "lying_updates.py"))
            alliance.start_program(bank, sys.executable, program, str(alliance.home(bank)), str(seed))
        alliance.wait_online(300)  # five models are loaded at once, on machines with two cores
        alliance.start_campaign(*SETTINGS)
        self.exit_code = alliance.wait_end("campaign", 300)
        self.log = (alliance.folder / "campaign.log").read_text()
        self.lines = {int(line["round"]): line for line in alliance.history()}
        self.shown = alliance.run("server", "status", "--dir", str(alliance.coordinator))
        self.evidence = (alliance.coordinator / "evidence.jsonl").read_text()


@pytest.fixture(scope="module")
def liars(tmp_path_factory: pytest.TempPathFactory) -> Liars:
    return Liars(tmp_path_factory.mktemp("liars"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The committed rounds of the honest banks alone."""
    made = WholeConsortium(tmp_path_factory.mktemp("alone"), HONEST, CUSTOMERS, stream_of)
    made.run(*SETTINGS)
    (kept,) = (made.coordinator / "campaigns").glob("campaign-*")
    return {"rounds": lines_of(kept), "adapter": load_file(kept / "adapter" / "adapter_model.safetensors")}


def lines_of(campaign: Path) -> Any:
    from fedbank_server.history import History

    return {line.round: line for line in History(campaign / "history.jsonl").lines()}


def test_the_campaign_ends_and_nobodys_text_moves_the_operators_screen(liars: Liars) -> None:
    assert (liars.exit_code, sorted(liars.lines)) == (0, list(range(1, len(LIES) + 1))), liars.log
    for text in (liars.log, liars.shown, liars.evidence):
        assert "Traceback" not in text
        assert not {char for char in text if not char.isprintable()} - {"\n"}


def test_a_size_that_nobody_has_excludes_its_bank_alone(liars: Liars) -> None:
    assert all(set(HONEST) <= line["accepted"].keys() for line in liars.lines.values())
    assert not any(TRUDY in line["accepted"] for line in liars.lines.values()), liars.log
    assert str(SIZE) in liars.log


@pytest.mark.fault(15)
@pytest.mark.parametrize("number", range(1, len(LIES) + 1), ids=[lie.name for lie in LIES])
def test_what_a_lie_does_to_the_adapter(
    liars: Liars, alone: dict[str, Any], number: int, seen: Callable[[str], None]
) -> None:
    """Bit for bit what the honest banks alone make of it; or no more than an honest bank of that size could do."""
    lie, line, honest = LIES[number - 1], liars.lines[number], alone["rounds"][number]
    refused = [one["check"] for one in line["refused"] if one["bank"] == MALLORY]
    if lie.outcome == "counts":
        assert MALLORY in line["accepted"] and not line["left_out"]
        moved, reach = distance(liars, alone), reach_of_an_honest_bank(line)
        seen(f"{lie.name}: counts, moves the adapter by {moved:.3g}, an honest bank of its size by up to {reach:.3g}")
        assert 0 < moved <= reach
        return
    assert (MALLORY in line["accepted"], MALLORY in line["left_out"]) == (False, lie.outcome == "left-out")
    assert bool(refused) == (lie.outcome == "refused")
    assert (line["adapter"], line["change"]) == (honest.adapter, honest.change)
    seen(f"{lie.name}: {lie.outcome} {', '.join(refused)}; the adapter is that of the honest banks, bit for bit")


def distance(liars: Liars, alone: dict[str, Any]) -> float:
    """Between the two adapters after the last round."""
    (kept,) = (liars.alliance.coordinator / "campaigns").glob("campaign-*")
    ours, theirs = load_file(kept / "adapter" / "adapter_model.safetensors"), alone["adapter"]
    assert ours.keys() == theirs.keys()
    squares = [np.square(ours[name].astype(np.float64) - theirs[name]).sum() for name in ours]
    return float(np.sqrt(sum(squares)))


def reach_of_an_honest_bank(line: dict[str, Any]) -> float:
    """Share times (the longest update that is let in + the longest average of the others), from the round's record."""
    accepted = line["accepted"]
    norms = {bank: found["norm"] for bank, found in accepted.items()}
    share = accepted[MALLORY]["weight"] / sum(found["weight"] for found in accepted.values())
    others = max(norms[bank] for bank in HONEST)
    return float(share * (1.5 * median_low(norms.values()) + others)) * (1 + 1e-6)
