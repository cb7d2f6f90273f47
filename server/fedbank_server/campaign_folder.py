"""Where a campaign lies in the coordinator's folder, and what it needs to continue: proposal, roster, who accepted."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedbank.consent import Consent, read_acceptance
from fedbank.durable import write_atomic
from fedbank.errors import RunError, UpdateError
from fedbank.proposal import Proposal
from fedbank.sealing.keys import PublicKey
from fedbank.sealing.roster import Roster, read_roster

_CAMPAIGNS, _CURRENT, _PROPOSED = "campaigns", "current", "proposed"
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

    def begin(self, proposal: Proposal, signed_roster: bytes, accepted: Mapping[str, Consent]) -> None:
        """Keep who takes part, under which roster; the proposal is written last, then it is the current campaign."""
        write_atomic(self.folder / "roster", signed_roster)
        self.keep(accepted)
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

    def keep(self, accepted: Mapping[str, Consent]) -> None:
        """Store acceptances, each in place of an earlier one of its bank."""
        for bank, consent in accepted.items():
            write_atomic(self._accepted / f"{bank}.json", consent.acceptance.to_bytes())

    def participants(self) -> list[str]:
        """The banks whose acceptance is stored, by name, whatever it says."""
        return sorted(file.stem for file in self._accepted.glob("*.json"))

    def accepted(self) -> dict[str, Consent]:
        """Who takes part: the stored acceptances, each checked again. What fails is not in it."""
        return {bank: found for bank, found in self._checked().items() if isinstance(found, Consent)}

    def unsound(self) -> dict[str, str]:
        """Why a stored acceptance does not hold, by bank: of those that ``accepted`` leaves out."""
        return {bank: found for bank, found in self._checked().items() if isinstance(found, str)}

    def drop(self, banks: Collection[str]) -> None:
        """Take the acceptances of ``banks`` out of the campaign; the files stay, in the folder ``dropped``."""
        for bank in banks:
            (self.folder / "dropped").mkdir(exist_ok=True)
            (self._accepted / f"{bank}.json").replace(self.folder / "dropped" / f"{bank}.json")

    def exclude(self, reasons: Mapping[str, str]) -> None:
        """Keep why banks do not take part, in place of what was kept; it is the campaign that was proposed last."""
        write_atomic(self._excluded, json.dumps(dict(reasons), sort_keys=True, indent=1).encode())
        write_atomic(self.folder.parent / _PROPOSED, self.folder.name.encode())

    def excluded(self) -> dict[str, str]:
        """Why each bank that was asked does not take part; ``RunError`` if the file is damaged."""
        try:
            fields = json.loads(self._excluded.read_bytes())
            return {str(bank): str(reason) for bank, reason in fields.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise RunError(
                f"Expected the banks that a campaign excluded in {self._excluded}, got something else. Delete the file."
            ) from error

    @property
    def _excluded(self) -> Path:
        return self.folder / "excluded.json"

    @property
    def _accepted(self) -> Path:
        return self.folder / "accepted"

    def _checked(self) -> dict[str, Consent | str]:
        proposal, found = self.proposal(), dict[str, Consent | str]()
        for bank in self.participants():
            try:
                found[bank] = read_acceptance((self._accepted / f"{bank}.json").read_bytes(), bank, proposal)
            except UpdateError as error:
                found[bank] = str(error)
        return found


def current_campaign(consortium: Path) -> str | None:
    """The campaign that began last in the coordinator's folder."""
    current = consortium / _CAMPAIGNS / _CURRENT
    return current.read_text("utf-8") if current.exists() else None


def proposed_campaign(consortium: Path) -> str | None:
    """The campaign that was proposed last, whether it began or not."""
    proposed = consortium / _CAMPAIGNS / _PROPOSED
    return proposed.read_text("utf-8") if proposed.exists() else None
