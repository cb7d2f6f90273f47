"""How much memory the coordinator's process needs for a round of 20 banks, and how much disk it leaves.

The real ``Campaign`` with its store on disk, on a grid whose banks are other processes and whose replies wait in files:
what is measured is the coordinator alone, without Flower's SuperLink. Prints one JSON line.
``python -m simulations.benchmarks.coordinator_memory [--banks 20] [--parameters 4000000] [--rounds 2]``
"""

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedbank.adapter.state import AdapterSpec, LoraPair, Released, digest
from fedbank.adapter.update import COORDINATOR, PAYLOAD, RECORD, RoundRequest, Update
from fedbank.aggregation.rounds import GlobalState
from fedbank.aggregation.server_step import ServerStep
from fedbank.aggregation.terms import CampaignTerms
from fedbank.sealing.keys import SigningKey
from fedbank_client.app import make_client_app
from fedbank_client.seal import BankSeal
from fedbank_server.campaign import Campaign
from fedbank_server.nodes import CoordinatorKeys
from fedbank_server.observer import Observer
from fedbank_server.store import CampaignStore
from fedbank_simulations.inline import InlineGrid

_RANK, _PAIRS = 16, 40


class BanksOnDisk(InlineGrid):
    """Every bank's answer is made in a process of its own and waits in a file, as with a SuperLink and real banks."""

    def __init__(self, terms: CampaignTerms, folder: Path) -> None:
        super().__init__(ClientApp(), {node: {} for node in range(2, 2 + len(terms.weights))})
        self._banks = dict(zip(self.get_node_ids(), sorted(terms.weights), strict=True))
        self._terms, self._folder = terms, folder
        self._waiting: dict[str, Message] = {}
        self._app = make_client_app(self._bank, _raise, self._seal)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Let the bank work at once."""
        ids = []
        for message in messages:
            message_id = str(uuid4())
            message.metadata.__dict__["_message_id"] = message_id
            pid = os.fork()
            if pid == 0:
                self._answer_to_file(message, message_id)
            if os.waitpid(pid, 0)[1]:
                raise RuntimeError("a bank failed; its error is above")
            ids.append(message_id)
            bare = Message(RecordDict({}), message.metadata.dst_node_id, message.metadata.message_type)
            bare.metadata.__dict__["_message_id"] = message_id
            self._waiting[message_id] = bare
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """One reply at a time."""
        message_id = next((found for found in message_ids if found in self._waiting), None)
        if message_id is None:
            return []
        path = self._folder / message_id
        content = RecordDict({RECORD: ConfigRecord({PAYLOAD: path.read_bytes()})})
        path.unlink()
        return [Message(content, reply_to=self._waiting.pop(message_id))]

    def _answer_to_file(self, message: Message, message_id: str) -> None:
        code = 1
        try:
            reply = self._app(message, Context(1, message.metadata.dst_node_id, {}, RecordDict(), {}))
            payload = reply.content.config_records[RECORD][PAYLOAD]
            (self._folder / message_id).write_bytes(payload)  # type: ignore[arg-type]
            code = 0
        except Exception as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            raise
        finally:
            os._exit(code)

    def _bank(self, context: Context) -> "OneValueBank":
        return OneValueBank(self._banks[context.node_id], self._terms)

    def _seal(self, context: Context) -> BankSeal:
        bank = self._banks[context.node_id]
        return BankSeal(bank, _key(bank), self._terms.context, _key(COORDINATOR).public)


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


def measure(banks: int, parameters: int, rounds: int) -> dict[str, object]:
    """One campaign; ``parameters`` are trained ones, fp32."""
    size = parameters // (_PAIRS * _RANK)
    pairs = tuple(LoraPair(f"layers.{number}.q_proj", _RANK, size) for number in range(_PAIRS))
    names = [f"bank-{number:02d}" for number in range(1, banks + 1)]
    terms = CampaignTerms(
        "memory",
        AdapterSpec(_RANK, 32.0, ("q_proj",), pairs, "B"),
        "ffa",
        ServerStep(),
        rounds,
        1,
        dict.fromkeys(names, 1.0),
        dict.fromkeys(names, "plan"),
    )
    initial = {name: np.zeros(shape, np.float32) for name, shape in terms.adapter.shapes().items()}
    keys = CoordinatorKeys(_key(COORDINATOR), {name: _key(name).public for name in names}.get)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "campaign"
        grid = BanksOnDisk(terms, Path(place))
        began, start = time.perf_counter(), _peak_rss()
        Campaign(terms, CampaignStore(folder / "state.safetensors"), GlobalState(0, initial), Observer(), keys).run(
            grid
        )
        return {
            "benchmark": "coordinator_memory",
            "banks": banks,
            "trained_parameters": size * _RANK * _PAIRS,
            "rounds": rounds,
            "peak_rss_bytes": _peak_rss(),
            "peak_rss_bytes_at_start": start,
            "disk_bytes_at_end": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            "seconds_per_round": round((time.perf_counter() - began) / rounds, 2),
            "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "numpy": np.__version__},
        }


def _key(name: str) -> SigningKey:
    return SigningKey.derived("coordinator-memory", name)


def _peak_rss() -> int:
    """Of this process alone: the banks are others."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _raise(error: Exception) -> None:
    raise error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m simulations.benchmarks.coordinator_memory")
    parser.add_argument("--banks", type=int, default=20)
    parser.add_argument("--parameters", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args()
    sys.stdout.write(json.dumps(measure(chosen.banks, chosen.parameters, chosen.rounds)) + "\n")
