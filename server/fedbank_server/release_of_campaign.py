"""The release that a finished campaign makes: everything in its manifest comes from what the campaign left on disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fedbank.adapter.state import digest, to_bytes
from fedbank.consent import Consent
from fedbank.errors import RunError
from fedbank.membership.folders import utc
from fedbank.model.folder import digest_of, file_digests
from fedbank.proposal import Proposal
from fedbank.release.build import (
    ACCOUNTANT,
    Scores,
    adapter_fields,
    code_version,
    environment_digest,
    release_name,
    write_release,
)
from fedbank.release.manifest import Manifest, decimal_text
from fedbank_server.campaign_folder import CampaignFolder
from fedbank_server.store import CampaignStore


@dataclass(frozen=True, slots=True)
class Particulars:
    """What the coordinator says of a release: the base model's public ``base_name`` and ``revision``, and the rest."""

    base_folder: Path
    base_name: str
    base_revision: str
    licence: str
    data_card: str
    parent: str | None


def build_release(kept: CampaignFolder, about: Particulars, scores: Scores, now: datetime, target: Path) -> Manifest:
    """Write the release of the campaign in ``kept`` into the new folder ``target``.

    Raises:
        RunError: the campaign is not complete, or the base model is another one.
        ReleaseError: what would be written is no release.
    """
    proposal, store = kept.proposal(), CampaignStore(kept.state)
    files = file_digests(about.base_folder)
    if digest_of(files) != proposal.base_digest:
        raise RunError(
            f"Expected the base model {proposal.base_digest[:16]} of {proposal.campaign}, got another one in "
            f"{about.base_folder}. Name its folder: --base DIR"
        )
    spec = proposal.adapter_spec(about.base_folder)
    state, rounds = store.load(spec), proposal.terms.training.rounds
    if state is None or state.round != rounds:
        raise RunError(
            f"Expected a campaign of {rounds} committed rounds, got {state.round if state else 0}. Complete it first: "
            "fedbank server run"
        )
    sent: dict[str, Consent | None] = {bank: None for line in store.history.lines() for bank in line.accepted}
    banks = sent | kept.accepted()
    found, weights = digest(state.adapter), to_bytes(state.adapter, {"kind": "adapter"})
    adapter = adapter_fields(
        weights,
        spec.shapes(),
        {
            "digest": found,
            "rank": spec.rank,
            "alpha": decimal_text(spec.alpha),
            "target_modules": list(spec.target_modules),
            "layers": spec.layers(),
        },
    )
    manifest = Manifest(
        release=release_name(proposal.name, found, now),
        parent=about.parent,
        licence=about.licence,
        data_card=about.data_card,
        created=utc(now),
        base={
            "name": about.base_name,
            "revision": about.base_revision,
            "digest": proposal.base_digest,
            "files": files,
        },
        adapter=adapter,
        training=_training(proposal, len(banks)),
        privacy=_privacy(proposal, banks),
        evaluation=scores.fields(),
    )
    write_release(target, manifest, weights)
    return manifest


def _training(proposal: Proposal, participants: int) -> dict[str, Any]:
    return {
        "campaign": proposal.campaign,
        "rounds": proposal.terms.training.rounds,
        "participants": participants,
        "max_length": proposal.terms.max_length,
        "rule": proposal.terms.aggregation.rule,
        "secure_aggregation": False,
        "code": code_version(),
        "lock": environment_digest(),
    }


def _privacy(proposal: Proposal, accepted: Mapping[str, Consent | None]) -> dict[str, Any]:
    banks = {bank: _spent(consent) for bank, consent in sorted(accepted.items())}
    return {"unit": proposal.terms.privacy.unit, "accountant": ACCOUNTANT, "mode": "silo", "banks": banks}


def _spent(consent: Consent | None) -> dict[str, str] | None:
    """From the checked plan; ``None``, no promise, without privacy, and for a bank whose plan does not hold."""
    if consent is None or consent.plan is None:
        return None
    plan = consent.plan
    return {
        "epsilon": decimal_text(plan.target_epsilon),
        "delta": decimal_text(plan.delta),
        "noise_multiplier": decimal_text(plan.noise_multiplier),
        "clip_norm": decimal_text(plan.clip_norm),
        "sampling_prob": decimal_text(plan.sampling.sampling_prob),
        "steps": str(plan.sampling.num_steps),
    }
