"""Keeps the status of a campaign up to date for whoever watches; costs nothing where nobody does."""

from collections.abc import Callable
from pathlib import Path

from fedbank.aggregation.rounds import GlobalState, Phase, Round
from fedbank.aggregation.terms import CampaignTerms
from fedbank_server.history import iso
from fedbank_server.snapshot import BankState, BankStatus, CampaignStatus

PAUSED = "paused"


class Board:
    """Notes what becomes of each bank; ``publish`` writes ``path`` and tells ``watch`` if anything has changed."""

    def __init__(
        self,
        terms: CampaignTerms,
        path: Path | None,
        watch: Callable[[CampaignStatus], None],
        clock: Callable[[], float],
    ) -> None:
        self._terms, self._path, self._watch, self._clock = terms, path, watch, clock
        self._banks = {bank: BankStatus(BankState.OFFLINE, iso(clock())) for bank in terms.weights}
        self._error = ""
        self._shown: tuple[object, ...] = ()

    def bank(self, bank: str, state: BankState, reason: str = "") -> None:
        """Note the state of ``bank``; it keeps the time since when it has been in it."""
        before = self._banks.get(bank)
        if before is not None and (before.state, before.reason) != (state, reason):
            self._banks[bank] = BankStatus(state, iso(self._clock()), reason)

    def state(self, bank: str) -> BankStatus:
        """What is known of ``bank``."""
        return self._banks[bank]

    def error(self, text: str) -> None:
        """Note what went wrong last."""
        self._error = text

    def publish(self, record: Round, state: GlobalState, needed: int, *, paused: bool = False) -> None:
        """Show the campaign as it is now."""
        if self._path is None:
            return
        committed = state.round
        now_shown = (record.number, record.attempt, record.phase, record.deadline, committed, needed, paused)
        shown = (*now_shown, self._error, *self._banks.values())
        if shown == self._shown:
            return
        self._shown = shown
        collecting = record.phase is Phase.COLLECTING and record.deadline is not None
        status = CampaignStatus(
            self._terms.campaign,
            record.number,
            self._terms.num_rounds,
            committed,
            state.digest(),
            record.attempt,
            PAUSED if paused else record.phase.value,
            needed,
            iso(record.deadline) if collecting and record.deadline is not None else "",
            dict(self._banks),
            self._error,
            iso(self._clock()),
            self._terms.num_local_steps,
        )
        status.save(self._path)
        self._watch(status)
