"""How much privacy a bank's customers may lose, over all campaigns together, and how much of it is gone.

Every figure is the epsilon of the composition of *all* executed events, never a sum of epsilons (which over-counts:
four campaigns at epsilon 3 make 6.2, not 12) and never that of one campaign alone where the customers' total is asked
for. Runs of a hyper-parameter search are campaigns like any other: each spends from the same budget.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fedbank.errors import PrivacyError
from fedbank.privacy.accounting import LEAST_DELTA, PrivacyEvent, compute_epsilon
from fedbank.privacy.ledger import Charge, Mechanism, Steps

_MOST_STEPS = 2**20
"""More steps of one mechanism than this are refused under any limit: no bank executes as many."""

Events = tuple[PrivacyEvent, ...]


@dataclass(frozen=True, slots=True)
class Spent:
    """What was executed and its epsilon. ``charges`` exceeds ``rounds`` where a round was executed again."""

    rounds: int
    charges: int
    steps: int
    epsilon: float


@dataclass(frozen=True, slots=True)
class Left:
    """What remains: of epsilon (limit minus spent; ``None`` without a limit), and in steps of a campaign's last event.

    The steps are the figure to plan with: epsilons of parts do not add up.
    """

    epsilon: float | None
    steps: int | None


@dataclass(frozen=True, slots=True)
class Moment:
    """Epsilon over all campaigns just after the charge at ``time`` (UTC, ISO 8601)."""

    time: str
    campaign: str
    epsilon: float


@dataclass(frozen=True, slots=True)
class Budget:
    """A bank's own limits on epsilon at its own ``delta``: over everything it ever does, and for each campaign.

    ``None`` is no limit.

    Raises:
        PrivacyError: a limit that is not a positive number, or a delta outside [1e-14, 1).
    """

    max_epsilon_total: float | None
    max_epsilon_per_campaign: float | None
    delta: float

    def __post_init__(self) -> None:
        for limit in (self.max_epsilon_total, self.max_epsilon_per_campaign):
            if limit is not None and not 0 < limit < float("inf"):
                raise PrivacyError(f"Expected a positive number as the limit of epsilon, got {limit}. 8 is usual.")
        if not LEAST_DELTA <= self.delta < 1:
            raise PrivacyError(
                f"Expected delta in the range from {LEAST_DELTA:g} to below 1, got {self.delta}. 1e-5 is usual."
            )

    def check(self, charge: Charge, spent: Steps) -> None:
        """Refuse ``charge`` if it would bring the customers beyond a limit (``fedbank.privacy.ledger.SpendingLimit``).

        Asks for epsilon only when the other mechanisms' steps have changed: until then, whole numbers are compared.

        Raises:
            PrivacyError: a limit would be passed.
        """
        for limit, scope, steps in self._scopes(charge.campaign, spent):
            fits = self._fits(charge.mechanism, steps, limit)
            if steps[charge.mechanism] + charge.num_steps > fits:
                raise PrivacyError(
                    f"Round {charge.round} of {charge.campaign} would pass this bank's limit of epsilon = {limit:g} "
                    f"(delta = {self.delta:g}) {scope}. End the campaign, or let the bank raise its limit. "
                    "Nothing was trained and nothing was sent."
                )

    def spent(self, charges: Sequence[Charge], campaign: str | None = None) -> Spent:
        """What ``campaign`` (default: all campaigns together) has spent."""
        own = [charge for charge in charges if campaign in (None, charge.campaign)]
        return Spent(
            rounds=len({(charge.campaign, charge.round) for charge in own}),
            charges=len(own),
            steps=sum(charge.num_steps for charge in own),
            epsilon=compute_epsilon(merge(own), self.delta),
        )

    def left(self, charges: Sequence[Charge], campaign: str | None = None) -> Left:
        """What remains to ``campaign`` under both limits (default: to all campaigns together)."""
        remaining = []
        if self.max_epsilon_total is not None:
            remaining.append(self.max_epsilon_total - self.spent(charges).epsilon)
        if campaign is None:
            return Left(max(0.0, remaining[0]) if remaining else None, None)
        if self.max_epsilon_per_campaign is not None:
            remaining.append(self.max_epsilon_per_campaign - self.spent(charges, campaign).epsilon)
        own = [charge.mechanism for charge in charges if charge.campaign == campaign]
        steps = [
            max(0, self._fits(own[-1], done, limit) - done[own[-1]])
            for limit, _, done in self._scopes(campaign, _steps(charges))
            if own
        ]
        return Left(max(0.0, min(remaining)) if remaining else None, min(steps, default=None))

    def over_time(self, charges: Sequence[Charge], points: int | None = None) -> list[Moment]:
        """Epsilon after every charge, or after about ``points`` of them, evenly chosen, the last always among them."""
        every = 1 if points is None else max(1, -(-len(charges) // points))
        moments, steps = [], Counter[Mechanism]()
        for number, charge in enumerate(charges, start=1):
            steps[charge.mechanism] += charge.num_steps
            if number % every == 0 or number == len(charges):
                moments.append(Moment(charge.time, charge.campaign, compute_epsilon(_events(steps), self.delta)))
        return moments

    def _scopes(self, campaign: str, spent: Steps) -> Iterator[tuple[float, str, Counter[Mechanism]]]:
        """Every limit, what it is about in words, and the steps that count towards it."""
        if self.max_epsilon_per_campaign is not None:
            yield self.max_epsilon_per_campaign, "for one campaign", Counter(spent.get(campaign, {}))
        if self.max_epsilon_total is not None:
            total = Counter[Mechanism]()
            for steps in spent.values():
                total.update(steps)
            yield self.max_epsilon_total, "over all campaigns", total

    def _fits(self, mechanism: Mechanism, steps: Counter[Mechanism], limit: float) -> int:
        """How many steps of ``mechanism`` in all, done ones included, stay within ``limit`` beside all others."""
        others = {other: count for other, count in steps.items() if other != mechanism}
        return _steps_that_fit(_events(others), mechanism, limit, self.delta)


def merge(charges: Iterable[Charge]) -> Events:
    """The events that ``charges`` executed; those that differ only in steps are one event with all their steps."""
    return _events(sum((Counter(steps) for steps in _steps(charges).values()), Counter[Mechanism]()))


def _steps(charges: Iterable[Charge]) -> dict[str, Counter[Mechanism]]:
    steps: dict[str, Counter[Mechanism]] = {}
    for charge in charges:
        steps.setdefault(charge.campaign, Counter())[charge.mechanism] += charge.num_steps
    return steps


def _events(steps: Mapping[Mechanism, int]) -> Events:
    """In one order, so that rounding is the same whatever came first."""
    return tuple(PrivacyEvent(*mechanism, count) for mechanism, count in sorted(steps.items()))


@lru_cache(maxsize=1024)
def _steps_that_fit(others: Events, mechanism: Mechanism, limit: float, delta: float) -> int:
    """The largest n up to ``_MOST_STEPS`` such that ``others`` and n steps of ``mechanism`` cost at most ``limit``.

    Epsilon grows with n. Doubles n, then bisects: epsilon far beyond the limit, which takes long, is never computed.
    """
    before = {(event.sampling_prob, event.noise_multiplier): event.num_steps for event in others}

    def fits(count: int) -> bool:
        return compute_epsilon(_events({**before, mechanism: count}), delta) <= limit

    low, high = 0, 1
    while low < _MOST_STEPS and fits(high):
        low, high = high, 2 * high
    while low < _MOST_STEPS and high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
