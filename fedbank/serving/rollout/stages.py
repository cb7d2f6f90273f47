"""How a verified release becomes what customers are answered with: shadow, canary, stable; and back at once.

Pure: every function takes what is there and returns what is there next. In ``shadow`` a candidate answers copies of
some questions, which nobody sees; as ``canary`` it answers a fixed share of conversations, each of them always with the
same release; then it is ``stable``. Gates decide on numbers of this bank alone, with their intervals (Wilson 1927).
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from fedbank.errors import FedBankError

_Z = 1.96
"""Two-sided intervals of 95 %."""
_BUCKETS_PER_OCTAVE = 4


class RolloutError(FedBankError):
    """A step that the rollout does not allow in its state."""


class Stage(StrEnum):
    """Where a candidate is."""

    SHADOW = "shadow"
    CANARY = "canary"


class Verdict(StrEnum):
    """What the gates say of a candidate."""

    WAIT = "wait"
    PASS = "pass"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Tally:
    """What was seen of one release in one stage: answers, failures, and their pace in buckets of a quarter octave.

    A pace is milliseconds per 100 tokens, first to last: waiting in the queue is nobody's fault.

    ``agreed`` of ``compared``: answers that agree with the stable release's. ``probes_right`` of ``probes``.
    """

    answers: int = 0
    failures: int = 0
    compared: int = 0
    agreed: int = 0
    probes: int = 0
    probes_right: int = 0
    milliseconds: Mapping[int, int] = field(default_factory=dict)

    def answered(self, milliseconds: float, *, failed: bool) -> "Tally":
        """One more answer; a failure has no pace, and neither has an answer of one token (0)."""
        counts = self.milliseconds
        if milliseconds > 0 and not failed:
            bucket = round(_BUCKETS_PER_OCTAVE * math.log2(max(milliseconds, 1.0)))
            counts = {**counts, bucket: counts.get(bucket, 0) + 1}
        return replace(self, answers=self.answers + 1, failures=self.failures + failed, milliseconds=counts)

    def compared_with_stable(self, *, agrees: bool) -> "Tally":
        """One more pair of answers."""
        return replace(self, compared=self.compared + 1, agreed=self.agreed + agrees)

    def probed(self, *, right: bool) -> "Tally":
        """One more probe question."""
        return replace(self, probes=self.probes + 1, probes_right=self.probes_right + right)

    def percentile_ms(self, share: float) -> float:
        """Milliseconds below which ``share`` of the answers were given, within 9 %; NaN while none has a pace."""
        left = math.ceil(share * sum(self.milliseconds.values()))
        for bucket, count in sorted(self.milliseconds.items()):
            left -= count
            if left <= 0:
                return float(2.0 ** (bucket / _BUCKETS_PER_OCTAVE))
        return math.nan


@dataclass(frozen=True, slots=True)
class Gates:
    """What a candidate must show in each stage before it goes on, and when it is given up.

    ``answers``: at least so many. ``failure_rate``: given up once the rate is surely higher, gone on once it is not.
    ``slowdown``: 95th percentile over that of the stable release. ``agreement``: the lower end of its interval, where
    answers are compared. ``probes``: so many probe questions are asked, and every one has to be right.
    """

    answers: int = 200
    failure_rate: float = 0.02
    slowdown: float = 1.5
    agreement: float = 0.0
    probes: int = 0
    longest: timedelta = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A release on its way. ``share``: of questions copied, or of conversations answered. ``since``: of this stage."""

    release: str
    stage: Stage
    share: float
    since: datetime
    seen: Tally = Tally()
    stable_seen: Tally = Tally()


@dataclass(frozen=True, slots=True)
class Rollout:
    """What is served: ``stable`` (``None``: nothing yet), what was before it, and a candidate if there is one."""

    stable: str | None = None
    previous: str | None = None
    candidate: Candidate | None = None

    def begin(self, release: str, share: float, now: datetime) -> "Rollout":
        """``release`` begins in the shadow of the stable one; as the first of all it is stable at once.

        Raises:
            RolloutError: it is stable already, or another candidate is on its way.
        """
        if self.stable is None:
            return Rollout(stable=release)
        if release == self.stable or self.candidate is not None:
            busy = self.candidate.release if self.candidate else self.stable
            raise RolloutError(f"Expected no release on its way but {release}, got {busy}. Promote or roll it back.")
        return replace(self, candidate=Candidate(release, Stage.SHADOW, _share(share), now))

    def promote(self, share: float, now: datetime) -> "Rollout":
        """One stage on: from shadow to canary, of ``share`` of the conversations; from canary to stable.

        Raises:
            RolloutError: there is no candidate.
        """
        found = self._candidate()
        if found.stage is Stage.SHADOW:
            return replace(self, candidate=Candidate(found.release, Stage.CANARY, _share(share), now))
        return Rollout(stable=found.release, previous=self.stable)

    def roll_back(self) -> "Rollout":
        """Without the candidate; without one, the release before is stable again, and nothing is before it.

        Raises:
            RolloutError: there is none.
        """
        if self.candidate is not None:
            return replace(self, candidate=None)
        if self.previous is None:
            raise RolloutError("Expected a candidate or a release before the stable one, got neither. Nothing changed.")
        return Rollout(stable=self.previous)

    def release_for(self, conversation: str) -> str | None:
        """Who answers a conversation: always the same release while the rollout is what it is."""
        found = self.candidate
        if found is not None and found.stage is Stage.CANARY and _position(found.release, conversation) < found.share:
            return found.release
        return self.stable

    def mirror_for(self, request: str, answered_by: str) -> str | None:
        """Who answers a copy of a request, unseen, so that two releases' answers can be compared; ``None``: nobody.

        Copies of the stable release's go to a candidate in the shadow, a canary's to the stable release.
        """
        found = self.candidate
        if found is not None and found.stage is Stage.CANARY:
            return self.stable if answered_by == found.release else None
        return self._shadow_for(request) if answered_by == self.stable else None

    def saw(self, release: str, pace_ms: float, *, failed: bool) -> "Rollout":
        """With one more answer of ``release``, while a candidate is compared with the stable one."""
        found = self.candidate
        if found is None or release not in (found.release, self.stable):
            return self
        if release == found.release:
            return replace(self, candidate=replace(found, seen=found.seen.answered(pace_ms, failed=failed)))
        return replace(self, candidate=replace(found, stable_seen=found.stable_seen.answered(pace_ms, failed=failed)))

    def compared(self, release: str, *, agrees: bool) -> "Rollout":
        """With one more pair of answers, of the candidate ``release`` and the stable one."""
        found = self.candidate
        if found is None or found.release != release:
            return self
        return replace(self, candidate=replace(found, seen=found.seen.compared_with_stable(agrees=agrees)))

    def probed(self, release: str, *, right: bool) -> "Rollout":
        """With one more probe question of the candidate ``release``."""
        found = self.candidate
        if found is None or found.release != release:
            return self
        return replace(self, candidate=replace(found, seen=found.seen.probed(right=right)))

    def _shadow_for(self, request: str) -> str | None:
        found = self.candidate
        if found is not None and found.stage is Stage.SHADOW and _position(found.release, request) < found.share:
            return found.release
        return None

    def _candidate(self) -> Candidate:
        if self.candidate is None:
            raise RolloutError("Expected a release on its way, got none. Adopt one first: fedbank client sync")
        return self.candidate


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with a line for each gate."""

    verdict: Verdict
    lines: tuple[str, ...]


def judge(candidate: Candidate, gates: Gates, now: datetime) -> Judgement:
    """Whether a candidate may go on, has to go, or has not shown enough yet."""
    found = list(_gates(candidate, gates))
    lines = tuple(line for _, line in found)
    verdicts = {verdict for verdict, _ in found}
    if Verdict.FAIL in verdicts:
        return Judgement(Verdict.FAIL, lines)
    if Verdict.WAIT not in verdicts:
        return Judgement(Verdict.PASS, lines)
    if now - candidate.since > gates.longest:
        said = f"after {gates.longest.days} days it has not shown enough"
        return Judgement(Verdict.FAIL, (*lines, said))
    return Judgement(Verdict.WAIT, lines)


def interval(successes: int, trials: int) -> tuple[float, float]:
    """Of a share, 95 %, two-sided (Wilson 1927); all of 0 to 1 without trials."""
    if trials == 0:
        return 0.0, 1.0
    share, square = successes / trials, _Z * _Z
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = _Z / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def _gates(candidate: Candidate, gates: Gates) -> Iterator[tuple[Verdict, str]]:
    seen = candidate.seen
    enough = seen.answers >= gates.answers
    yield (Verdict.PASS if enough else Verdict.WAIT), f"{seen.answers} of {gates.answers} answers"
    low, high = interval(seen.failures, seen.answers)
    said = f"failures {seen.failures} of {seen.answers} ({low:.1%} to {high:.1%}; at most {gates.failure_rate:.1%})"
    fine = Verdict.PASS if seen.answers and seen.failures <= gates.failure_rate * seen.answers else Verdict.WAIT
    stable = candidate.stable_seen  # an engine that is down is not the candidate's fault
    bearable = max(gates.failure_rate, stable.failures / stable.answers if stable.answers else 0.0)
    yield (Verdict.FAIL if low > bearable else fine), said
    yield _speed(candidate, gates, enough)
    if seen.compared or gates.agreement:
        low, high = interval(seen.agreed, seen.compared)
        said = f"agreement {seen.agreed} of {seen.compared} ({low:.1%} to {high:.1%}; at least {gates.agreement:.1%})"
        open_or_good = Verdict.PASS if low >= gates.agreement else Verdict.WAIT
        yield (Verdict.FAIL if high < gates.agreement else open_or_good), said
    wrong = seen.probes - seen.probes_right
    asked = Verdict.PASS if seen.probes >= gates.probes else Verdict.WAIT
    said = f"probe questions {seen.probes_right} of {seen.probes} right, {gates.probes} to ask"
    yield (Verdict.FAIL if wrong else asked), said


def _speed(candidate: Candidate, gates: Gates, enough: bool) -> tuple[Verdict, str]:
    ours, theirs = candidate.seen.percentile_ms(0.95), candidate.stable_seen.percentile_ms(0.95)
    if math.isnan(ours) or math.isnan(theirs):
        return Verdict.WAIT, "95th percentile: not known yet"
    said = f"95th percentile {ours:.0f} ms per 100 tokens, stable {theirs:.0f} (at most {gates.slowdown:g} times)"
    if ours <= gates.slowdown * theirs:
        return Verdict.PASS, said
    return (Verdict.FAIL if enough else Verdict.WAIT), said


def _share(share: float) -> float:
    if not 0.0 < share <= 1.0:
        raise RolloutError(f"Expected a share above 0 and at most 1, got {share:g}. Nothing changed.")
    return share


def _position(release: str, key: str) -> float:
    """Of a conversation or request in [0, 1): uniform, the same each time, another for each release."""
    content = hashlib.sha256(f"{release}\n{key}".encode()).digest()
    return int.from_bytes(content[:8]) / 2**64
