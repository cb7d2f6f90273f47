"""The coordinator's loop over a campaign's rounds, on any Flower ``Grid``, from wherever it was left.

Collects each round (``collecting``), aggregates, commits: the new state's file is the commit, everything else follows
from it. After a crash at any moment the same campaign goes on; a committed round is never committed again.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.serverapp import Grid

from fedbank.adapter.state import Released, digest
from fedbank.aggregation.admit import l2_norm
from fedbank.aggregation.deadline import WINDOW, time_allowed
from fedbank.aggregation.rounds import GlobalState, Phase, Round, aggregate
from fedbank.aggregation.terms import CampaignTerms
from fedbank.errors import RunError
from fedbank_server.board import Board
from fedbank_server.collecting import Collector
from fedbank_server.heads import Heads
from fedbank_server.history import CommittedLine, read_update, recompute
from fedbank_server.nodes import CoordinatorKeys, Timing
from fedbank_server.observer import CommittedRound, Observer, costs
from fedbank_server.store import CampaignStore


class SteadyClock:
    """Seconds since 1970 as the system says at the start, and from then on steady, whatever is done to its clock."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def __call__(self) -> float:
        """Now."""
        return self._offset + time.monotonic()


class Campaign:
    """Runs the rounds that are missing from ``store`` and leaves the final state there.

    With ``status_path`` the campaign's status is written there whenever it changes, and given to ``observer``. What is
    known of the banks' ledgers is in ``heads``, which outlives the campaign.
    """

    def __init__(
        self,
        terms: CampaignTerms,
        store: CampaignStore,
        initial: GlobalState,
        observer: Observer,
        keys: CoordinatorKeys,
        *,
        stop: Callable[[], bool] = lambda: False,
        timing: Timing | None = None,
        status_path: Path | None = None,
        heads: Heads | None = None,
    ) -> None:
        self._terms, self._store, self._initial = terms, store, initial
        self._observer, self._keys, self._stop = observer, keys, stop
        self._timing, self._heads = timing or Timing(), heads or Heads()
        self._clock = SteadyClock()
        self._board = Board(terms, status_path, observer.status_changed, self._clock)

    def run(self, grid: Grid) -> GlobalState:
        """Run to the last round; returns early, with the last committed state, when asked to stop.

        ``RunError`` if a round stayed below its quorum ``max_attempts`` times: the campaign is paused, and running it
        again continues it. Without a deadline also if banks do not appear at all.
        """
        with self._store.exclusive():
            state = self._settle()
            collector = self._collector(grid)
            while state.round < self._terms.num_rounds and not self._stop():
                committed = self._run_round(collector, state)
                if committed is None:
                    break
                state = committed.state
            return state

    def _collector(self, grid: Grid) -> Collector:
        return Collector(
            grid,
            self._terms,
            self._store.rounds,
            self._keys,
            self._observer,
            self._board,
            self._timing,
            stop=self._stop,
            clock=self._clock,
            heads=self._heads,
        )

    def _settle(self) -> GlobalState:
        """The committed state, with everything that a crash after its commit left to do done."""
        state = self._store.load(self._terms.adapter) or self._initial
        record, lines = self._store.rounds.load(), self._store.history.lines()
        last = lines[-1].round if lines else 0
        if last > state.round or (record is not None and record.number > state.round + 1):
            raise RunError(
                f"Expected the campaign's state to be of round {max(last, record.number - 1 if record else 0)}, got "
                f"that of round {state.round}: it is an older copy. Restore the campaign's folder from one backup."
            )
        if record is not None and record.number == state.round and record.phase is Phase.AGGREGATING:
            if last < state.round:
                line = CommittedLine.of(self._terms, record, state.digest(), "", self._clock())
                line = replace(line, change=recompute(self._terms, line, self._store.rounds))
                self._store.history.append(line)
            self._store.rounds.save(record.committed())
        elif self._store.keeps_rounds and last < state.round:
            raise RunError(
                f"Expected the campaign's history to hold the rounds to {state.round}, got those to {last}. "
                "Restore the campaign's folder from one backup."
            )
        elif lines and last == state.round and lines[-1].adapter != state.digest():
            raise RunError(
                f"Expected the adapter that was committed in round {last} ({lines[-1].adapter[:12]}), got another one "
                f"({state.digest()[:12]}). Restore the campaign's folder from one backup."
            )
        self._store.rounds.forget_before(state.round)
        if settled := self._store.history.lines():
            self._observer.committed_before(settled[-1])
        return state

    def _run_round(self, collector: Collector, state: GlobalState) -> CommittedRound | None:
        """One round to its commit, or ``None`` if stopped before all updates are in (the banks keep theirs)."""
        began, bytes_down = time.monotonic(), collector.bytes_down
        record = self._begin(state)
        while record.phase is not Phase.AGGREGATING:
            if record.phase is Phase.PLANNED:
                record = self._planned(record)
            collected = collector.collect(record, state)
            if collected is None:
                return None
            record = collected
            if record.phase is Phase.ABORTED:
                record = self._aborted(record, state)
                if not self._pause(record):
                    return None
        collector.forget_round()
        return self._commit(record, state, began, lambda: collector.bytes_down - bytes_down)

    def _begin(self, state: GlobalState) -> Round:
        """The round to work at: the one that a crash or a pause left, or a new one."""
        record = self._store.rounds.load()
        if record is None or record.number <= state.round:
            return Round(state.round + 1, state.digest(), self._clock())
        if record.base_digest != state.digest():
            raise RunError(
                f"Expected round {record.number} to start from the adapter {record.base_digest[:12]}, got "
                f"{state.digest()[:12]}. Restore the campaign's folder from one backup."
            )
        if record.phase is Phase.ABORTED:
            return record.retry(new_series=record.exhausted(self._terms.max_attempts))
        return record.resumed(self._clock(), self._timing.restart_grace_s)

    def _planned(self, record: Round) -> Round:
        """The round as it is collected: its deadline is on disk before the first bank is asked."""
        rule, allowed = self._terms.deadline, None
        if rule is not None:
            needed = self._terms.needed(len(self._terms.weights))
            allowed = time_allowed(rule, self._store.history.seconds(WINDOW), needed, record.retries)
        record = record.collect(self._clock(), allowed)
        self._store.rounds.save(record)
        return record

    def _aborted(self, record: Round, state: GlobalState) -> Round:
        """The round for its next attempt; ``RunError`` after the last one."""
        self._observer.round_aborted(record)
        missing = "; ".join(f"{bank} ({why})" for bank, why in sorted(record.aborted[-1].missing.items()))
        needed = self._terms.needed(sum(self._keys.find_key(bank) is not None for bank in self._terms.weights))
        counted = len(record.accepted.keys() - record.aborted[-1].missing.keys())
        problem = (
            f"Expected updates of at least {needed} of the {len(self._terms.weights)} banks to round {record.number}, "
            f"got {counted} in attempt {record.retries + 1} of {self._terms.max_attempts}. "
            f"Missing: {missing}. The global adapter is unchanged."
        )
        self._board.error(problem)
        paused = record.exhausted(self._terms.max_attempts)
        self._board.publish(record, state, needed, paused=paused)
        if paused:
            raise RunError(f"{problem} The campaign is paused: see to these banks, then run it again.")
        return record.retry(new_series=False)

    def _pause(self, record: Round) -> bool:
        """Before a further attempt; ``False`` if a stop was asked for meanwhile."""
        if record.phase is Phase.PLANNED:
            end = time.monotonic() + self._timing.retry_pause_s
            while time.monotonic() < end and not self._stop():
                time.sleep(self._timing.poll_interval_s)
        return not self._stop()

    def _commit(self, record: Round, state: GlobalState, began: float, bytes_down: Callable[[], int]) -> CommittedRound:
        needed = self._terms.needed(len(record.accepted))
        self._board.publish(record, state, needed)

        def read(bank: str) -> Released:
            accepted, kept = record.accepted[bank], self._store.rounds.released(record.number, bank)
            if kept is not None:
                return kept
            return read_update(self._terms, self._store.rounds, record.number, bank, accepted.key, accepted.digest)

        next_state, change = aggregate(self._terms, state, record.accepted, read)
        _check_finite(next_state)
        norm = float(f"{l2_norm(change):.6g}")  # the last digits depend on how memory happens to be aligned
        bytes_up = sum(accepted.num_bytes for accepted in record.accepted.values())
        seconds = time.monotonic() - began
        self._store.save(next_state, costs(norm, seconds, bytes_up, bytes_down()))
        line = CommittedLine.of(self._terms, record, next_state.digest(), digest(change), self._clock())
        self._store.history.append(line)
        self._store.rounds.save(record.committed())
        self._store.rounds.forget_before(record.number)
        self._board.publish(record.committed(), next_state, needed)
        committed = CommittedRound(next_state, norm, seconds, bytes_up, bytes_down(), line)
        self._observer.round_committed(committed)
        return committed


def _check_finite(state: GlobalState) -> None:
    if not all(np.isfinite(tensor).all() for tensor in state.adapter.values()):
        raise RunError(
            f"Expected a finite global adapter after round {state.round}, got infinity or NaN: training diverged. "
            "Lower aggregation.learning_rate or training.learning_rate. The round was not committed."
        )
