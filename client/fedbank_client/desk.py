"""Where a bank decides: which campaigns it takes part in, by its own policy, and which bank answers in each.

The base model is loaded once and stays. What was agreed is on disk before the coordinator learns of it, so a restarted
bank goes on where it was.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedbank.adapter.export import save_adapter
from fedbank.adapter.heads import LedgerHead
from fedbank.adapter.lora import AdaptedModel, LoraSettings
from fedbank.adapter.state import digest
from fedbank.adapter.update import COORDINATOR, Disclosure, Update
from fedbank.config.schema import ClientConfig
from fedbank.data.encode import EncodedUnits, Encoder
from fedbank.data.units import Unit
from fedbank.durable import write_atomic
from fedbank.errors import FedBankError, RunError, UpdateError
from fedbank.model.loading import BaseModel
from fedbank.privacy.ledger import LEDGER, Charge, Ledger, Steps
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan, TrainingPlan, declared_size
from fedbank.proposal import MAX_BYTES, PROPOSAL, Acceptance, Proposal, adapter_card, unpack
from fedbank.result import RESULT, Receipt, Result
from fedbank.sealing.envelope import open_sealed
from fedbank.sealing.keys import PublicKey
from fedbank.sealing.roster import MAX_ROSTER_BYTES, Roster, read_roster
from fedbank_client.bank import Bank, Participation
from fedbank_client.disclosure import disclosure
from fedbank_client.home import TRAINING, Home
from fedbank_client.lineage import Lineage, campaign_reach
from fedbank_client.policy import CampaignOffer, ClosedError, read_policy
from fedbank_client.progress import ProgressWatch
from fedbank_client.seal import BankSeal
from fedbank_client.self_test import MachineTest
from fedbank_client.standing import StoppedError, check_standing
from fedbank_client.terms import local_settings, lora_settings, training_plan, units_of

_LEAST_DELTA = 1e-30
"""Stands for a delta that the plan will choose."""
Note = Callable[[str, str, str], None]
"""Writes an action, a digest or public name and a result into the bank's evidence."""


@dataclass(frozen=True, slots=True, eq=False)
class Resources:
    """What a bank trains with, loaded once: ``base_digest`` names the base model, ``units`` are its customers."""

    base: BaseModel
    base_digest: str
    tokenizer: Any
    units: list[Unit]


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """A campaign that the bank agreed to, with the roster that its messages are signed for."""

    proposal: Proposal
    roster: Roster
    plan: TrainingPlan
    data: EncodedUnits


def offer_of(proposal: Proposal, plan: TrainingPlan | None) -> CampaignOffer:
    """The campaign as the bank's policy looks at it; without privacy it offers an infinite epsilon.

    Without a ``plan``, before one is made: with the values that the terms give it.
    """
    terms = proposal.terms
    epsilon, delta = math.inf, 1.0
    if isinstance(plan, PrivacyPlan):
        epsilon, delta = plan.target_epsilon, plan.delta
    elif terms.privacy.epsilon is not None:
        epsilon, delta = terms.privacy.epsilon, terms.privacy.delta or _LEAST_DELTA
    return CampaignOffer(
        proposal.campaign,
        epsilon,
        delta,
        terms.privacy.unit,
        terms.adapter.rank,
        proposal.base_digest,
        terms.training.local_steps,
        "plain",
    )


class PolicyLimit:
    """The ledger's limits as ``policy.yaml`` says at every charge: it may have become stricter since the last."""

    def __init__(self, policy: Path) -> None:
        self._policy = policy

    def check(self, charge: Charge, spent: Steps) -> None:
        """``PrivacyError`` if ``charge`` would pass a limit."""
        read_policy(self._policy).budget().check(charge, spent)


class Desk:
    """One bank's decisions, in its folder ``home``; ``note`` keeps the evidence of them, ``say`` tells who watches.

    ``now`` and ``stream_for_round`` are for tests to replace, in code only: a deployed bank's noise is secure.
    """

    def __init__(
        self,
        home: Home,
        config: ClientConfig,
        resources: Resources,
        note: Note,
        *,
        say: Callable[[str], None] = lambda line: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        stream_for_round: Callable[[int], RandomStream] | None = None,
    ) -> None:
        self._home, self._config, self._resources = home, config, resources
        self._note, self._now, self._stream_for_round = note, now, stream_for_round
        self.progress = ProgressWatch(now)
        """How far the round at work is."""
        self._machine = MachineTest(say)
        self._key = home.load_signing_key()
        self._encoded: dict[int, EncodedUnits] = {}
        self._attached: tuple[LoraSettings, AdaptedModel] | None = None
        self._current: tuple[Agreement, Bank] | None = None

    @property
    def name(self) -> str:
        """The bank's name."""
        return self._home.bank

    def prepare(self) -> None:
        """Try the machine on the campaign that was agreed to, if there is one: what it cannot do is said at its start.

        ``RunError`` as a round of it would raise.
        """
        if self._current_name() is not None:
            self.open_bank()

    def consider(self, content: bytes) -> Acceptance:
        """The bank's consent to a signed proposal, kept on disk; the same proposal is accepted any number of times.

        Raises:
            UpdateError: it is not the coordinator's, about another base model or consortium, or of a campaign that is
                over: whoever recorded it must not be able to take the bank out of the one that goes on.
            PrivacyError: the bank's policy does not allow it, or the bank has stopped (``standing``). The bank stays up
                and keeps what it agreed to before.
        """
        keys: dict[str, PublicKey] = {COORDINATOR: self._home.coordinator_key}
        context = {"consortium": self._home.consortium}
        opened = open_sealed(content, PROPOSAL, keys.get, context, MAX_BYTES + MAX_ROSTER_BYTES + 4)
        signed_roster, proposal = unpack(bytes(opened.payload))
        try:
            check_standing(self._home.folder / TRAINING)
            agreement = self._agree(self._home.store_roster(signed_roster), proposal)
        except Exception as error:
            self._note("campaign-refused", proposal.campaign, _reason(error))
            raise
        self._keep(agreement, signed_roster)
        self._note("campaign-accepted", proposal.campaign, f"under plan {agreement.plan.digest()}")
        self._current = None
        return self._acceptance(agreement)

    def receive(self, content: bytes) -> Receipt:
        """Keep the campaign's final adapter as a folder that PEFT loads.

        Raises:
            UpdateError: it is not the coordinator's, or not of the campaign that was agreed to last.
        """
        agreement, _ = self._open()
        proposal, spec = agreement.proposal, self._model_of(agreement).spec
        result = Result.from_bytes(self.seal().open(RESULT, content), spec)
        if (result.campaign, result.rounds) != (proposal.campaign, proposal.terms.training.rounds):
            raise UpdateError(
                f"Expected the result of {proposal.campaign} after its last round, got that of {result.campaign!r:.80} "
                f"after {result.rounds}. It was not kept."
            )
        found, folder = digest(result.adapter), self._folder(proposal.campaign) / "adapter"
        reference = self._resources.base.reference
        save_adapter(
            folder, spec, result.adapter, base_reference=reference, card=adapter_card(proposal, found, reference)
        )
        self._note("result-received", found, f"of {proposal.campaign}")
        return Receipt(found)

    def open_bank(self) -> "PolicedBank":
        """Whoever trains in the campaign that was agreed to last; ``UpdateError`` if there is none.

        The machine is tried first, once: ``RunError`` if it cannot keep customers apart at all.
        """
        agreement, bank = self._open()
        own = local_settings(agreement.proposal.terms.training)
        bank.compute(self._machine.settings_for(self._model_of(agreement), own, self._resources.base.device))
        offer = offer_of(agreement.proposal, agreement.plan)
        return PolicedBank(bank, offer, self._home.policy, self._note, self._now, self.progress)

    def seal(self) -> BankSeal:
        """How everything is signed and opened in the campaign that was agreed to last."""
        agreement, _ = self._open()
        context = {
            "consortium": self._home.consortium,
            "campaign": agreement.proposal.campaign,
            "roster": agreement.roster.digest(),
        }
        return BankSeal(self.name, self._key, context, self._home.coordinator_key)

    def _open(self) -> tuple[Agreement, Bank]:
        if self._current is None:
            agreement = self._read_agreement()
            self._current = agreement, self._open_bank(agreement)
        return self._current

    def _agree(self, roster: Roster, proposal: Proposal) -> Agreement:
        self._check_parties(roster, proposal)
        self._check_order(proposal.campaign)
        # A campaign may be agreed to at any hour; only rounds keep to the policy's hours.
        policy = replace(read_policy(self._home.policy), hours=None)
        policy.check(offer_of(proposal, None), self._now())  # before anything is computed for it
        agreement = self._bind(roster, proposal)
        policy.check(offer_of(proposal, agreement.plan), self._now())
        return agreement

    def _check_parties(self, roster: Roster, proposal: Proposal) -> None:
        """It is about this consortium, this bank as it is now, and the base model that is loaded."""
        if proposal.consortium != self._home.consortium:
            raise UpdateError(
                f"Expected a campaign of {self._home.consortium}, got one of {proposal.consortium}. It was refused."
            )
        if roster.find_key(self.name) != self._key.public:
            raise UpdateError(
                f"Expected a roster with {self.name} and its signing key in it, got another. It was refused."
            )
        if proposal.base_digest != self._resources.base_digest:
            raise UpdateError(
                f"Expected a campaign on this bank's base model {self._resources.base_digest[:16]}, got one on "
                f"{proposal.base_digest[:16]}. Start the client with that model, if the policy allows it."
            )

    def _check_order(self, campaign: str) -> None:
        """It is the current campaign, a new one, or an earlier one while the current one has not begun."""
        current, folder = self._current_name(), self._folder(campaign)
        if campaign == current or not (folder / "proposal.json").exists():
            return
        if (folder / "adapter").exists():
            raise UpdateError(
                f"Expected a campaign that goes on, got {campaign}, whose adapter this bank has received. It was "
                "refused; begin another campaign, under another name."
            )
        charges = Ledger(self._home.folder / TRAINING / LEDGER, self.name).charges()
        if current is not None and any(charge.campaign == current for charge in charges):
            raise UpdateError(
                f"Expected to go on with {current}, got {campaign}, which {self.name} left for it. It was refused; "
                "begin another campaign, under another name."
            )

    def _bind(self, roster: Roster, proposal: Proposal) -> Agreement:
        """The bank's own data and plan for ``proposal``; what cannot change the result is the bank's own setting."""
        terms = proposal.terms
        data = units_of(self._encode(terms.max_length), terms.privacy.unit)
        plan = training_plan(terms.privacy, terms.training, data.num_units)
        own = replace(terms.training, micro_batch=self._config.micro_batch, per_example=self._config.per_example)
        return Agreement(replace(proposal, terms=replace(terms, training=own)), roster, plan, data)

    def _encode(self, max_length: int) -> EncodedUnits:
        if max_length not in self._encoded:
            self._encoded.clear()  # customers' tokens are held once
            self._encoded[max_length] = Encoder(self._resources.tokenizer, max_length).encode(self._resources.units)
        return self._encoded[max_length]

    def _open_bank(self, agreement: Agreement) -> Bank:
        terms, model = agreement.proposal.terms, self._model_of(agreement)
        campaign, num_steps = agreement.proposal.campaign, terms.training.local_steps

        def disclose(charges: Sequence[Charge], campaign: str, delta: float) -> Disclosure | None:
            return disclosure(read_policy(self._home.policy).disclose_epsilon, charges, campaign, delta)

        return Bank(
            self.name,
            Participation(campaign, agreement.plan, local_settings(terms.training)),
            agreement.data,
            lambda: model,
            self._home.folder / TRAINING,
            stream_for_round=self._stream_for_round,
            device=self._resources.base.device,
            budget=PolicyLimit(self._home.policy),
            on_step=lambda number, done: self.progress.stepped(campaign, number, done, num_steps),
            disclose=disclose,
            lineage=Lineage(self._home.folder / TRAINING, campaign_reach(campaign, terms, model.spec)),
        )

    def _model_of(self, agreement: Agreement) -> AdaptedModel:
        terms = agreement.proposal.terms
        return self._attach(lora_settings(terms.adapter, terms.aggregation.rule))

    def _attach(self, settings: LoraSettings) -> AdaptedModel:
        """The one resident base model with this adapter; the one of another campaign is taken off first."""
        if self._attached is not None and self._attached[0] != settings:
            self._attached[1].peft_model.unload()
            self._attached = None
        if self._attached is None:
            self._attached = settings, AdaptedModel(self._resources.base.model, settings)
        return self._attached[1]

    def _acceptance(self, agreement: Agreement) -> Acceptance:
        plan = agreement.plan
        file, epsilon = (plan.to_json(), plan.target_epsilon) if isinstance(plan, PrivacyPlan) else ("", None)
        size = declared_size(agreement.data.num_units)
        return Acceptance(self.name, agreement.proposal.campaign, plan.digest(), file, size, epsilon)

    def _folder(self, campaign: str) -> Path:
        return self._home.folder / "campaigns" / campaign

    def _keep(self, agreement: Agreement, signed_roster: bytes) -> None:
        folder = self._folder(agreement.proposal.campaign)
        write_atomic(folder / "roster", signed_roster)
        write_atomic(folder / "proposal.json", agreement.proposal.to_bytes())
        write_atomic(folder.parent / "current", agreement.proposal.campaign.encode())

    def _current_name(self) -> str | None:
        current = self._home.folder / "campaigns" / "current"
        return current.read_text("utf-8") if current.exists() else None

    def _read_agreement(self) -> Agreement:
        current = self._current_name()
        if current is None:
            raise UpdateError(f"Expected a campaign that {self.name} has agreed to, got none yet. Nothing was trained.")
        folder = self._folder(current)
        try:
            roster = read_roster((folder / "roster").read_bytes(), self._home.coordinator_key)
            proposal = Proposal.from_bytes((folder / "proposal.json").read_bytes())
            if proposal.campaign != current:
                raise RunError(
                    f"Expected the terms of {current} in {folder}, got those of {proposal.campaign}. A campaign that "
                    "an earlier version began, named by 16 digits, cannot go on: they are too few to rely on. Nothing "
                    "was trained; the coordinator begins another one."
                )
            self._check_parties(roster, proposal)
            return self._bind(roster, proposal)
        except (OSError, UpdateError) as error:
            raise RunError(
                f"Expected what {self.name} agreed to in {folder}, got something else: {error} Remove the folder; the "
                "coordinator proposes the campaign again at its next start."
            ) from error


def _reason(error: Exception) -> str:
    """What the evidence says of a refusal: our own sentence. What others wrote may hold sizes of private data."""
    return str(error) if isinstance(error, FedBankError) and str(error) else type(error).__name__


class PolicedBank:
    """A bank whose policy file is read again before every round: it may have become stricter since.

    What it sent and what it refused is in its evidence before the coordinator learns of it.
    """

    def __init__(
        self,
        bank: Bank,
        offer: CampaignOffer,
        policy: Path,
        note: Note,
        now: Callable[[], datetime],
        progress: ProgressWatch,
    ) -> None:
        self.name = bank.name
        self._bank, self._offer, self._policy, self._note, self._now = bank, offer, policy, note, now
        self._progress = progress

    def train(self, request: bytes) -> Update:
        """The bank's update to one round; ``PrivacyError`` if its policy does not allow the campaign (any more)."""
        try:
            read_policy(self._policy).check(self._offer, self._now())
            update = self._bank.train(request)
        except Exception as error:
            stopped = "bank-stopped" if isinstance(error, StoppedError) else "round-refused"
            action = "round-postponed" if isinstance(error, ClosedError) else stopped
            self._note(action, self._offer.campaign, _reason(error))
            raise
        finally:
            self._progress.ended()
        where = f"{update.campaign}, round {update.round}"
        self._note("adapter-followed", update.base_digest, where)
        self._note("update-sent", digest(update.tensors), where)
        return update

    def head(self) -> LedgerHead:
        """The head of the bank's ledger as it is now."""
        return self._bank.head()
