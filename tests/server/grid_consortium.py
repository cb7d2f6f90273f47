"""A small consortium of numeric banks on a grid that can do them harm.

A module of its own name, for tests that need the class: ``conftest`` is that of whichever folder was collected last.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_grid import FaultGrid
from flwr.serverapp import Grid
from numeric_bank import NumericBank, first_state, numeric_app, numeric_change, numeric_keys, numeric_terms

from fedbank.adapter.state import digest
from fedbank.aggregation.admit import Refused
from fedbank.aggregation.rounds import GlobalState, Round
from fedbank.aggregation.rules import average
from fedbank.aggregation.terms import CampaignTerms
from fedbank_server.campaign import Campaign
from fedbank_server.nodes import CoordinatorKeys, Timing
from fedbank_server.observer import CommittedRound, Observer
from fedbank_server.snapshot import CampaignStatus, read_status
from fedbank_server.store import CampaignStore

QUICK = Timing(poll_interval_s=0.002, nodes_every_s=0.02, enrol_every_s=0.1, retry_pause_s=0.01, restart_grace_s=0.05)


@dataclass
class Seen(Observer):
    """Everything that an observer is told; ``on_commit`` and ``on_status`` are called when it is."""

    refusals: list[tuple[int, Refused]] = field(default_factory=list)
    committed: list[CommittedRound] = field(default_factory=list)
    aborted: list[Round] = field(default_factory=list)
    statuses: list[CampaignStatus] = field(default_factory=list)
    on_commit: Callable[[], object] = lambda: None
    on_status: Callable[[CampaignStatus], object] = lambda status: None

    def refused(self, round_number: int, refused: Refused) -> None:
        self.refusals.append((round_number, refused))

    def round_committed(self, committed: CommittedRound) -> None:
        self.committed.append(committed)
        self.on_commit()

    def round_aborted(self, record: Round) -> None:
        self.aborted.append(record)

    def status_changed(self, status: CampaignStatus) -> None:
        self.statuses.append(status)
        self.on_status(status)


class CoordinatorFolder:
    """Where a numeric campaign is kept; ``run`` is one start of the coordinator."""

    def __init__(self, folder: Path, terms: CampaignTerms, observer: Observer) -> None:
        self.folder, self.terms, self.observer = folder, terms, observer

    @property
    def store(self) -> CampaignStore:
        return CampaignStore(self.folder / "state.safetensors")

    @property
    def status(self) -> CampaignStatus:
        status = read_status(self.folder / "status.json")
        assert status is not None
        return status

    def run(self, grid: Grid, timing: Timing, keys: CoordinatorKeys | None = None, **options: Any) -> GlobalState:
        campaign = Campaign(
            self.terms,
            options.pop("store", self.store),
            first_state(self.terms),
            self.observer,
            keys or numeric_keys(self.terms),
            timing=timing,
            status_path=self.folder / "status.json",
            **options,
        )
        return campaign.run(grid)


class GridConsortium:
    """Banks, their grid and the coordinator's folder."""

    def __init__(self, folder: Path, **terms: Any) -> None:
        self.folder = folder
        self.terms = numeric_terms(**terms)
        self.banks = {bank: NumericBank(bank, self.terms, folder / bank) for bank in self.terms.weights}
        self.nodes = {bank: number for number, bank in enumerate(self.banks, start=11)}
        self.grid = FaultGrid({self.nodes[bank]: numeric_app(self.banks[bank]) for bank in self.banks})
        self.seen: Observer = Seen()
        self.keys = numeric_keys(self.terms)

    @property
    def store(self) -> CampaignStore:
        return self._coordinator().store

    @property
    def status(self) -> CampaignStatus:
        return self._coordinator().status

    def run(self, timing: Timing = QUICK, **options: Any) -> GlobalState:
        end = time.monotonic() + 25
        options.setdefault("stop", lambda: time.monotonic() > end)  # a test that waits for ever says nothing
        return self._coordinator().run(self.grid, timing, **options)

    def restart(self, bank: str) -> None:
        """The bank's app starts anew at the same node."""
        self.grid.start(self.nodes[bank], numeric_app(self.banks[bank]))

    def _coordinator(self) -> CoordinatorFolder:
        return CoordinatorFolder(self.folder / "campaign", self.terms, self.seen)


def adapter_after(consortium: Any, accepted: list[list[str]]) -> str:
    """The digest after rounds in which those banks took part, worked out by hand."""
    state = dict(first_state(consortium.terms).adapter)
    for number, banks in enumerate(accepted, start=1):
        base = digest(state)
        changes = [numeric_change(consortium.terms, bank, number, base) for bank in banks]
        for name, value in average(changes, [consortium.terms.weights[bank] for bank in banks]).items():
            state[name] = state[name] + value
    return digest(state)
