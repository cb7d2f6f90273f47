"""Whether the adapter that a bank is handed is the one that follows from what it was handed before.

In a folder of its own the bank keeps, for each campaign, the digest of the adapter of every round that it was called
to. Two banks that were handed different adapters in one round see it by comparing ``adapter-followed`` in their
evidence, and find the coordinator's in its ``round-committed``.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedbank.adapter.state import AdapterSpec, Tensors, initial_state
from fedbank.adapter.update import RoundRequest
from fedbank.aggregation.adapter_bounds import Reach, check_adapter, largest_update
from fedbank.config.schema import AgreedConfig
from fedbank.durable import append_durable, read_lines
from fedbank.errors import RunError, UpdateError
from fedbank.proposal import server_step_of

_START_TOLERANCE = 1e-5
"""Of the first adapter's values: libraries and processors factorise a matrix the same but for the last bits."""
_FROZEN = "ffa"
"""The rule under which A stays as it was at the start."""


@dataclass(frozen=True, slots=True)
class CampaignReach:
    """What a campaign's terms say about its adapters: how the first one is drawn and how far they can get."""

    campaign: str
    seed: int
    reach: Reach


def campaign_reach(campaign: str, terms: AgreedConfig, spec: AdapterSpec) -> CampaignReach:
    """The same, read off the terms that all parties agreed on."""
    training, privacy, rules = terms.training, terms.privacy, terms.aggregation
    longest = largest_update(
        spec.num_trainable(),
        training.local_steps,
        training.rounds,
        training.optimizer,
        training.learning_rate,
        training.momentum,
        epsilon=privacy.epsilon if privacy.enabled else None,
        delta=privacy.delta,
        clip_norm=privacy.clip_norm,
    )
    return CampaignReach(campaign, terms.seed, Reach(spec, rules.rule, server_step_of(rules), longest))


class Lineage:
    """The adapters of one campaign as a bank, whose training lies in ``folder``, was handed them."""

    def __init__(self, folder: Path, campaign: CampaignReach, *, sync: bool = True) -> None:
        named = hashlib.sha256(campaign.campaign.encode()).hexdigest()
        self._path = folder / "adapters" / f"{named}.jsonl"
        self._campaign, self._sync = campaign, sync

    def follow(self, request: RoundRequest, base_digest: str) -> None:
        """Keep the adapter's digest, on disk, if the adapter follows from the earlier ones; called before a charge.

        Raises:
            UpdateError: it does not, or it is beyond what the terms allow. Nothing was kept.
            RunError: what was kept cannot be read or written.
        """
        number, kept = request.round, self._kept()
        if kept.get(number, base_digest) != base_digest:
            raise _broken(f"round {number} on the adapter {kept[number][:12]}, as before", base_digest)
        if kept and number not in kept and number < max(kept):
            raise _broken(f"a round after {max(kept)}", f"round {number}, which this bank was never called to")
        before = kept.get(number - 1, "" if number == 1 else request.previous)
        if request.previous != before:
            raise _broken(f"the adapter that follows on {before[:12] or 'nothing'}", request.previous or "nothing")
        self._check_start(number, request.adapter)
        check_adapter(self._campaign.reach, request.adapter, number - 1)
        if number not in kept:
            self._keep(number, base_digest)

    def _check_start(self, number: int, adapter: Tensors) -> None:
        """The first adapter is drawn from the public seed; a tensor that nobody trains stays as it was drawn."""
        reach = self._campaign.reach
        if number > 1 and reach.rule != _FROZEN:
            return
        start = initial_state(reach.spec, seed=self._campaign.seed)
        for pair in reach.spec.pairs:
            names = (pair.a_name,) if number > 1 else (pair.a_name, pair.b_name)
            if any(not np.abs(adapter[name] - start[name]).max() <= _START_TOLERANCE for name in names):
                raise _broken(f"the adapter's {pair.name} as the seed {self._campaign.seed} gives it", "another")

    def _kept(self) -> dict[int, str]:
        try:
            lines = [json.loads(line) for line in read_lines(self._path)]
            return {int(line["round"]): str(line["adapter"]) for line in lines}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"Expected the digests of earlier adapters in {self._path}, got something else ({error}). Restore it "
                "from a backup. Nothing was charged and nothing was trained."
            ) from error

    def _keep(self, number: int, base_digest: str) -> None:
        line = json.dumps({"adapter": base_digest, "round": number}, sort_keys=True).encode()
        try:
            append_durable(self._path, line, sync=self._sync)
        except OSError as error:
            raise RunError(
                f"Expected to keep the digest of an adapter in {self._path}, got: {error.strerror or error}. Free "
                "space or mend the permissions. Nothing was charged and nothing was trained."
            ) from error


def _broken(expected: str, got: str) -> UpdateError:
    return UpdateError(
        f"Expected {expected}, got {got:.80}: the coordinator has handed out an adapter that does not follow from the "
        "earlier ones. Compare evidence with the other banks. Nothing was charged and nothing was trained."
    )
