"""A coordinator and banks as they are deployed, for benchmarks: real listeners, TLS, nodes, seals, policies, evidence.

Nothing is trained and no model is loaded: a bank's update is one value repeated, so that what a round takes is what
everything around training takes. ``python -m simulations.benchmarks.deployed FOLDER BANK...`` is a process with the
nodes of some banks in it; they find what the campaign is about in ``FOLDER/campaign.json``.
"""

import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message

from fedbank.adapter.heads import NO_LINES, LedgerHead
from fedbank.adapter.state import AdapterSpec, LoraPair, Released, digest
from fedbank.adapter.update import COORDINATOR, RoundRequest, Update
from fedbank.aggregation.admit import l2_norm, max_message_bytes
from fedbank.aggregation.rounds import GlobalState
from fedbank.aggregation.server_step import ServerStep
from fedbank.aggregation.terms import CampaignTerms
from fedbank.evidence.log import EVIDENCE, EvidenceLog
from fedbank.sealing.envelope import open_sealed, seal
from fedbank.sealing.keys import SigningKey
from fedbank_client.app import make_client_app, raise_it
from fedbank_client.connection import Access
from fedbank_client.node import NodeSettings, run_node
from fedbank_client.policy import CampaignOffer, Policy, read_policy
from fedbank_client.progress import ProgressWatch
from fedbank_client.seal import BankSeal
from fedbank_server.campaign import Campaign
from fedbank_server.evidence import EvidenceObserver
from fedbank_server.nodes import CoordinatorKeys, Timing
from fedbank_server.observer import CommittedRound
from fedbank_server.post import TRAIN
from fedbank_server.store import CampaignStore

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "deployment"))
from consortium import Consortium, wait_for

CAMPAIGN = "benchmark"
_RANK, _PAIRS = 16, 40
_SETTINGS = "campaign.json"
_POLICY = """max_epsilon_per_campaign: 8.0
max_epsilon_total: 8.0
delta: 1.0e-5
unit: customer
max_adapter_rank: 16
max_steps_per_round: 1
base_model_digests: any
training_hours: any
time_zone: UTC
accept_plain_updates: true
disclose_epsilon: nothing
"""


def terms_of(banks: Sequence[str], parameters: int, rounds: int) -> CampaignTerms:
    """A campaign over an adapter of ``parameters`` trained ones, fp32, in 40 tensors."""
    pairs = tuple(LoraPair(f"layers.{n}.q_proj", _RANK, parameters // (_PAIRS * _RANK)) for n in range(_PAIRS))
    spec = AdapterSpec(_RANK, 32.0, ("q_proj",), pairs, "B")
    weights, plans = dict.fromkeys(banks, 1.0), dict.fromkeys(banks, "plan")
    return CampaignTerms(CAMPAIGN, spec, "ffa", ServerStep(), rounds, 1, weights, plans, max_update_norm=1e6)


def first_state(spec: AdapterSpec) -> GlobalState:
    """Zeros."""
    return GlobalState(0, {name: np.zeros(shape, np.float32) for name, shape in spec.shapes().items()})


def key_of(name: str) -> SigningKey:
    """Of a bank or the coordinator; it guards nothing."""
    return SigningKey.derived("benchmark", name)


def coordinator_keys(banks: Sequence[str]) -> CoordinatorKeys:
    """The coordinator's key, and those of its members."""
    return CoordinatorKeys(key_of(COORDINATOR), {name: key_of(name).public for name in banks}.get)


class OneValueBank:
    """A bank whose update is one value repeated: nothing is trained."""

    def __init__(self, name: str, terms: CampaignTerms) -> None:
        self.name, self._terms = name, terms

    def train(self, request: bytes) -> Update:
        """The update."""
        parsed = RoundRequest.from_bytes(request, self._terms.adapter)
        agreed = (parsed.campaign, parsed.round, self.name, digest(parsed.adapter), parsed.plan_digest)
        shapes = self._terms.adapter.trainable_shapes()
        return Update(*agreed, 1, Released({name: np.full(shape, 1e-3, np.float32) for name, shape in shapes.items()}))

    def head(self) -> LedgerHead:
        """Of no ledger: nothing is charged."""
        return NO_LINES


@dataclass
class Meter:
    """Seconds that parts of this process took, by part; what runs inside another part is that part's."""

    seconds: dict[str, float] = field(default_factory=dict)
    _inside: threading.local = field(default_factory=threading.local)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, whose calls are counted as ``part``."""

        @wraps(function)
        def call(*args: Any, **named: Any) -> Any:
            if getattr(self._inside, "part", None) is not None:
                return function(*args, **named)
            self._inside.part, began = part, time.perf_counter()
            try:
                return function(*args, **named)
            finally:
                self._inside.part = None
                self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began

        return call

    def watch(self) -> "Meter":
        """Count every part of the security layer in all of FedBank's modules that are loaded by now."""
        parts = ((seal, "seal"), (open_sealed, "open"), (digest, "hash"), (l2_norm, "norm"), (read_policy, "policy"))
        for module in [found for name, found in sys.modules.items() if name.startswith(("fedbank", __name__))]:
            for name, value in list(vars(module).items()):
                for function, part in parts:
                    if value is function:
                        setattr(module, name, self.timed(part, function))
        for owner, name, part in ((EvidenceLog, "append", "evidence"), (Policy, "check", "policy")):
            setattr(owner, name, self.timed(part, getattr(owner, name)))
        return self


class Deployment:
    """A SuperLink in its process, the nodes of banks in ``processes`` others, the campaign's grid in this one."""

    def __init__(self, folder: Path, banks: int, parameters: int, *, processes: int) -> None:
        self.banks = [f"bank-{number:02d}" for number in range(1, banks + 1)]
        self.folder, self._parameters, self._processes = folder, parameters, processes
        largest = max_message_bytes(self.terms(1).adapter)
        self._limits = {"max_object_bytes": largest, "body_timeout_s": 600.0}
        self._largest = largest
        self.consortium = Consortium(folder, tuple(self.banks), **self._limits)
        self._nodes: list[subprocess.Popen[bytes]] = []

    def terms(self, rounds: int) -> CampaignTerms:
        """Of the campaign that the banks agreed to."""
        return terms_of(self.banks, self._parameters, rounds)

    @contextmanager
    def running(self) -> Iterator[Any]:
        """The grid of a deployment whose banks are all online; everything is stopped afterwards."""
        settings = {"banks": self.banks, "parameters": self._parameters, "public": self.consortium.public}
        (self.folder / _SETTINGS).write_text(json.dumps({**settings, "max_bytes": 2 * self._largest}))
        try:
            self.consortium.start_server()
            for number in range(self._processes):
                command = [
                    sys.executable,
                    "-m",
                    __spec__.name,
                    str(self.folder),
                    *self.banks[number :: self._processes],
                ]
                with (self.folder / f"nodes-{number}.log").open("ab") as log:
                    self._nodes.append(subprocess.Popen(command, stdout=log, stderr=log))
            with self.consortium.grid(max_payload_bytes=self._largest) as grid:
                wait_for(lambda: len(grid.banks()) == len(self.banks), 120, self._logs)
                yield grid
        finally:
            self._stop()

    def meters(self) -> dict[str, dict[str, float]]:
        """Seconds by part of every process of banks, which has ended."""
        return {path.stem: json.loads(path.read_text()) for path in sorted(self.folder.glob("nodes-*.json"))}

    def server_pid(self) -> int:
        """Of the SuperLink's process."""
        return int(self.consortium.processes["serve"].pid)

    def _stop(self) -> None:
        for process in self._nodes:
            process.send_signal(signal.SIGTERM)
        for process in self._nodes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.consortium.stop()

    def _logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(self.folder.glob("*.log")))


class Commits(EvidenceObserver):
    """Keeps the evidence of a campaign as a deployed one does, notes when its rounds are committed, and tells."""

    def __init__(self, log: EvidenceLog, on_commit: Callable[[int], None]) -> None:
        super().__init__(log, CAMPAIGN, lambda text: None)
        self.moments: list[float] = []
        self._on_commit = on_commit

    def round_committed(self, committed: CommittedRound) -> None:
        """Evidence, and the time."""
        super().round_committed(committed)
        self.moments.append(time.perf_counter())
        self._on_commit(committed.line.round)


def run_campaign(
    deployment: Deployment, grid: Any, rounds: int, on_commit: Callable[[int], None] = lambda number: None
) -> list[float]:
    """One campaign with its store and evidence on disk; the moments at which its rounds were committed."""
    folder, terms = deployment.folder / "coordinator", deployment.terms(rounds)
    folder.mkdir()
    store, keys = CampaignStore(folder / "state.safetensors"), coordinator_keys(deployment.banks)
    with EvidenceLog(folder / EVIDENCE, "benchmark/coordinator", key_of(COORDINATOR)) as log:
        commits = Commits(log, on_commit)
        Campaign(terms, store, first_state(terms.adapter), commits, keys, timing=Timing(enrol_timeout_s=900.0)).run(
            grid
        )
    return commits.moments


def serve_banks(folder: Path, banks: Sequence[str]) -> None:
    """The nodes of ``banks`` in this process, one thread each, until SIGTERM; then their meters are written."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    settings = json.loads((folder / _SETTINGS).read_text())
    meter, one_at_a_time = Meter(), threading.Lock()
    nodes = []
    with ExitStack() as stack:
        for bank in banks:
            app = stack.enter_context(bank_app(folder, bank, settings, one_at_a_time))
            access = Access(
                f"127.0.0.1:{settings['public']}",
                folder / "pki" / "ca.pem",
                *(folder / "pki" / f"{bank}{ending}" for ending in (".pem", ".key.pem", ".node")),
                max_message_bytes=settings["max_bytes"],
                timeout_s=300.0,
            )
            node = NodeSettings(access, folder / bank / "status.json", folder / bank / "home")
            nodes.append(threading.Thread(target=run_node, args=(node, app, stop), name=bank))
        meter.watch()
        for thread in nodes:
            thread.start()
        for thread in nodes:
            thread.join()
    (folder / f"nodes-{banks[0]}.json").write_text(json.dumps(meter.seconds))


@contextmanager
def bank_app(folder: Path, bank: str, settings: dict[str, Any], one_at_a_time: threading.Lock) -> Iterator[Any]:
    """What a deployed bank answers rounds with, around a bank that trains nothing."""
    from fedbank_client.desk import PolicedBank  # late: it brings torch, which a coordinator does without

    terms = terms_of(settings["banks"], settings["parameters"], 1)
    home = folder / bank
    home.mkdir(exist_ok=True)
    (home / "policy.yaml").write_text(_POLICY)
    offer = CampaignOffer(CAMPAIGN, 4.0, 1e-6, "customer", _RANK, "ab" * 32, 1, "plain")
    bank_seal = BankSeal(bank, key_of(bank), terms.context, key_of(COORDINATOR).public)
    with EvidenceLog(home / EVIDENCE, f"benchmark/{bank}", key_of(bank)) as log:

        def note(action: str, about: str, result: str) -> None:
            log.append(action, about, result, bank)

        trainer = PolicedBank(
            OneValueBank(bank, terms), offer, home / "policy.yaml", note, lambda: datetime.now(UTC), ProgressWatch()
        )
        app = make_client_app(lambda _: trainer, raise_it, lambda _: bank_seal)

        def answer(message: Message, context: Context) -> Message:
            at_work = message.metadata.message_type == TRAIN  # memory holds one such bank in every process
            with one_at_a_time if at_work else nullcontext():
                return app(message, context)

        yield answer


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    serve_banks(Path(sys.argv[1]), sys.argv[2:])
