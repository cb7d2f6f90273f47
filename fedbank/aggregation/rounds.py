"""A campaign's rounds as a state machine: values in, values out; no network, no file, no clock.

::

    PLANNED -collect-> COLLECTING -aggregate-> AGGREGATING -committed-> COMMITTED
       ^                    |
       +------retry---- ABORTED       below the quorum at the deadline: nothing changed, the same round again

``now`` is seconds since 1970, steady within a process. Everything of a round but the updates themselves is in one
``Round``; it can be written down between any two steps, and whoever reads it goes on from there.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from fedbank.adapter.state import Released, Tensors, digest
from fedbank.aggregation.admit import Refused
from fedbank.aggregation.influence import LeftOut, relative_bounds
from fedbank.aggregation.rules import average, refactor
from fedbank.aggregation.server_step import StepState, apply_step
from fedbank.aggregation.terms import CampaignTerms

_MAX_REFUSALS = 100


@dataclass(frozen=True, slots=True)
class GlobalState:
    """The committed result of ``round`` rounds: the shared adapter and the server step's moments, never changed.

    ``previous`` is the digest of the adapter that the last of these rounds started from; empty before the first.
    """

    round: int
    adapter: Mapping[str, NDArray[np.float32]]
    step: StepState = field(default_factory=StepState)
    previous: str = ""
    _digest: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    def digest(self) -> str:
        """SHA-256 of the adapter; computed once, since every status and every round asks for it."""
        if not self._digest:
            self._digest.append(digest(self.adapter))
        return self._digest[0]


class Phase(StrEnum):
    """Where a round is."""

    PLANNED = "planned"
    COLLECTING = "collecting"
    AGGREGATING = "aggregating"
    COMMITTED = "committed"
    ABORTED = "aborted"


class Decision(StrEnum):
    """What to do with a round that is being collected."""

    WAIT = "wait"
    AGGREGATE = "aggregate"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Accepted:
    """An update that counts.

    SHA-256 of the signed payload, the signer's key (hexadecimal both), its bytes, and how long after the round began;
    what its bank disclosed of its ledger (``Disclosure``), ``None`` for what it did not. ``norm`` is the update's L2
    norm, kept here so that nothing is read twice.
    """

    digest: str
    key: str
    num_bytes: int
    seconds: float
    epsilon: float | None = None
    epsilon_total: float | None = None
    norm: float = 0.0


@dataclass(frozen=True, slots=True)
class Aborted:
    """An attempt that came to nothing: when, and why each bank was missing."""

    attempt: int
    at: float
    missing: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Round:
    """One round, all attempts together. Methods return the next state; ``ValueError`` from a phase that has none.

    ``began`` is when the first attempt was planned, ``attempt`` counts from 1, ``series`` is the first attempt since
    the campaign was last continued by a person, ``refusing`` are the banks that are not asked again in this attempt,
    ``left_out`` (from ``aggregate`` on) those whose updates were admitted and do not count.
    Only the first refusals of a round are kept, the rest are counted: nobody can fill the coordinator's disk.
    """

    number: int
    base_digest: str
    began: float
    phase: Phase = Phase.PLANNED
    attempt: int = 1
    series: int = 1
    time_allowed_s: float | None = None
    deadline: float | None = None
    accepted: Mapping[str, Accepted] = field(default_factory=dict)
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)
    refusing: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()
    refused_more: int = 0
    aborted: tuple[Aborted, ...] = ()

    @property
    def retries(self) -> int:
        """Attempts before this one in the series."""
        return self.attempt - self.series

    def collect(self, now: float, time_allowed_s: float | None) -> "Round":
        """Begin to collect, for ``time_allowed_s`` from ``now`` or without a deadline."""
        self._expect(Phase.PLANNED)
        deadline = None if time_allowed_s is None else now + time_allowed_s
        return replace(self, phase=Phase.COLLECTING, time_allowed_s=time_allowed_s, deadline=deadline)

    def resumed(self, now: float, grace_s: float) -> "Round":
        """After a restart: the deadline stands, but banks get ``grace_s`` to be found again.

        A clock that was set back meanwhile cannot make the round longer than it was allowed to be.
        """
        if self.phase is not Phase.COLLECTING or self.deadline is None or self.time_allowed_s is None:
            return self
        latest = now + self.time_allowed_s
        return replace(self, deadline=min(max(self.deadline, now + grace_s), latest))

    def accept(self, bank: str, accepted: Accepted) -> "Round":
        """Count an update that is stored; the first of a bank."""
        self._expect(Phase.COLLECTING)
        if bank in self.accepted:
            raise ValueError(f"{bank} is in already")
        return replace(self, accepted={**self.accepted, bank: accepted})

    def refuse(self, refused: Refused, *, final: bool) -> "Round":
        """Note what was not used; ``final``: its bank is not asked again in this attempt."""
        refusing = self.refusing
        if final and refused.bank not in refusing:
            refusing = (*refusing, refused.bank)
        if len(self.refused) >= _MAX_REFUSALS:
            return replace(self, refusing=refusing, refused_more=self.refused_more + 1)
        return replace(self, refusing=refusing, refused=(*self.refused, refused))

    def without(self, banks: Collection[str]) -> "Round":
        """Do not count the updates of ``banks``: they are no longer members."""
        self._expect(Phase.COLLECTING)
        return replace(self, accepted={bank: value for bank, value in self.accepted.items() if bank not in banks})

    def too_long(self, terms: CampaignTerms) -> dict[str, LeftOut]:
        """Which of the updates that are in would be left out if no other came: a function of their norms alone."""
        bounds = relative_bounds({bank: found.norm for bank, found in self.accepted.items()}, terms.noise_norms)
        return {
            bank: LeftOut(found.digest, found.norm, bounds[bank])
            for bank, found in sorted(self.accepted.items())
            if found.norm > bounds[bank]
        }

    def decide(self, now: float, needed: int, possible: Collection[str], too_long: Collection[str] = ()) -> Decision:
        """Wait for those of ``possible`` that neither sent nor refused, or stop, with or without a quorum.

        The quorum is one of updates that count: those of ``too_long`` do not. While others are waited for, which ones
        these are may change, so that nothing is given up for them.
        """
        self._expect(Phase.COLLECTING)
        waiting = set(possible) - set(self.accepted) - set(self.refusing)
        over = self.deadline is not None and now >= self.deadline
        if over or not waiting:
            return Decision.AGGREGATE if len(self.accepted.keys() - set(too_long)) >= needed else Decision.ABORT
        return Decision.ABORT if len(self.accepted) + len(waiting) < needed else Decision.WAIT

    def aggregate(self, too_long: Mapping[str, LeftOut] | None = None) -> "Round":
        """From here on nobody is let in: the result is that of the banks accepted by now, without ``too_long``."""
        self._expect(Phase.COLLECTING)
        left_out = dict(too_long or {})
        accepted = {bank: found for bank, found in self.accepted.items() if bank not in left_out}
        return replace(self, phase=Phase.AGGREGATING, accepted=accepted, left_out=left_out)

    def committed(self) -> "Round":
        """The result is on disk."""
        self._expect(Phase.AGGREGATING)
        return replace(self, phase=Phase.COMMITTED)

    def extended(self, deadline: float) -> "Round":
        """Wait until ``deadline`` if that is later than what was said before."""
        self._expect(Phase.COLLECTING)
        return self if self.deadline is None else replace(self, deadline=max(self.deadline, deadline))

    def hurried(self, time_allowed_s: float) -> "Round":
        """Collect no longer than ``time_allowed_s`` from the round's beginning: once, what is given later is given."""
        self._expect(Phase.COLLECTING)
        if self.deadline is None or self.time_allowed_s is None or time_allowed_s >= self.time_allowed_s:
            return self
        deadline = min(self.deadline, self.began + time_allowed_s)
        return replace(self, time_allowed_s=time_allowed_s, deadline=deadline)

    def abort(self, now: float, missing: Mapping[str, str]) -> "Round":
        """Give this attempt up; ``missing`` says of each bank why."""
        self._expect(Phase.COLLECTING)
        aborted = (*self.aborted, Aborted(self.attempt, now, dict(missing)))[-_MAX_REFUSALS:]
        return replace(self, phase=Phase.ABORTED, deadline=None, aborted=aborted)

    def exhausted(self, max_attempts: int) -> bool:
        """Whether an aborted round is to be left to a person."""
        return self.phase is Phase.ABORTED and self.retries + 1 >= max_attempts

    def retry(self, *, new_series: bool) -> "Round":
        """The same round again, from the same adapter, with the updates that are there."""
        self._expect(Phase.ABORTED)
        attempt = self.attempt + 1
        series = attempt if new_series else self.series
        return replace(self, phase=Phase.PLANNED, attempt=attempt, series=series, refusing=())

    def _expect(self, phase: Phase) -> None:
        if self.phase is not phase:
            raise ValueError(f"expected a round that is {phase.value}, got one that is {self.phase.value}")


def aggregate(
    terms: CampaignTerms, state: GlobalState, banks: Collection[str], read: Callable[[str], Released]
) -> tuple[GlobalState, Tensors]:
    """The next global state and the average change of ``banks``, whose updates ``read`` gets one at a time.

    Weights are those of the terms for exactly these banks (``weights_of``), divided by their sum. That reveals nothing
    beyond who took part, which the coordinator sees anyway, and is post-processing of updates each of which is private
    for itself. (Dividing by the sum over all banks instead would shorten the step whenever one is away.) Banks are
    summed in name order, whatever order they arrived in: the result does not depend on it.
    """
    names = sorted(banks)
    weights = terms.weights_of(names)
    change = average(map(read, names), [weights[bank] for bank in names])
    adapter, step = apply_step(terms.server_step, state.step, state.adapter, change)
    if terms.rule == "fedsvd":
        adapter, rotations = refactor(terms.adapter, adapter)
        step = step.rotated(rotations)
    return GlobalState(state.round + 1, adapter, step, state.digest()), change
