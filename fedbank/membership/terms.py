"""The terms of a consortium: what every member agrees to on joining. Public values only."""

import json
import math
from dataclasses import asdict, dataclass

from fedbank.errors import ConfigError
from fedbank.membership.settings import Settings

DIGEST = r"[0-9a-f]{64}"
ADDRESS = r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\]):[1-9][0-9]{0,4}"
_MOST_BANKS = 50
_ABOVE_ONE = math.nextafter(1.0, 2.0)
DEFAULT_MAX_SHARE = 0.5
"""A bank's share of an average, unless the consortium says otherwise."""
TERMS = ("quorum", "deadline", "base_model_digest", "release_threshold", "max_share", "plan")
_DEADLINE_KEYS = ("factor", "floor_s", "ceiling_s")
_PLAN_KEYS = ("target_epsilon", "delta", "unit")


@dataclass(frozen=True, slots=True)
class DeadlineRule:
    """A round may take ``factor`` times what the quorum needed lately, from ``floor_s`` to ``ceiling_s`` seconds."""

    factor: float = 3.0
    floor_s: float = 60.0
    ceiling_s: float = 4 * 3600.0

    def __post_init__(self) -> None:
        if not (self.factor >= 1 and 0 < self.floor_s <= self.ceiling_s < math.inf):
            raise ConfigError(
                "Expected a deadline with a factor of at least 1 and 0 < floor_s <= ceiling_s, got factor "
                f"{self.factor:g}, floor_s {self.floor_s:g}, ceiling_s {self.ceiling_s:g}."
            )


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """Privacy that every campaign aims at; ``None``: each campaign says so itself."""

    target_epsilon: float | None = None
    delta: float | None = None
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for every campaign.

    ``quorum``: updates without which a round changes nothing. ``base_model_digest``: SHA-256 of the one base model,
    ``None``: campaigns choose. ``release_threshold``: banks whose signatures a release needs, ``None``: more than half.
    ``max_share``: the most that one bank's update counts of an average, above 0 and at most 1.
    """

    quorum: int
    deadline: DeadlineRule
    base_model_digest: str | None = None
    release_threshold: int | None = None
    plan: PlanTerms = PlanTerms()
    max_share: float = DEFAULT_MAX_SHARE

    @classmethod
    def from_settings(cls, values: Settings) -> "Terms":
        """Read from a part of consortium.yaml or of a join package.

        Raises:
            ConfigError: names the file and the key.
        """
        rule = values.section("deadline", _DEADLINE_KEYS)
        return cls(
            values.integer("quorum", low=1, high=_MOST_BANKS),
            DeadlineRule(rule.number("factor"), rule.number("floor_s"), rule.number("ceiling_s")),
            values.text("base_model_digest", DIGEST, "64 hex digits") if values.given("base_model_digest") else None,
            values.integer("release_threshold", low=1, high=_MOST_BANKS) if values.given("release_threshold") else None,
            _plan(values.section("plan", _PLAN_KEYS)) if values.given("plan") else PlanTerms(),
            values.number("max_share", below=_ABOVE_ONE) if values.given("max_share") else DEFAULT_MAX_SHARE,
        )

    def dumps(self) -> str:
        """JSON under the names of consortium.yaml; the usual ``max_share`` is not named, as it never was before."""
        values = asdict(self)
        if self.max_share == DEFAULT_MAX_SHARE:
            del values["max_share"]
        return json.dumps(values, allow_nan=False)

    @classmethod
    def loads(cls, content: bytes, where: str) -> "Terms":
        """The inverse of ``dumps``; ``where`` names the source in errors."""
        return cls.from_settings(Settings.parse(content, where, TERMS))


def _plan(values: Settings) -> PlanTerms:
    return PlanTerms(
        values.number("target_epsilon") if values.given("target_epsilon") else None,
        values.number("delta", below=1) if values.given("delta") else None,
        values.choice("unit", ("customer", "record")) if values.given("unit") else None,
    )
