"""A bank's side of a campaign: charge, train, keep the finished update, answer.

What a crash costs. The charge is on disk before any noise is drawn and the finished update is on disk before it is
sent. A crash before the charge costs nothing. After the finished update is kept, the same bytes are sent again and
nothing is charged. In between, the same noise is drawn again, from the key that the bank keeps for the round
(``fedbank_client.round_keys``) or from a seed (simulation, tests): it is the same release and costs nothing. A round
whose update was kept or sent is therefore charged exactly once.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from fedbank.adapter.heads import LedgerHead
from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.state import digest
from fedbank.adapter.update import Disclosure, RoundRequest, Update
from fedbank.data.encode import EncodedUnits
from fedbank.durable import write_atomic
from fedbank.errors import PrivacyError, RunError, UpdateError
from fedbank.privacy.ledger import LEDGER, Charge, Ledger, SpendingLimit
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan, TrainingPlan
from fedbank.training.engines import check_engine, check_trainable
from fedbank.training.local import LocalSettings, train_round
from fedbank_client.lineage import Lineage
from fedbank_client.round_keys import RoundKeys
from fedbank_client.standing import Standing

_KEPT = 2
"""Finished updates of a campaign that are kept."""
_PLAIN = "-unprotected"
"""Ends the names of updates that were made without privacy, and without a charge."""


@dataclass(frozen=True, slots=True)
class Participation:
    """What a bank has agreed to for one campaign."""

    campaign: str
    plan: TrainingPlan
    settings: LocalSettings


class Bank:
    """One member bank with its data, its model and a folder of its own for ledger and finished updates.

    ``model`` is asked for in every round: threads that serve a bank in turn have a model each.
    ``stream_for_round`` supplies the randomness of a round. A deployed bank passes none: its noise is secure, from keys
    of its own. Only code, never a configuration, can pass another. ``budget`` are the bank's own
    limits over all of its campaigns, which share one ledger in ``folder``; ``None``: only each campaign's plan counts.
    ``on_step`` gets a round's number and how many of its steps are done, 0 when it begins. ``disclose`` makes what an
    update tells of the ledger, of all charges, the campaign and its delta. ``lineage`` looks whether the adapter that
    is handed out follows from the one before; every bank but those of tests has one.
    ``sync=False``, which only code can pass as well, spares a simulation the waiting for its disk.

    The folder holds the ledger, its head, the key of a round that is being computed, of each campaign the last two
    finished updates, already noised, and the digests of the adapters that came; and whether it has stopped
    (``fedbank_client.standing``). Nothing else that was computed from customers' records is ever written,
    whatever fails.
    """

    def __init__(
        self,
        name: str,
        participation: Participation,
        data: EncodedUnits,
        model: Callable[[], AdaptedModel],
        folder: Path,
        *,
        stream_for_round: Callable[[int], RandomStream] | None = None,
        device: torch.device,
        budget: SpendingLimit | None = None,
        sync: bool = True,
        on_step: Callable[[int, int], None] = lambda round_number, done: None,
        disclose: Callable[[Sequence[Charge], str, float], Disclosure | None] = lambda charges, campaign, delta: None,
        lineage: Lineage | None = None,
    ) -> None:
        self.name = name
        self._participation = participation
        self._plan_digest = participation.plan.digest()
        self._data, self._data_digest = data, data.digest()
        self._get_model = model
        self._folder = folder
        self._stream_for_round = stream_for_round
        self._keys = RoundKeys(folder / "keys", sync=sync)
        self._device = device
        self._sync = sync
        self._on_step, self._disclose = on_step, disclose
        self._ledger = Ledger(folder / LEDGER, name, limit=budget, sync=sync)
        self._standing = Standing(folder, self._ledger, name, sync=sync)
        self._lineage = lineage
        self._books_agree = False

    def head(self) -> LedgerHead:
        """The head of the bank's ledger, for the coordinator to keep and hand back."""
        return self._standing.head()

    @property
    def _model(self) -> AdaptedModel:
        return self._get_model()

    def compute(self, settings: LocalSettings) -> None:
        """From now on compute with ``settings``: those agreed to, but for how many customers at once."""
        self._participation = replace(self._participation, settings=settings)

    def train(self, request: bytes) -> Update:
        """The bank's update to one round.

        An update that was finished before is sent again, the same bytes, without training or charging.
        """
        parsed = RoundRequest.from_bytes(request, self._model.spec)
        self._check(parsed)
        self._standing.check(parsed.head, twin=parsed.twin)
        check_engine(self._model, self._participation.settings.per_example)
        check_trainable(self._model)
        base_digest = digest(parsed.adapter)
        if self._lineage is not None:
            self._lineage.follow(parsed, base_digest)
        if self._participation.plan.private and not self._books_agree:
            self._check_books()
        kept = self._finished(parsed.round, base_digest)
        if kept is not None:
            self._keys.destroy(parsed.campaign, parsed.round)  # a crash may have come in between
            return kept
        update = self._train(parsed, base_digest)
        self._keep(parsed.round, update.to_bytes())
        return update

    def _check(self, request: RoundRequest) -> None:
        agreed = self._participation.campaign
        if request.campaign != agreed:
            raise UpdateError(f"Expected a request of campaign {agreed!r}, got one of {request.campaign!r}.")
        plan = self._participation.plan
        if request.plan_digest != self._plan_digest:
            raise UpdateError(
                f"Expected a request under the plan that {self.name} agreed to ({self._plan_digest[:12]}), got one "
                f"under {request.plan_digest[:12]!r}. Nothing was trained and nothing was sent."
            )
        rounds = plan.sampling.num_steps // self._participation.settings.num_steps
        if not 1 <= request.round <= rounds:
            raise PrivacyError(
                f"Expected a round from 1 to {rounds}, as {self.name} agreed, got round {request.round}. "
                "Nothing was trained and nothing was sent."
            )

    def _train(self, request: RoundRequest, base_digest: str) -> Update:
        plan, settings = self._participation.plan, self._participation.settings
        stream, disclosed = self._stream(request, base_digest), None
        before = len(stream.releases)
        if isinstance(plan, PrivacyPlan):
            self._charge(request.round, base_digest, plan, stream.replay_id)
            disclosed = self._disclose(self._ledger.charges(), request.campaign, plan.delta)
        self._on_step(request.round, 0)
        change = train_round(
            self._model,
            self._data,
            plan,
            settings,
            request.adapter,
            stream=stream,
            device=self._device,
            on_step=partial(self._on_step, request.round),
        )
        if plan.private:
            self._check_charged(request.round, base_digest, len(stream.releases) - before)
        return Update(
            request.campaign,
            request.round,
            self.name,
            base_digest,
            self._plan_digest,
            settings.num_steps,
            change,
            disclosed,
            self._standing.head(),
        )

    def _stream(self, request: RoundRequest, base_digest: str) -> RandomStream:
        if self._stream_for_round is not None:
            return self._stream_for_round(request.round)
        return self._keys.stream(request.campaign, request.round, base_digest, self._data_digest)

    def _charge(self, round_number: int, base_digest: str, plan: PrivacyPlan, replay_id: str | None) -> None:
        event = plan.event(self._participation.settings.num_steps)
        charge = Charge(
            self._participation.campaign,
            round_number,
            base_digest,
            self._plan_digest,
            event.sampling_prob,
            event.noise_multiplier,
            event.num_steps,
            replay_id,
            plan.unit,
        )
        self._ledger.charge(charge, max_steps=plan.sampling.num_steps)

    def _check_charged(self, round_number: int, base_digest: str, executed: int) -> None:
        """The ledger, as it is on disk, holds this release with just as many steps as added noise."""
        release = (self._participation.campaign, round_number, base_digest, self._plan_digest)
        charged = [
            charge.num_steps
            for charge in self._ledger.charges()
            if (charge.campaign, charge.round, charge.base_digest, charge.plan_digest) == release
        ]
        if charged[-1:] != [executed]:
            raise RunError(
                f"Expected the {charged[-1] if charged else 0} steps that {self.name} has charged for round "
                f"{round_number}, got {executed}. This version of FedBank is damaged: install it again. Nothing was "
                "sent."
            )

    def _path(self, round_number: int) -> Path:
        """Campaigns may name themselves as they like and run side by side: none touches another's file."""
        campaign = hashlib.sha256(self._participation.campaign.encode()).hexdigest()
        plain = "" if self._participation.plan.private else _PLAIN
        return self._folder / "finished" / f"{campaign}-round-{round_number:05d}{plain}.safetensors"

    def _finished(self, round_number: int, base_digest: str) -> Update | None:
        path = self._path(round_number)
        if not path.exists():
            return None
        try:
            kept = Update.from_bytes(path.read_bytes(), self._model.spec)
        except UpdateError as error:
            raise RunError(
                f"Expected the finished update of round {round_number} in {path}, got a damaged file. Delete it to "
                "train the round again, which is charged again."
            ) from error
        agreed = (self._participation.campaign, self._plan_digest, base_digest)
        return kept if (kept.campaign, kept.plan_digest, kept.base_digest) == agreed else None

    def _check_books(self) -> None:
        """A finished update without its charge: ledger and head were both replaced by older copies, or removed."""
        charges = self._ledger.charges()
        charged = {(c.campaign, c.round, c.base_digest, c.plan_digest) for c in charges}
        for path in sorted(self._path(0).parent.glob("*.safetensors")):
            kept = _metadata(path)
            release = tuple(kept.get(name) for name in ("campaign", "round", "base_digest", "plan_digest"))
            if kept and not path.stem.endswith(_PLAIN) and release not in charged:
                raise PrivacyError(
                    f"Expected the ledger of {self.name} to hold round {kept['round']} of {kept['campaign']}, whose "
                    "finished update is kept, got no such charge: the ledger was replaced by an older copy or lost. "
                    "Put back the newest one. Nothing was trained and nothing was sent."
                )
        self._books_agree = True

    def _keep(self, round_number: int, update: bytes) -> None:
        """Keep the newest update and the one before: a call for that round may still be on its way, and must not be
        charged again. The rounds before those two are over.
        """
        path = self._path(round_number)
        try:
            write_atomic(path, update, mode=0o600, sync=self._sync)
        except OSError as error:
            raise RunError(
                f"Expected to keep the finished update of round {round_number}, got: {error.strerror or error}. Free "
                "space and ask for the round again: it is charged once. Nothing was sent."
            ) from error
        self._keys.destroy(self._participation.campaign, round_number)
        ours = path.name.replace(f"-round-{round_number:05d}", "-round-?????")
        for over in sorted(path.parent.glob(ours))[:-_KEPT]:  # by number: a bank may have missed rounds
            if over != path:
                over.unlink(missing_ok=True)
        for left in path.parent.glob(f".{path.name}.*"):  # by a crash in the middle of writing
            left.unlink(missing_ok=True)


def _metadata(path: Path) -> dict[str, object]:
    """The public metadata of a kept update, without reading its tensors; of a damaged file, nothing."""
    try:
        with safe_open(path, framework="np") as file:
            metadata: dict[str, object] = json.loads(file.metadata()["fedbank"])
            return dict(metadata)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return {}
