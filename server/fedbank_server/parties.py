"""Who takes part in a campaign: asked before the first round, and looked at again at every later start.

Whatever one bank signs, only that bank is left out for it. A bank that was left out is asked again at the next start.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flwr.serverapp import Grid

from fedbank.aggregation.admit import Refused
from fedbank.consent import Consent
from fedbank.errors import RunError
from fedbank.proposal import Proposal
from fedbank.sealing.roster import read_roster
from fedbank_server.campaign_folder import CampaignFolder
from fedbank_server.consortium import Files
from fedbank_server.nodes import CoordinatorKeys
from fedbank_server.observer import Observer
from fedbank_server.proposals import Answers, Invited, check_quorum, gather
from fedbank_server.store import CampaignStore

_AGAIN_S = 20.0
"""Seconds for the answer of a bank that was excluded, where the others are enough to go on."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How banks are asked: where, in whose name, how many have to accept within ``patience_s``, and who is told."""

    grid: Grid
    keys: CoordinatorKeys
    quorum: int
    patience_s: float
    observer: Observer
    stop: Callable[[], bool]
    say: Callable[[str], None]


def settle_parties(
    consortium: Path, kept: CampaignFolder, proposal: Proposal, asking: Asking
) -> dict[str, Consent] | None:
    """The checked acceptances of the banks that take part, as they are on disk; ``None`` if a stop was asked for.

    Raises:
        RunError: fewer than the quorum; says who was excluded and why.
    """
    if kept.began:
        return _go_on(kept, proposal, asking)
    signed_roster = Files(consortium).roster.read_bytes()
    members = set(read_roster(signed_roster, asking.keys.own.public).active())
    if len(members) < asking.quorum:
        raise RunError(
            f"Expected at least {asking.quorum} members, the consortium's quorum, got {len(members)}. Invite banks "
            "first: fedbank server invite"
        )
    answers = _ask(members, kept, proposal, signed_roster, asking, asking.patience_s)
    if answers is None:
        return None
    check_quorum(answers.accepted, members, asking.quorum, kept.excluded(), answers.refusals)
    kept.begin(proposal, signed_roster, answers.accepted)
    return answers.accepted


def _go_on(kept: CampaignFolder, proposal: Proposal, asking: Asking) -> dict[str, Consent] | None:
    """The stored acceptances that hold, and new ones of the banks whose own did not."""
    store = CampaignStore(kept.state)
    _drop(kept, store, asking)
    accepted, excluded, lines = kept.accepted(), kept.excluded(), store.history.lines()
    if lines and lines[-1].round == proposal.terms.training.rounds:
        return accepted
    refusals: list[str] = []
    if again := {bank for bank in excluded if asking.keys.find_key(bank) is not None}:
        enough = len(accepted) >= asking.quorum
        patience_s = min(asking.patience_s, _AGAIN_S) if enough else asking.patience_s
        answers = _ask(again, kept, proposal, kept.signed_roster(), asking, patience_s)
        if answers is None:
            return None
        kept.keep(answers.accepted)
        accepted, refusals = accepted | answers.accepted, answers.refusals
    check_quorum(accepted, accepted.keys() | excluded.keys(), asking.quorum, kept.excluded(), refusals)
    return accepted


def _drop(kept: CampaignFolder, store: CampaignStore, asking: Asking) -> None:
    """Take out stored acceptances that do not hold, and those of banks that were revoked before they sent anything."""
    reasons = kept.unsound()
    record, sent = store.rounds.load(), {bank for line in store.history.lines() for bank in line.accepted}
    sent |= record.accepted.keys() if record is not None else set()
    for bank in kept.participants():
        if bank not in sent and asking.keys.find_key(bank) is None:
            reasons.setdefault(bank, f"Expected an active member, {bank} was revoked. Its acceptance was dropped.")
    if not reasons:
        return
    kept.exclude(kept.excluded() | reasons)
    kept.drop(reasons)
    for bank, reason in sorted(reasons.items()):
        asking.observer.excluded(Refused(bank, "acceptance", reason))


def _ask(
    banks: set[str], kept: CampaignFolder, proposal: Proposal, signed_roster: bytes, asking: Asking, patience_s: float
) -> Answers | None:
    """Propose the campaign to ``banks`` and keep whom the answers exclude; ``None`` if a stop was asked for."""
    asking.say(f"Proposing {proposal.campaign} to {', '.join(sorted(banks))} ...")
    roster = read_roster(signed_roster, asking.keys.own.public)
    answers = gather(
        asking.grid, Invited(proposal, roster, signed_roster, asking.keys.own), banks, patience_s, asking.stop
    )
    if asking.stop():
        return None
    before = {bank: reason for bank, reason in kept.excluded().items() if bank not in answers.accepted}
    found = {bank: refused.reason for bank, refused in answers.excluded.items()}
    kept.exclude((before if kept.began else {}) | found)
    for _, refused in sorted(answers.excluded.items()):
        asking.observer.excluded(refused)
    for bank, consent in sorted(answers.accepted.items()):
        cost = "without privacy" if consent.plan is None else f"at epsilon {consent.plan.target_epsilon:.2f}"
        asking.say(f"{bank} takes part, {cost}.")
    return answers
