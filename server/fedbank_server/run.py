"""One campaign from proposal to result, on any grid: what ``fedbank server run`` does in its process.

Whatever ends the process, running it again with the same settings continues the same campaign.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid

from fedbank.adapter.export import save_adapter
from fedbank.adapter.state import AdapterSpec, initial_state
from fedbank.aggregation.norms import noise_norms, noise_std, update_norm_bounds
from fedbank.aggregation.rounds import GlobalState
from fedbank.aggregation.terms import CampaignTerms
from fedbank.config import CampaignConfig
from fedbank.consent import Consent
from fedbank.errors import ConfigError
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.proposal import Proposal, adapter_card
from fedbank.result import Result
from fedbank.sealing.keys import PublicKey, SigningKey
from fedbank_server.app import make_server_app
from fedbank_server.campaign import Campaign
from fedbank_server.campaign_folder import CampaignFolder
from fedbank_server.consortium import Consortium, Files, read_consortium
from fedbank_server.delivery import deliver
from fedbank_server.heads import HEADS, Heads
from fedbank_server.members import active_members
from fedbank_server.nodes import CoordinatorKeys
from fedbank_server.observer import Observer
from fedbank_server.parties import Asking, settle_parties
from fedbank_server.store import CampaignStore

_RUN_ID, _NODE_ID = 1, 1


@dataclass(frozen=True, slots=True)
class Prepared:
    """A campaign that can be run: everything but the grid."""

    folder: Path
    consortium: Consortium
    config: CampaignConfig
    proposal: Proposal
    spec: AdapterSpec
    kept: CampaignFolder
    keys: CoordinatorKeys


def prepare(folder: Path, config: CampaignConfig) -> Prepared:
    """Read and check everything that needs no bank.

    Raises:
        ConfigError: the settings are not within the consortium's terms.
        RunError: an earlier version began this campaign.
        ModelError: the base model's folder cannot be read.
    """
    consortium, base = read_consortium(folder), _base_folder(config)
    proposal = Proposal.of(consortium.name, base_digest(base), config)
    _check_terms(consortium, proposal)
    keys = CoordinatorKeys(SigningKey.load(Files(folder).coordinator_key), lambda bank: _member_key(folder, bank))
    kept = CampaignFolder.of(folder, proposal.campaign)
    kept.check_no_former(proposal)
    return Prepared(folder, consortium, config, proposal, proposal.adapter_spec(base), kept, keys)


def run_campaign(
    prepared: Prepared, grid: Grid, observer: Observer, stop: Callable[[], bool], say: Callable[[str], None]
) -> GlobalState | None:
    """Propose (unless it is settled who takes part), run the missing rounds, hand out the adapter.

    Returns the last committed state, ``None`` if it was stopped before the first round.

    Raises:
        RunError: too few banks accepted, or the campaign is paused: a person has to act.
    """
    kept, proposal, quorum = prepared.kept, prepared.proposal, prepared.consortium.terms.quorum
    asking = Asking(grid, prepared.keys, quorum, prepared.config.patience_s, observer, stop, say)
    accepted = settle_parties(prepared.folder, kept, proposal, asking)
    if accepted is None:
        return None
    roster = kept.roster(prepared.keys.own.public)
    terms = campaign_terms(prepared, accepted, roster.digest())
    store = CampaignStore(kept.state)
    initial = GlobalState(0, initial_state(prepared.spec, seed=proposal.terms.seed))
    heads = Heads(prepared.folder / HEADS)
    campaign = Campaign(terms, store, initial, observer, prepared.keys, stop=stop, status_path=kept.status, heads=heads)
    make_server_app(campaign)(grid, Context(_RUN_ID, _NODE_ID, {}, RecordDict(), {}))
    state = store.load(prepared.spec) or initial
    if state.round == terms.num_rounds:
        _finish(prepared, terms, state, grid, stop, say)
    return state


def _finish(
    prepared: Prepared,
    terms: CampaignTerms,
    state: GlobalState,
    grid: Grid,
    stop: Callable[[], bool],
    say: Callable[[str], None],
) -> None:
    """The adapter as a folder here, and at every bank that is there."""
    reference = prepared.config.model.name
    card = adapter_card(prepared.proposal, state.digest(), reference)
    save_adapter(prepared.kept.folder / "adapter", prepared.spec, state.adapter, base_reference=reference, card=card)
    say(f"The adapter {state.digest()} is in {prepared.kept.folder / 'adapter'}. Handing it out ...")
    banks = {bank for bank in terms.weights if prepared.keys.find_key(bank) is not None}
    result = Result(prepared.proposal.campaign, state.round, state.adapter)
    received = deliver(grid, result, terms.context, prepared.keys, banks, prepared.config.patience_s, stop)
    for bank in sorted(banks):
        say(f"{bank} {'has it' if bank in received else 'has NOT received it: run this again while it is online'}.")


def campaign_terms(prepared: Prepared, accepted: Mapping[str, Consent], roster_digest: str) -> CampaignTerms:
    """What the rounds go by: the proposal, the consortium's terms, and the checked acceptances of the banks."""
    proposal, rules = prepared.proposal, prepared.consortium.terms
    training = proposal.terms.training
    declared = proposal.terms.aggregation.weights == "declared"
    training_numbers = (
        prepared.spec.num_trainable(),
        training.local_steps,
        training.optimizer,
        training.learning_rate,
        training.momentum,
    )
    return CampaignTerms(
        proposal.campaign,
        prepared.spec,
        proposal.terms.aggregation.rule,
        proposal.server_step(),
        training.rounds,
        training.local_steps,
        {bank: float(found.acceptance.declared_size) if declared else 1.0 for bank, found in accepted.items()},
        {bank: found.acceptance.plan_digest for bank, found in accepted.items()},
        consortium=proposal.consortium,
        roster_digest=roster_digest,
        quorum=min(rules.quorum, len(accepted)),
        deadline=rules.deadline,
        max_attempts=prepared.config.attempts,
        norm_bounds=update_norm_bounds(*training_numbers, {bank: found.plan for bank, found in accepted.items()}),
        noise_norms=noise_norms(*training_numbers, {bank: noise_std(found.plan) for bank, found in accepted.items()}),
        max_share=rules.max_share,
    )


def _check_terms(consortium: Consortium, proposal: Proposal) -> None:
    """A campaign keeps to what every bank agreed to on joining."""
    terms, privacy = consortium.terms, proposal.terms.privacy
    agreed = (terms.base_model_digest, terms.plan.target_epsilon, terms.plan.delta, terms.plan.unit)
    if agreed[0] not in (None, proposal.base_digest):
        raise ConfigError(
            f"Expected a campaign on the consortium's base model {str(agreed[0])[:16]}, got one on "
            f"{proposal.base_digest[:16]}. Set model.path to that model's folder."
        )
    if agreed[1] is not None and not (privacy.epsilon is not None and privacy.epsilon <= agreed[1]):
        raise ConfigError(
            f"Expected privacy.epsilon of at most {agreed[1]}, as in consortium.yaml, got {privacy.epsilon}. Lower it."
        )
    if agreed[2] is not None and not (privacy.delta is not None and privacy.delta <= agreed[2]):
        raise ConfigError(
            f"Expected privacy.delta of at most {agreed[2]}, as in consortium.yaml, got {privacy.delta}. Set it."
        )
    if agreed[3] == "customer" and privacy.unit != "customer":
        raise ConfigError(f"Expected privacy.unit=customer, as in consortium.yaml, got {privacy.unit}.")


def _base_folder(config: CampaignConfig) -> Path:
    if config.model.path is not None:
        return Path(config.model.path)
    if config.model.identifier is not None:
        raise ConfigError(
            f"Expected model=tiny or model=path, got model={config.model.name}. The coordinator needs the folder of "
            "the base model, for its digest and the shapes of its layers: set model=path model.path=DIR."
        )
    return tiny_folder()


def _member_key(folder: Path, bank: str) -> PublicKey | None:
    """The key of an active member as the roster says now: a bank that is revoked is out of its campaign too."""
    return active_members(folder).find_key(bank)
