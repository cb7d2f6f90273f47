"""A bank without a model: the real app, real keys and real messages, and an update that is a function of its inputs.

It keeps its finished update and its charges on disk as a real bank does, so that tests can ask what it was asked and
what it paid. NumPy only.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.clientapp import ClientApp

from fedbank.adapter.heads import NO_LINES, LedgerHead
from fedbank.adapter.state import AdapterSpec, LoraPair, Released, digest, initial_state
from fedbank.adapter.update import COORDINATOR, RoundRequest, Update
from fedbank.aggregation.rounds import GlobalState
from fedbank.aggregation.server_step import ServerStep
from fedbank.aggregation.terms import CampaignTerms
from fedbank.durable import append_durable, read_lines, write_atomic
from fedbank.sealing.keys import SigningKey
from fedbank_client.app import make_client_app
from fedbank_client.seal import BankSeal
from fedbank_server.nodes import CoordinatorKeys

NUM_STEPS = 5


def numeric_spec(pairs: int = 2, size: int = 8, rank: int = 2) -> AdapterSpec:
    """An adapter of ``pairs`` layers of ``size`` by ``size``; B is trained."""
    names = tuple(LoraPair(f"layers.{number}.q_proj", size, size) for number in range(pairs))
    return AdapterSpec(rank, 2.0 * rank, ("q_proj",), names, "B")


def key_of(name: str) -> SigningKey:
    """The signing key of a bank, or of the coordinator, in tests."""
    return SigningKey.derived("numeric", name)


def numeric_terms(banks: int = 3, rounds: int = 3, **options: object) -> CampaignTerms:
    """Terms of a campaign of banks ``bank-1`` ... with different weights, without a limit on a bank's share."""
    names = [f"bank-{number}" for number in range(1, banks + 1)]
    spec = options.pop("adapter", None) or numeric_spec()
    fields: dict[str, object] = {"consortium": "test", "roster_digest": "f" * 64, "max_share": 1.0, **options}
    return CampaignTerms(
        "spring",
        spec,  # type: ignore[arg-type]
        "ffa",
        ServerStep(),
        rounds,
        NUM_STEPS,
        {name: 1.0 + number for number, name in enumerate(names)},
        {name: f"plan-{name}" for name in names},
        **fields,  # type: ignore[arg-type]
    )


def numeric_keys(terms: CampaignTerms) -> CoordinatorKeys:
    """The coordinator's keys, with all banks of ``terms`` as active members."""
    return CoordinatorKeys(key_of(COORDINATOR), {bank: key_of(bank).public for bank in terms.weights}.get)


def first_state(terms: CampaignTerms) -> GlobalState:
    """The adapter that the campaign starts from."""
    return GlobalState(0, initial_state(terms.adapter, seed=0))


def numeric_change(terms: CampaignTerms, bank: str, round_number: int, base: str) -> Released:
    """What ``bank`` answers in a round: Gaussian values that depend on nothing else."""
    rng = np.random.default_rng([round_number, *bank.encode(), *bytes.fromhex(base)])
    shapes = terms.adapter.trainable_shapes()
    return Released({name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()})


@dataclass
class NumericBank:
    """Answers for one bank. ``folder`` holds ``asked`` and ``charged`` (a line each time) and the finished update.

    ``act`` may change an update before it is kept (a hostile bank) or raise; ``seconds`` is how long training takes.
    """

    name: str
    terms: CampaignTerms
    folder: Path
    seconds: float = 0.0
    ledger_head: LedgerHead = NO_LINES
    act: Callable[[Update], Update] = lambda update: update
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def train(self, request: bytes) -> Update:
        """The bank's update, charged once for a round, the same bytes every time."""
        parsed = RoundRequest.from_bytes(request, self.terms.adapter)
        if (parsed.campaign, parsed.plan_digest) != (self.terms.campaign, self.terms.plans[self.name]):
            raise ValueError("not what was agreed")
        with self._lock:
            base = digest(parsed.adapter)
            append_durable(self.folder / "asked", json.dumps([parsed.round, base]).encode(), sync=False)
            kept = self.folder / f"round-{parsed.round}-{base[:16]}"
            if not kept.exists():
                append_durable(self.folder / "charged", str(parsed.round).encode(), sync=False)
                time.sleep(self.seconds)
                change = numeric_change(self.terms, self.name, parsed.round, base)
                agreed = (self.terms.campaign, parsed.round, self.name, base, parsed.plan_digest, NUM_STEPS)
                write_atomic(kept, self.act(Update(*agreed, change)).to_bytes(), sync=False)
            return Update.from_bytes(kept.read_bytes(), self.terms.adapter)

    def head(self) -> LedgerHead:
        """What it tells of a ledger that it does not have."""
        return self.ledger_head

    def seal(self) -> BankSeal:
        """The bank's side of every envelope."""
        return BankSeal(self.name, key_of(self.name), self.terms.context, key_of(COORDINATOR).public)

    def asked(self) -> list[int]:
        """Rounds asked for, in order."""
        return [json.loads(line)[0] for line in read_lines(self.folder / "asked")]

    def charged(self) -> list[int]:
        """Rounds trained, in order."""
        return [int(line) for line in read_lines(self.folder / "charged")]


def numeric_app(bank: NumericBank, failures: list[Exception] | None = None) -> ClientApp:
    """The app of one bank: another call is another start of it. What goes wrong is kept in ``failures``."""
    inside: list[Exception] = [] if failures is None else failures
    open_bank: Callable[[Context], NumericBank] = lambda context: bank  # noqa: E731
    return make_client_app(open_bank, inside.append, lambda context: bank.seal())
