"""What a bank agrees to, in its own words: policy.yaml. It wins over anything that a coordinator sends.

The policy knows offers; it refuses to know who sent them. A refusal is one sentence and changes nothing: the bank
stays up. The limits on epsilon are promises of the whole ledger too, see ``Policy.budget``.
"""

import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fedbank.errors import ConfigError, PrivacyError, UpdateError
from fedbank.membership.settings import Settings
from fedbank.membership.terms import DIGEST
from fedbank.strict_json import read_object

if TYPE_CHECKING:
    from fedbank.privacy.budget import Budget

POLICY = "policy.yaml"
ANY: Final = "any"
UNITS = ("customer", "record")
MODES = ("plain", "secure")
DISCLOSURES = ("nothing", "campaign", "total")
"""What a bank tells the coordinator of its ledger, each more than the one before."""
_HOURS = r"any|(?:[01][0-9]|2[0-3]):[0-5][0-9]-(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_MAX_OFFER = 64 * 1024
_LEAST_DELTA = 1e-14
"""The accountant's own limit (``fedbank.privacy.accounting.LEAST_DELTA``), which takes a second to load."""

TEMPLATE = """\
# What this bank agrees to. Nothing that the coordinator sends can loosen it: a campaign that asks for more is refused
# in one sentence, logged, and the bank stays up. After a change run: fedbank client policy check

# Privacy that the bank's customers may lose, at this delta: in one campaign, and over all campaigns that ever were.
# The ledger refuses every round that would pass one of them. Smaller protects more.
max_epsilon_per_campaign: 4.0
max_epsilon_total: 8.0
delta: 1.0e-5

# Who is protected: a customer with all records (customer), or, weaker, each record alone (record).
unit: customer

# Size of what is trained: the adapter's rank, and steps in one round.
max_adapter_rank: 16
max_steps_per_round: 1000

# SHA-256 of every base model that may be trained, one a line. []: none. any: whatever the coordinator names.
base_model_digests: []

# When a round may begin, such as "22:00-06:00", or any; in this time zone (IANA name).
training_hours: any
time_zone: UTC

# Whether the coordinator may see this bank's single updates. Each one is already private for every customer by itself.
# false: only rounds under secure aggregation, which shows sums alone.
accept_plain_updates: false

# What the coordinator is told of the ledger with every update: nothing, the epsilon that this campaign has spent so far
# (campaign), or also that of everything the customers ever took part in (total).
disclose_epsilon: campaign
"""
"""The file that a new bank starts from: it trains nothing until the bank names a base model and a kind of round."""


class PolicyError(PrivacyError):
    """An offer that the bank's policy does not allow: nothing is trained, nothing is sent, the bank stays up."""


class ClosedError(PolicyError):
    """Nothing is wrong with the offer, but the bank trains at other hours: from ``until`` (aware) on."""

    def __init__(self, message: str, until: datetime) -> None:
        super().__init__(message)
        self.until = until


@dataclass(frozen=True, slots=True)
class CampaignOffer:
    """What a coordinator asks for. The values come from outside: ``Policy.check`` looks at their types as well.

    ``epsilon`` and ``delta``: the whole campaign's promise to each ``unit``. ``base_model_digest``: SHA-256, hex.
    ``mode``: ``plain`` (the coordinator sees single updates) or ``secure`` (only their sum).
    """

    campaign: str
    epsilon: float
    delta: float
    unit: str
    rank: int
    base_model_digest: str
    steps_per_round: int
    mode: str

    @classmethod
    def from_json(cls, content: bytes) -> "CampaignOffer":
        """An offer from a file; its values are looked at by ``Policy.check``.

        Raises:
            UpdateError: no JSON object with exactly these names.
        """
        names = sorted(cls.__slots__)
        try:
            values = read_object(content, _MAX_OFFER)
        except ValueError:
            values = {}
        if sorted(values) != names:
            raise UpdateError(
                f"Expected an offer: one JSON object with exactly {', '.join(names)}. Got something else."
            )
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Policy:
    """A bank's limits. ``hours`` is ``None`` for any, or begin and end in ``zone`` (the end may be past midnight)."""

    max_epsilon_per_campaign: float
    max_epsilon_total: float
    delta: float
    unit: str
    max_adapter_rank: int
    max_steps_per_round: int
    base_model_digests: tuple[str, ...] | Literal["any"]
    hours: tuple[time, time] | None
    zone: str
    accept_plain_updates: bool
    disclose_epsilon: str = DISCLOSURES[0]

    def check(self, offer: CampaignOffer, now: datetime) -> None:
        """Refuse ``offer`` unless every value is of its type, in its range and within this policy at ``now`` (aware).

        Raises:
            ClosedError: all are, but it is not the hour.
            PolicyError: the first value that is not, in one sentence.
        """
        limit = min(self.max_epsilon_per_campaign, self.max_epsilon_total)
        self._at_most("epsilon", offer.epsilon, limit, offer)
        self._at_most("delta", offer.delta, self.delta, offer)
        if offer.unit not in UNITS[: UNITS.index(self.unit) + 1]:
            self._refuse(offer, f"every {self.unit} to be protected", offer.unit, "unit")
        self._at_most("rank", offer.rank, self.max_adapter_rank, offer, whole=True)
        self._at_most("steps_per_round", offer.steps_per_round, self.max_steps_per_round, offer, whole=True)
        self._check_model(offer)
        if offer.mode not in (MODES if self.accept_plain_updates else MODES[1:]):
            self._refuse(offer, "secure aggregation", offer.mode, "accept_plain_updates")
        if not self.is_open(now):
            expected, got = f"a time from {self._span()}", f"{self._local(now):%H:%M}"
            raise ClosedError(_sentence(offer, expected, got, "training_hours"), self.opens(now))

    def is_open(self, now: datetime) -> bool:
        """Whether a round may begin at ``now`` (aware)."""
        if self.hours is None:
            return True
        begin, end = self.hours
        moment = self._local(now).time()
        return begin <= moment < end if begin < end else moment >= begin or moment < end

    def opens(self, now: datetime) -> datetime:
        """When the hours begin next, after ``now`` (aware); ``now`` itself if a round may begin."""
        if self.hours is None or self.is_open(now):
            return now
        local = self._local(now)
        begin = local.replace(hour=self.hours[0].hour, minute=self.hours[0].minute, second=0, microsecond=0)
        return begin if begin > local else begin + timedelta(days=1)

    def budget(self) -> "Budget":
        """The limits for the bank's ledger, which counts everything that was ever executed."""
        from fedbank.privacy.budget import Budget  # the accountant takes a second to load

        return Budget(self.max_epsilon_total, self.max_epsilon_per_campaign, self.delta)

    def warnings(self) -> list[str]:
        """What a careful person would want to know before signing this policy."""
        found = []
        if self.base_model_digests == ANY:
            found.append("base_model_digests is any: the coordinator alone chooses what this bank's customers train.")
        if not self.base_model_digests:
            found.append("base_model_digests is empty: this bank refuses every campaign until it names a base model.")
        if not self.accept_plain_updates:
            found.append("accept_plain_updates is false: this bank refuses every campaign without secure aggregation.")
        if self.unit == "record":
            found.append("unit is record: a customer with many records is protected less than each record alone.")
        if self.max_epsilon_total > 10:
            found.append(
                f"max_epsilon_total is {self.max_epsilon_total:g}: above 10, little is promised to a customer."
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the names of policy.yaml."""
        values = asdict(self)
        hours, zone = values.pop("hours"), values.pop("zone")
        shown = ANY if hours is None else f"{hours[0]:%H:%M}-{hours[1]:%H:%M}"
        return {**values, "training_hours": shown, "time_zone": zone}

    def _at_most(self, name: str, value: object, limit: float, offer: CampaignOffer, *, whole: bool = False) -> None:
        """``not value <= limit`` and not ``value > limit``: NaN is within nothing."""
        numeric = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not numeric or not 0 < value <= limit:  # type: ignore[operator]
            self._refuse(offer, f"{name} above 0 and at most {limit:g}", value, name)

    def allows_base_model(self, digest: str) -> bool:
        """Whether this bank trains and serves adapters of that base model."""
        return self.base_model_digests == ANY or digest in self.base_model_digests

    def _check_model(self, offer: CampaignOffer) -> None:
        got, allowed = offer.base_model_digest, self.base_model_digests
        if not isinstance(got, str) or not re.fullmatch(DIGEST, got):
            self._refuse(offer, "the SHA-256 of a base model", got, "nothing")
        if not self.allows_base_model(got):
            known = " or ".join(digest[:12] for digest in allowed) or "none at all"
            self._refuse(offer, f"a base model that it allows ({known})", got, "base_model_digests")

    def _refuse(self, offer: CampaignOffer, expected: str, got: object, about: str) -> None:
        raise PolicyError(_sentence(offer, expected, got, about))

    def _local(self, now: datetime) -> datetime:
        if now.tzinfo is None:
            raise ValueError("now must know its time zone")
        return now.astimezone(_zone_of(self.zone))

    def _span(self) -> str:
        begin, end = self.hours or (time.min, time.max)
        return f"{begin:%H:%M} to {end:%H:%M} {self.zone}"


def _sentence(offer: CampaignOffer, expected: str, got: object, about: str) -> str:
    return (
        f"Expected of campaign {offer.campaign!r:.60} {expected}, as this bank's {POLICY} says, got {got!r:.70}: "
        f"change the campaign, or let the bank change {_KEY_OF.get(about, about)}; nothing was trained and nothing was "
        "sent."
    )


_KEY_OF = {
    "epsilon": "max_epsilon_per_campaign or max_epsilon_total",
    "rank": "max_adapter_rank",
    "steps_per_round": "max_steps_per_round",
}


def read_policy(path: Path) -> Policy:
    """The policy in the file at ``path``.

    Raises:
        ConfigError: names the file and the key, with what was expected and found.
    """
    values = Settings.read(path, _KEYS)
    any_model = values.equals("base_model_digests", ANY)
    return Policy(
        max_epsilon_per_campaign=values.number("max_epsilon_per_campaign"),
        max_epsilon_total=values.number("max_epsilon_total"),
        delta=_delta(values, path),
        unit=values.choice("unit", UNITS),
        max_adapter_rank=values.integer("max_adapter_rank", low=1, high=4096),
        max_steps_per_round=values.integer("max_steps_per_round", low=1, high=10**6),
        base_model_digests=ANY
        if any_model
        else values.texts("base_model_digests", DIGEST, f"SHA-256 digests (64 hex digits each), or {ANY}"),
        hours=_hours(values.text("training_hours", _HOURS, "any, or hours such as '22:00-06:00'"), path),
        zone=_zone(values.text("time_zone"), path),
        accept_plain_updates=values.flag("accept_plain_updates"),
        disclose_epsilon=values.choice("disclose_epsilon", DISCLOSURES),
    )


_KEYS = (
    "max_epsilon_per_campaign",
    "max_epsilon_total",
    "delta",
    "unit",
    "max_adapter_rank",
    "max_steps_per_round",
    "base_model_digests",
    "training_hours",
    "time_zone",
    "accept_plain_updates",
    "disclose_epsilon",
)


def _delta(values: Settings, path: Path) -> float:
    delta = values.number("delta", below=1)
    if delta < _LEAST_DELTA:
        raise ConfigError(
            f"Expected delta in {path} to be at least {_LEAST_DELTA:g}, got {delta:g}: no epsilon can be computed for "
            "it. 1e-5 is usual."
        )
    return delta


def _hours(text: str, path: Path) -> tuple[time, time] | None:
    if text == ANY:
        return None
    begin, end = (time.fromisoformat(part) for part in text.split("-"))
    if begin == end:
        raise ConfigError(f"Expected training_hours in {path} to begin and end at different times, got {text}.")
    return begin, end


def _zone_of(name: str) -> tzinfo:
    """UTC is known also to a machine without a time zone database."""
    return UTC if name == "UTC" else ZoneInfo(name)


def _zone(name: str, path: Path) -> str:
    try:
        _zone_of(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(
            f"Expected time_zone in {path} to be a time zone such as Europe/Berlin, got {name!r:.60}."
        ) from None
    return name
