"""How a campaign begins: what the coordinator proposes, and what a bank answers when its policy allows it.

Both travel in signed envelopes. Neither knows the network, a model or a plan: no torch.
"""

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedbank.adapter.state import PEFT_PREFIX, AdapterSpec, LoraPair
from fedbank.aggregation.rules import RULES
from fedbank.aggregation.server_step import ServerStep
from fedbank.config import NAME, CampaignConfig, TermsConfig, parse_terms
from fedbank.config.schema import AggregationConfig
from fedbank.errors import ConfigError, UpdateError
from fedbank.model.folder import adaptable_layers
from fedbank.strict_json import read_object

PROPOSAL, ACCEPTANCE = "proposal", "acceptance"
"""The kinds of envelopes."""
MAX_BYTES = 64 * 1024
"""Of either, so that nothing large is ever parsed."""
_FORMAT = "fedbank-proposal/1"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FORMER_DIGITS = 16
_SHOWN = re.compile(rf"({NAME.pattern}-[0-9a-f]{{12}})[0-9a-f]{{52}}")
_OWN = ("micro_batch", "per_example")
"""Training settings that cannot change the result: every bank's own business."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A campaign as the coordinator proposes it to all banks alike; nothing in it is about a single bank.

    ``base_digest`` is that of the base model (``fedbank.model.folder.base_digest``). ``campaign`` is its name with the
    whole digest of everything else: other terms are another campaign, so nobody can change them on the way, and nobody
    finds two sets of terms with one identifier.
    """

    consortium: str
    name: str
    base_digest: str
    terms: TermsConfig

    @classmethod
    def of(cls, consortium: str, base_digest: str, config: CampaignConfig) -> "Proposal":
        """The proposal that the coordinator's settings make."""
        terms = TermsConfig(
            config.adapter, config.privacy, config.training, config.aggregation, config.seed, config.model.max_length
        )
        return cls(consortium, config.name, base_digest, terms)

    @property
    def campaign(self) -> str:
        """The campaign's identifier, the same for all parties: at most 105 characters."""
        return f"{self.name}-{hashlib.sha256(self.to_bytes()).hexdigest()}"

    @property
    def former_campaign(self) -> str:
        """The identifier that versions before 64 digits gave these terms: only to say that such a one cannot go on."""
        return self.campaign[: -64 + _FORMER_DIGITS]

    def to_bytes(self) -> bytes:
        """Canonical JSON: equal proposals are equal bytes."""
        terms = asdict(self.terms)
        for setting in _OWN:
            del terms["training"][setting]
        fields = {"consortium": self.consortium, "name": self.name, "base_digest": self.base_digest}
        return _canonical({"format": _FORMAT, **fields, "terms": terms})

    @classmethod
    def from_bytes(cls, content: bytes) -> "Proposal":
        """A proposal from outside, its terms held to the rules of ``conf/``.

        Raises:
            UpdateError: it is no proposal.
            ConfigError: its terms are out of range.
        """
        fields = _fields(content, _FORMAT, {"consortium": str, "name": str, "base_digest": str, "terms": dict})
        if not NAME.fullmatch(fields["name"]) or not _DIGEST.fullmatch(fields["base_digest"]):
            raise UpdateError("Expected a campaign's name and a base model's digest, got something else.")
        training = fields["terms"].get("training")
        if not isinstance(training, dict) or any(setting in training for setting in _OWN):
            raise UpdateError("Expected the terms of a campaign, got none about training. Nothing was used.")
        own = asdict(TermsConfig())["training"]
        fields["terms"]["training"] = training | {setting: own[setting] for setting in _OWN}
        return cls(fields["consortium"], fields["name"], fields["base_digest"], parse_terms(fields["terms"]))

    def adapter_spec(self, base_folder: Path) -> AdapterSpec:
        """The adapter that PEFT attaches to the base model in ``base_folder``: same tensors, same order."""
        adapter = self.terms.adapter
        layers = adaptable_layers(base_folder, tuple(adapter.target_modules), adapter.last_layers)
        narrowest = min(min(layer.num_in, layer.num_out) for layer in layers)
        if adapter.rank > narrowest:
            raise ConfigError(
                f"Expected adapter.rank of at most {narrowest}, the width of the narrowest adapted layer, got "
                f"{adapter.rank}. Lower adapter.rank."
            )
        pairs = tuple(LoraPair(f"{PEFT_PREFIX}{layer.name}", layer.num_in, layer.num_out) for layer in layers)
        trainable = RULES[self.terms.aggregation.rule]
        return AdapterSpec(adapter.rank, adapter.alpha, tuple(adapter.target_modules), pairs, trainable)

    def server_step(self) -> ServerStep:
        """The coordinator's optimizer."""
        return server_step_of(self.terms.aggregation)


def shown_campaign(campaign: str) -> str:
    """An identifier as a table shows it: the name and twelve digits. For people only: nothing may rely on so few."""
    found = _SHOWN.fullmatch(campaign)
    return f"{found[1]}…" if found else campaign


def server_step_of(rules: AggregationConfig) -> ServerStep:
    """The server step that the settings ask for."""
    return ServerStep(rules.server_step, rules.learning_rate, rules.beta1, rules.beta2, rules.tau)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A bank's consent to ``campaign``, with what it discloses: its plan and its declared (rounded) size.

    ``plan`` is the plan's file (JSON text of public values) for people and records; what counts is ``plan_digest``.
    ``epsilon`` is what the whole campaign costs its customers, ``None`` without privacy.
    """

    bank: str
    campaign: str
    plan_digest: str
    plan: str
    declared_size: int
    epsilon: float | None

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return _canonical({"format": _FORMAT, **asdict(self)})

    @classmethod
    def from_bytes(cls, content: bytes) -> "Acceptance":
        """An acceptance from outside; ``UpdateError`` if it is none."""
        texts = dict.fromkeys(("bank", "campaign", "plan_digest", "plan"), str)
        fields = _fields(content, _FORMAT, {**texts, "declared_size": int, "epsilon": (float, type(None))})
        if fields["declared_size"] < 1:
            raise UpdateError(f"Expected a bank with customers, got {fields['declared_size']}. Nothing was used.")
        if fields["epsilon"] is not None and not 0 < fields["epsilon"] < math.inf:
            raise UpdateError(f"Expected a positive epsilon, got {fields['epsilon']}. Nothing was used.")
        return cls(**fields)


def adapter_card(proposal: Proposal, adapter_digest: str, base_reference: str) -> str:
    """The model card beside a campaign's adapter, the same at the coordinator and at every bank."""
    terms = proposal.terms
    privacy = (
        f"every {terms.privacy.unit} of every bank, epsilon {terms.privacy.epsilon:g} for the whole campaign"
        if terms.privacy.epsilon is not None
        else "NONE: this adapter can reveal customers' records"
    )
    return f"""---
base_model: {base_reference}
library_name: peft
tags: [lora, federated-learning]
---
# LoRA adapter of the campaign {proposal.campaign}

Trained by the banks of {proposal.consortium} in {terms.training.rounds} rounds ({terms.aggregation.rule}, rank
{terms.adapter.rank}).

- Base model: SHA-256 `{proposal.base_digest}`
- Adapter: SHA-256 of the tensors `{adapter_digest}`
- Privacy: {privacy}; see docs/privacy.md for what that covers and what not
"""


def pack(roster: bytes, proposal: Proposal) -> bytes:
    """What a proposal travels with: the signed roster of the moment, whose digest everything that follows is for."""
    return len(roster).to_bytes(4, "big") + roster + proposal.to_bytes()


def unpack(content: bytes) -> tuple[bytes, Proposal]:
    """The signed roster, unopened, and the proposal; ``UpdateError`` or ``ConfigError`` for anything else."""
    end = 4 + int.from_bytes(content[:4], "big")
    if len(content) < end:
        raise UpdateError("Expected a roster and a proposal, got something shorter. Nothing was used.")
    return content[4:end], Proposal.from_bytes(content[end:])


def _canonical(fields: dict[str, Any]) -> bytes:
    try:
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except ValueError as error:
        raise ConfigError("Expected finite numbers as the terms of a campaign, got infinity or NaN.") from error


def _fields(content: bytes, form: str, types: dict[str, Any]) -> dict[str, Any]:
    """Exactly these fields of exactly these types."""
    try:
        fields = read_object(content, MAX_BYTES)
    except ValueError:
        fields = {}
    if fields.pop("format", None) != form or fields.keys() != types.keys():
        raise UpdateError(f"Expected {form} with the fields {sorted(types)}, got something else. Nothing was used.")
    for name, expected in types.items():
        if type(fields[name]) not in (expected if isinstance(expected, tuple) else (expected,)):
            raise UpdateError(f"Expected another type of value as {name}, got {fields[name]!r:.80}. Nothing was used.")
    return fields
