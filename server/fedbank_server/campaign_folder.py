"""Where a campaign lies in the coordinator's folder, and what it needs to continue: proposal, roster, who accepted."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedbank.durable import write_atomic
from fedbank.errors import RunError
from fedbank.proposal import Acceptance, Proposal
from fedbank.sealing.keys import PublicKey
from fedbank.sealing.roster import Roster, read_roster

_CAMPAIGNS, _CURRENT = "campaigns", "current"
RUN_LOCK = "run.lock"
"""In the coordinator's folder: held while a campaign is run."""


@dataclass(frozen=True, slots=True)
class CampaignFolder:
    """Paths of one campaign."""

    folder: Path

    @classmethod
    def of(cls, consortium: Path, campaign: str) -> "CampaignFolder":
        """That of ``campaign`` in the coordinator's folder."""
        return cls(consortium / _CAMPAIGNS / campaign)

    @property
    def status(self) -> Path:
        """What the campaign is doing now (``fedbank_server.snapshot``)."""
        return self.folder / "status.json"

    @property
    def history(self) -> Path:
        """Its committed rounds (``fedbank_server.history``)."""
        return self.folder / "history.jsonl"

    @property
    def state(self) -> Path:
        """The newest committed adapter (``fedbank_server.store``)."""
        return self.folder / "state.safetensors"

    @property
    def began(self) -> bool:
        """Whether it is settled who takes part."""
        return self._proposal.exists()

    @property
    def _proposal(self) -> Path:
        return self.folder / "proposal.json"

    def begin(self, proposal: Proposal, signed_roster: bytes, accepted: Mapping[str, Acceptance]) -> None:
        """Keep who takes part, under which roster; the proposal is written last, then it is the current campaign."""
        write_atomic(self.folder / "roster", signed_roster)
        for bank, acceptance in accepted.items():
            write_atomic(self.folder / "accepted" / f"{bank}.json", acceptance.to_bytes())
        write_atomic(self._proposal, proposal.to_bytes())
        write_atomic(self.folder.parent / _CURRENT, self.folder.name.encode())

    def proposal(self) -> Proposal:
        """What was proposed; ``RunError`` if the folder is named for other terms, or by an earlier version."""
        found = Proposal.from_bytes(self._proposal.read_bytes())
        if found.campaign != self.folder.name:
            raise RunError(
                f"Expected the terms of {self.folder.name} in its folder, got those of {found.campaign}. An earlier "
                "version named campaigns by 16 digits, which are too few to rely on: such a one cannot go on. Begin "
                "another campaign, under another name."
            )
        return found

    def check_no_former(self, proposal: Proposal) -> None:
        """``RunError`` if the same terms were begun by an earlier version: their banks have paid for them already."""
        former = CampaignFolder(self.folder.parent / proposal.former_campaign)
        if former.began:
            raise RunError(
                f"Expected a campaign that this version began, got {former.folder.name}, which an earlier version "
                "began with the same terms. It cannot go on: its identifier has 16 digits, too few to rely on. Finish "
                "it with that version, or give another name=NAME; banks are charged for that one anew."
            )

    def signed_roster(self) -> bytes:
        """The roster that everything in the campaign is signed for."""
        return (self.folder / "roster").read_bytes()

    def roster(self, coordinator: PublicKey) -> Roster:
        """The same, verified."""
        return read_roster(self.signed_roster(), coordinator)

    def accepted(self) -> dict[str, Acceptance]:
        """Who takes part."""
        files = sorted((self.folder / "accepted").glob("*.json"))
        return {file.stem: Acceptance.from_bytes(file.read_bytes()) for file in files}


def current_campaign(consortium: Path) -> str | None:
    """The campaign that began last in the coordinator's folder."""
    current = consortium / _CAMPAIGNS / _CURRENT
    return current.read_text("utf-8") if current.exists() else None
