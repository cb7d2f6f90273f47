"""Everything a person or a program may want to know of a consortium, read from its folder; changes nothing.

The campaign, the server and whoever looks are different processes: files are all they share.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from fedbank.durable import is_held
from fedbank.errors import FedBankError
from fedbank.sealing.roster import Member
from fedbank_server.board import PAUSED
from fedbank_server.campaign_folder import RUN_LOCK, CampaignFolder, current_campaign, proposed_campaign
from fedbank_server.consortium import read_consortium
from fedbank_server.history import CommittedLine, History
from fedbank_server.members import active_members
from fedbank_server.snapshot import BankState, CampaignStatus, read_status

TRAINING = "training"
"""How the state of a bank that has been asked is shown."""
_WINDOW = 5
"""Rounds whose times the estimate of the remaining time is made of."""


@dataclass(frozen=True, slots=True)
class Expected:
    """How far a bank that trains should be, by the times of its earlier rounds: at ``step`` of ``num_steps``, with its
    update here at ``end`` (UTC, ISO 8601). Where it really is does not leave it (docs/adr/0010).
    """

    step: int
    num_steps: int
    end: str


@dataclass(frozen=True, slots=True)
class BankView:
    """One member. ``state`` as in ``BankState`` (``asked`` is shown as ``training``), empty outside a campaign.

    ``epsilon`` is the cost of the whole campaign to its customers that the bank agreed to; ``None`` if it did not
    accept it, or trains without privacy. ``epsilon_spent`` (in this campaign) and ``epsilon_total`` (ever) are what its
    own ledger says after its last committed update, ``None`` for what its policy does not disclose. ``rounds`` counts
    the committed rounds with its update. ``elapsed_s`` of about ``usual_s`` seconds have passed since it was asked.
    """

    bank: str
    joined: str
    revoked: str | None
    state: str
    since: str
    reason: str
    epsilon: float | None
    epsilon_spent: float | None
    epsilon_total: float | None
    rounds: int
    elapsed_s: float | None
    usual_s: float | None
    expected: Expected | None


@dataclass(frozen=True, slots=True)
class RoundView:
    """One committed round: how long it took, how many updates it has, how often it was tried.

    ``epsilon``: what each bank that discloses it had spent in the campaign after it.
    """

    round: int
    committed: str
    seconds: float
    accepted: int
    missing: int
    attempts: int
    refused: int
    epsilon: dict[str, float]


@dataclass(frozen=True, slots=True)
class Overview:
    """One consortium at one moment; ``problem`` is what could not be read, or why the campaign stands still."""

    consortium: str
    roster: int
    banks: tuple[BankView, ...]
    campaign: CampaignStatus | None
    rounds: tuple[RoundView, ...]
    problem: str
    now: str

    def as_json(self) -> dict[str, Any]:
        """Plain values; the banks of the campaign are those of ``banks``."""
        values = asdict(self)
        if values["campaign"] is not None:
            del values["campaign"]["banks"]
        return values


def read_overview(folder: Path, now: datetime) -> Overview:
    """The state of the consortium in ``folder``; if its campaign cannot be read, the rest is still there."""
    roster = active_members(folder)
    status: CampaignStatus | None = None
    lines: list[CommittedLine] = []
    epsilons: dict[str, float | None] = {}
    excluded: dict[str, str] = {}
    problem = ""
    campaign, proposed = current_campaign(folder), proposed_campaign(folder)
    try:
        if proposed is not None:
            reasons = CampaignFolder.of(folder, proposed).excluded()
            excluded = {bank: f"{proposed}: {reason}" for bank, reason in reasons.items()}
        if campaign is not None:
            kept = CampaignFolder.of(folder, campaign)
            status, lines = read_status(kept.status), History(kept.history).lines()
            if kept.began:
                epsilons = dict.fromkeys(kept.participants(), kept.proposal().terms.privacy.epsilon)
    except (FedBankError, OSError) as error:
        problem = str(error)
    if not problem and status is not None and _is_left(folder, status):
        problem = "No fedbank server run is at work: the campaign stands still until the same command is given again."
    banks = tuple(_bank_view(member, status, lines, epsilons, excluded, now) for member in roster.members.values())
    rounds = tuple(map(_round_view, lines))
    stamp = now.astimezone(UTC).isoformat(timespec="seconds")
    return Overview(read_consortium(folder).name, roster.sequence, banks, status, rounds, problem, stamp)


def _bank_view(
    member: Member,
    status: CampaignStatus | None,
    lines: Sequence[CommittedLine],
    epsilons: dict[str, float | None],
    excluded: dict[str, str],
    now: datetime,
) -> BankView:
    found = status.banks.get(member.bank) if status is not None else None
    why = excluded.get(member.bank, "")
    sent = [line.accepted[member.bank] for line in lines if member.bank in line.accepted]
    last = sent[-1] if sent else {}
    usual_s = round(median(float(one["seconds"]) for one in sent[-_WINDOW:]), 1) if sent else None
    asked = found is not None and found.state is BankState.ASKED
    since = datetime.fromisoformat(found.since) if found is not None and asked else None
    state = "" if not why else str(BankState.EXCLUDED)
    if found is not None:
        state = TRAINING if asked else str(found.state)
    return BankView(
        member.bank,
        member.joined,
        member.revoked,
        "revoked" if member.revoked is not None else state,
        found.since if found is not None else "",
        (found.reason if found is not None else "") or why,
        epsilons.get(member.bank),
        last.get("epsilon"),
        last.get("epsilon_total"),
        len(sent),
        (now - since).total_seconds() if since is not None else None,
        usual_s,
        _expected(since, usual_s, status.num_steps, now) if since and usual_s and status is not None else None,
    )


def _is_left(folder: Path, status: CampaignStatus) -> bool:
    """Whether the campaign is neither complete nor paused, and whoever ran it is gone: its state is an old one."""
    at_work = is_held(folder / RUN_LOCK) or not (folder / RUN_LOCK).exists()
    return not at_work and status.phase != PAUSED and status.committed < status.num_rounds


def _expected(since: datetime, usual_s: float, num_steps: int, now: datetime) -> Expected:
    passed = max(0.0, (now - since).total_seconds() / usual_s)
    return Expected(
        min(num_steps, int(num_steps * passed)),
        num_steps,
        (since + timedelta(seconds=usual_s)).astimezone(UTC).isoformat(timespec="seconds"),
    )


def _round_view(line: CommittedLine) -> RoundView:
    began, committed = datetime.fromisoformat(line.began), datetime.fromisoformat(line.committed)
    return RoundView(
        line.round,
        line.committed,
        round((committed - began).total_seconds(), 3),
        len(line.accepted),
        len(line.missing),
        line.attempt,
        len(line.refused) + line.refused_more,
        {bank: value["epsilon"] for bank, value in line.accepted.items() if value.get("epsilon") is not None},
    )
