"""From settings to findings: train what an audit attacks, score its candidates, bound epsilon."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from fedbank.adapter.state import Tensors
from fedbank.audit.bounds import Scores, count_guesses, epsilon_from_rates, one_run, rate_bounds
from fedbank.audit.finding import ANY_DEPENDENCE, Bound, Finding
from fedbank.config import SimulateConfig, to_yaml
from fedbank.errors import ConfigError, RunError
from fedbank.privacy.plan import PrivacyPlan, TrainingPlan
from fedbank_server.store import CampaignStore
from fedbank_simulations.audit.audience import MIN_CANDIDATES, Audience, pick_bank
from fedbank_simulations.audit.canary import plant_canaries
from fedbank_simulations.audit.membership import (
    CALIBRATED,
    LIRA,
    Shadows,
    calibrated_scores,
    draw_candidates,
    draw_shadows,
    lira_scores,
    mean_without,
    recall_candidates,
)
from fedbank_simulations.campaigns import FEDERATED, NONPRIVATE
from fedbank_simulations.federation import first_state, run_campaign
from fedbank_simulations.folder import claimed, open_run
from fedbank_simulations.progress import shown
from fedbank_simulations.resident import Resident, resident

_SHADOW = "audit_shadow"
_USUAL_DELTA = 1e-5
_GUESS_SHARE = 0.3
"""Of the candidates, fixed before any scores are seen: few candidates need more guesses than a thousand do."""
_COINS_OF_A_SPLIT = "that the run's split of customers was made by independent coins"


@dataclass(frozen=True, slots=True)
class Attack:
    """What every attack on a trained adapter needs: ``count`` candidates at ``bank`` (``None``: the smallest)."""

    count: int
    bank: str | None
    confidence: float


def audit_canaries(
    config: SimulateConfig, attack: Attack, output: Path, console: Console, *, against_off: bool
) -> list[Finding]:
    """Train with text canaries in one bank, once as the settings say and, ``against_off``, once without privacy."""
    if attack.count < MIN_CANDIDATES:
        raise ConfigError(f"Expected at least {MIN_CANDIDATES} canaries, got {attack.count}.")
    if against_off and not config.privacy.enabled:
        raise ConfigError("Expected privacy to be on with --against off, got privacy=off. Leave out one of the two.")
    home, settings = _open(config)
    audience = plant_canaries(home, pick_bank(home, attack.bank), attack.count)
    console.print(_describe(audience, "canaries"), highlight=False)
    campaigns = [(FEDERATED, config.privacy.enabled), *([(NONPRIVATE, False)] if against_off else [])]
    findings = []
    with claimed(output, settings):
        for campaign, protected in campaigns:
            adapter, plan = _train(home, settings, audience, campaign, output, console, protected=protected)
            scores = -audience.losses(home, adapter)
            findings.append(_finding("text canaries", scores, audience, plan, attack.confidence))
    return findings


def audit_members(
    config: SimulateConfig, attack: Attack, shadows: int, output: Path, console: Console
) -> list[Finding]:
    """Train with some real customers of one bank in or out by coins, and guess who took part."""
    home, settings = _open(config)
    audience = draw_candidates(home, pick_bank(home, attack.bank), attack.count)
    sides = draw_shadows(attack.count, shadows, seed=config.seed)
    console.print(_describe(audience, "customers"), highlight=False)
    with claimed(output, settings):
        protected = config.privacy.enabled
        adapter, plan = _train(home, settings, audience, FEDERATED, output, console, protected=protected)
        return _guess(home, settings, audience, adapter, plan, sides, attack, output, console)


def audit_finished_run(run: Path, attack: Attack, shadows: int, output: Path, console: Console) -> list[Finding]:
    """Guess who took part in a finished run, from its final adapter; its folder is only read."""
    settings = open_run(run)
    home = resident(settings)
    _check_unit(home.config)
    state = CampaignStore(run / "state.safetensors").load(home.model.spec)
    if state is None or state.round < home.config.training.rounds:
        raise RunError(f"Expected {run} to hold a finished run, got one that has not ended. Resume it first.")
    bank = pick_bank(home, attack.bank)
    plan = home.members(FEDERATED)[bank].plan
    audience = recall_candidates(home, bank, attack.count)
    sides = draw_shadows(audience.candidates.num_units, shadows, seed=home.config.seed)
    console.print(_describe(audience, "customers"), highlight=False)
    with claimed(output, settings):
        found = _guess(home, settings, audience, state.adapter, plan, sides, attack, output, console)
    return [
        replace(one, bounds=tuple(replace(bound, assumes=_COINS_OF_A_SPLIT) for bound in one.bounds)) for one in found
    ]


def _guess(
    home: Resident,
    settings: str,
    audience: Audience,
    adapter: Tensors,
    plan: TrainingPlan,
    sides: NDArray[np.bool_],
    attack: Attack,
    output: Path,
    console: Console,
) -> list[Finding]:
    losses = audience.losses(home, adapter)
    if len(sides) == 0:
        scores = calibrated_scores(losses, audience.losses(home, first_state(home).adapter))
        return [_finding("loss against the base model", scores, audience, plan, attack.confidence)]
    trained = []
    for number, side in enumerate(sides, start=1):
        shadowed = replace(audience, included=side)
        name = f"{_SHADOW}_{number}"
        adapter, _ = _train(home, settings, shadowed, name, output, console, protected=plan.private)
        trained.append(audience.losses(home, adapter))
    shadows = Shadows(np.stack(trained), sides)
    # Two attacks on one claim: each may err half as often.
    confidence = 1 - (1 - attack.confidence) / 2
    return [
        _finding(LIRA, lira_scores(losses, shadows), audience, plan, confidence),
        _finding(CALIBRATED, calibrated_scores(losses, mean_without(shadows)), audience, plan, confidence),
    ]


def _open(config: SimulateConfig) -> tuple[Resident, str]:
    if config.simulation.backend != "inline" or config.resume is not None:
        raise ConfigError("Expected a new run with simulation.backend=inline, got another. Audits cannot resume.")
    _check_unit(config)
    settings = to_yaml(config)
    return resident(settings), settings


def _check_unit(config: SimulateConfig) -> None:
    """What these attacks move in and out is a whole customer: a claim about single records is another one."""
    if config.privacy.enabled and config.privacy.unit != "customer":
        raise ConfigError(
            f"Expected privacy.unit=customer, whose claim this attack can test, got {config.privacy.unit}. "
            "fedbank audit mechanism tests plans of either unit."
        )


def _train(
    home: Resident,
    settings: str,
    audience: Audience,
    campaign: str,
    output: Path,
    console: Console,
    *,
    protected: bool,
) -> tuple[Tensors, TrainingPlan]:
    """The final adapter of one campaign with the audience's coins, and the plan of its bank."""
    members = audience.members(home, protected=protected)
    home.seat(campaign, members)
    with shown(console, len(members) * home.config.training.rounds) as progress:
        state = run_campaign(home, settings, campaign, output, progress, lambda: False)
    return state.adapter, members[audience.bank].plan


def _finding(name: str, scores: Scores, audience: Audience, plan: TrainingPlan, confidence: float) -> Finding:
    included = audience.included
    private = plan if isinstance(plan, PrivacyPlan) else None
    delta = _USUAL_DELTA if private is None else private.delta
    guesses = max(2, round(_GUESS_SHARE * len(scores)))
    right = count_guesses(scores, included, guesses)
    low_tpr, high_fpr = rate_bounds(scores[included], scores[~included], float(np.median(scores)), confidence)
    in_one_run = one_run(len(scores), guesses, right, delta, confidence)
    bounds = (
        Bound("one run", in_one_run, confidence, ANY_DEPENDENCE),
        Bound(
            "Clopper-Pearson at the median",
            epsilon_from_rates(low_tpr, high_fpr, delta),
            confidence,
            "independent candidates",
        ),
    )
    claimed_epsilon = None if private is None else private.epsilon()
    title = f"{name}, {'no privacy' if claimed_epsilon is None else f'epsilon {claimed_epsilon:.3g}'}"
    settings: dict[str, float | int | str] = {"bank": audience.bank, "sampling_prob": plan.sampling.sampling_prob}
    return Finding(title, claimed_epsilon, delta, bounds, scores[included], scores[~included], settings)


def _describe(audience: Audience, what: str) -> str:
    inside = int(audience.included.sum())
    return (
        f"{audience.bank}: {audience.candidates.num_units} {what}, {inside} of them in by coins, beside "
        f"{audience.others.num_units} other customers"
    )
