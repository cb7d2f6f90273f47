"""What a release says of privacy comes from plans that were checked; no member can make a release undraftable."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from acceptances import LIES, NOISE, TERMS, Lie, acceptance

from fedbank.adapter.state import initial_state
from fedbank.aggregation.rounds import GlobalState
from fedbank.config import load_campaign
from fedbank.consent import read_acceptance
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.proposal import Proposal
from fedbank.release.build import Scores
from fedbank.release.manifest import Manifest
from fedbank_server.campaign_folder import CampaignFolder
from fedbank_server.history import CommittedLine
from fedbank_server.release_of_campaign import Particulars, build_release
from fedbank_server.store import CampaignStore

STAMP = "2026-03-01T12:00:00.000+00:00"
SAID = {
    "epsilon": "3.0",
    "delta": "0.00001",
    "noise_multiplier": str(NOISE),
    "clip_norm": "0.5",
    "sampling_prob": "0.08",
    "steps": "2",
}


@pytest.fixture
def draft(tmp_path: Path) -> Callable[..., Manifest]:
    """A complete campaign of one round, with updates of ``sent``; ``lie`` is what bank-c's stored acceptance says."""

    def make(lie: Lie | None, sent: tuple[str, ...]) -> Manifest:
        proposal = Proposal.of("North", base_digest(tiny_folder()), load_campaign([*TERMS, "name=trial"]))
        kept = CampaignFolder.of(tmp_path, proposal.campaign)
        banks = ("bank-a", "bank-b", "bank-c")
        consents = {bank: read_acceptance(acceptance(bank, proposal.campaign), bank, proposal) for bank in banks}
        kept.begin(proposal, b"roster", consents)
        if lie is not None:
            path = kept.folder / "accepted" / "bank-c.json"
            path.write_bytes(acceptance("bank-c", proposal.campaign, lie))
        state = GlobalState(1, initial_state(proposal.adapter_spec(tiny_folder()), seed=0))
        store = CampaignStore(kept.state)
        store.save(state, {})
        accepted = {bank: {"seconds": 1.0} for bank in sent}
        line = CommittedLine(1, 1, "", state.digest(), "", STAMP, STAMP, accepted, [], 0, [], [])
        store.history.append(line)
        about = Particulars(tiny_folder(), "fedbank/tiny-qwen3", "1", "Apache-2.0", "none", None)
        return build_release(kept, about, Scores("0" * 64, 0, {}, {}), datetime.now(UTC), tmp_path / "made")

    return make


def test_a_release_says_what_the_checked_plans_say(draft: Callable[..., Manifest]) -> None:
    manifest = draft(None, ("bank-a", "bank-b", "bank-c"))
    assert manifest.privacy["banks"] == {"bank-a": SAID, "bank-b": SAID, "bank-c": SAID}
    assert manifest.training["participants"] == 3


@pytest.mark.parametrize(
    "name", ["manifest: a plan without delta", "unreadable", "surrogate: a digest that is no text"]
)
def test_a_stored_plan_that_does_not_hold_promises_nothing_and_stops_nothing(
    draft: Callable[..., Manifest], name: str
) -> None:
    manifest = draft(LIES[name][0], ("bank-a", "bank-b", "bank-c"))
    assert manifest.privacy["banks"] == {"bank-a": SAID, "bank-b": SAID, "bank-c": None}
    assert manifest.training["participants"] == 3


def test_a_bank_that_sent_nothing_under_such_a_plan_is_not_in_the_release(draft: Callable[..., Manifest]) -> None:
    manifest = draft(LIES["loose: a huge noise that widens the norm bound"][0], ("bank-a", "bank-b"))
    assert manifest.privacy["banks"] == {"bank-a": SAID, "bank-b": SAID}
