"""What an audit found: bounds on epsilon beside the claim that they were set against."""

from dataclasses import dataclass, field

from fedbank.audit.bounds import Scores
from fedbank.audit.roc import Attack, summarise

NO_VIOLATION = "No violation found at this strength. An audit can refute a claim, never prove it."
VIOLATION = "VIOLATION: the lower bound exceeds the claim. Stop training; noise, clipping or sampling is not as agreed."
NO_CLAIM = "Nothing is claimed without privacy, so there is nothing to refute."

INDEPENDENT = "independent noise on every canary"
ANY_DEPENDENCE = "none about the mechanism"


@dataclass(frozen=True, slots=True)
class Bound:
    """One lower bound on epsilon and what its ``confidence`` rests on."""

    method: str
    epsilon: float
    confidence: float
    assumes: str


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """One attack on one setting. The first bound decides; it was chosen before the scores were seen.

    ``epsilon_claimed`` is ``None`` where nothing is promised. ``scores_I`` belong to canaries that took part,
    ``scores_O`` to those that did not; a high score says "took part".
    """

    name: str
    epsilon_claimed: float | None
    delta: float | None
    bounds: tuple[Bound, ...]
    scores_I: Scores
    scores_O: Scores
    settings: dict[str, float | int | str] = field(default_factory=dict)

    @property
    def epsilon_lower(self) -> float:
        """The bound that decides."""
        return self.bounds[0].epsilon

    @property
    def ok(self) -> bool:
        """Whether the bound leaves the claim standing."""
        return self.epsilon_claimed is None or self.epsilon_lower <= self.epsilon_claimed

    @property
    def trials(self) -> int:
        """Number of canaries or trials, with and without."""
        return len(self.scores_I) + len(self.scores_O)

    def attack(self) -> Attack:
        """ROC figures of the scores."""
        return summarise(self.scores_I, self.scores_O)

    def verdict(self) -> str:
        """The outcome in words."""
        if self.epsilon_claimed is None:
            return NO_CLAIM
        return NO_VIOLATION if self.ok else VIOLATION

    def as_json(self) -> dict[str, object]:
        """All figures; scores are left out."""
        attack = self.attack()
        return {
            "name": self.name,
            "epsilon_lower": self.epsilon_lower,
            "epsilon_claimed": self.epsilon_claimed,
            "delta": self.delta,
            "confidence": self.bounds[0].confidence,
            "method": self.bounds[0].method,
            "assumes": self.bounds[0].assumes,
            "ok": self.ok,
            "verdict": self.verdict(),
            "trials": self.trials,
            "auc": attack.auc,
            "auc_interval": attack.auc_interval,
            "tpr_at_1_fpr": attack.tpr_at_1_fpr,
            "tpr_at_1_fpr_interval": attack.tpr_at_1_fpr_interval,
            "bounds": [
                {
                    "method": bound.method,
                    "epsilon_lower": bound.epsilon,
                    "confidence": bound.confidence,
                    "assumes": bound.assumes,
                }
                for bound in self.bounds
            ],
            **self.settings,
        }
