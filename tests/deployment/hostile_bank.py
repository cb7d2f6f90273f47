"""A member that turned: joined by the real commands, real keys, real training, and updates of its own making.

``python hostile_bank.py HOME`` is its process. In round N it plays the N-th trick of ``TRICKS``; when it is asked again
in that round, it answers honestly. ``HOME/hold`` names the rounds in which it waits until the number is taken out of
the file, so that whoever watches can act in the middle of a round.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from fedbank.adapter.state import AdapterSpec, Released
from fedbank.adapter.update import PAYLOAD, RECORD, UPDATE, Update
from fedbank.sealing.envelope import open_sealed, seal
from fedbank.sealing.keys import SigningKey

MALLORY, VICTIM = "mallory", "bank-a"
MANY = 100_000


@dataclass(frozen=True, slots=True)
class Honest:
    """What an honest bank would send, and what it is made with; ``before`` is the envelope of the round before."""

    update: Update
    key: SigningKey
    context: dict[str, str]
    before: bytes

    def sealed(self, payload: bytes, signer: str = MALLORY, **context: str) -> bytes:
        """``payload`` in an envelope that this bank signs."""
        return seal(UPDATE, signer, {**self.context, **context}, payload, self.key)

    def changed(self, **fields: Any) -> bytes:
        """The update with other fields."""
        return self.sealed(replace(self.update, **fields).to_bytes())

    def tensors(self, change: Callable[[dict[str, Any], str], object]) -> bytes:
        """The update with tensors that ``change`` makes of them, given all of them and the name of one."""
        named = {name: tensor.copy() for name, tensor in self.update.tensors.items()}
        change(named, sorted(named)[0])
        return self.sealed(_with_metadata(self.update.to_bytes(), save(named)))

    def header(self, change: Callable[[dict[str, Any]], object]) -> bytes:
        """The update with another header."""
        return self.sealed(_with_header(self.update.to_bytes(), change))


@dataclass(frozen=True, slots=True)
class Trick:
    """What is sent in one round, the check that must refuse it, and the row of the table of faults."""

    name: str
    row: int
    check: str
    make: Callable[[Honest], bytes]


def _put(value: float) -> Callable[[dict[str, Any], str], object]:
    return lambda tensors, name: tensors[name].__setitem__((0, 0), value)


def _replaced(make: Callable[[Any], Any]) -> Callable[[dict[str, Any], str], object]:
    return lambda tensors, name: tensors.__setitem__(name, make(tensors[name]))


def _longer(honest: Honest, factor: float) -> bytes:
    return honest.changed(tensors=Released({n: np.float32(factor) * t for n, t in honest.update.tensors.items()}))


def _claims(name: str, value: object) -> Callable[[dict[str, Any]], object]:

    def change(header: dict[str, Any]) -> None:
        fields = json.loads(header["__metadata__"]["fedbank"])
        header["__metadata__"]["fedbank"] = json.dumps(fields | {name: value})

    return change


def _many(count: int) -> Callable[[dict[str, Any]], object]:
    return lambda header: header.update({f"t{number}": {} for number in range(count)})


TRICKS: tuple[Trick | None, ...] = (
    None,  # the first round is honest: there is something to replay
    Trick("its update of the round before", 11, "late", lambda h: h.before),
    Trick("an update signed for another campaign", 11, "context", lambda h: _foreign(h)),
    Trick("an update to another adapter", 11, "base", lambda h: h.changed(base_digest="0" * 64)),
    Trick("signed by itself in another bank's name", 12, "signature", lambda h: _as(h, VICTIM)),
    Trick("another bank's name in its own envelope", 12, "bank", lambda h: h.changed(bank=VICTIM)),
    Trick("signed in the name of somebody unknown", 12, "signer", lambda h: _as(h, "stranger")),
    Trick("one NaN", 13, "finite", lambda h: h.tensors(_put(np.nan))),
    Trick("one infinity", 13, "finite", lambda h: h.tensors(_put(np.inf))),
    Trick("one value of 1e38", 13, "norm", lambda h: h.tensors(_put(1e38))),
    Trick("a tensor transposed", 14, "schema", lambda h: h.tensors(_replaced(lambda t: t.T.copy()))),
    Trick("half precision", 14, "schema", lambda h: h.tensors(_replaced(lambda t: t.astype(np.float16)))),
    Trick("one value to broadcast", 14, "schema", lambda h: h.tensors(_replaced(lambda t: t[:1, 0].copy()))),
    Trick("a tensor missing", 14, "schema", lambda h: h.tensors(lambda tensors, name: tensors.pop(name))),
    Trick("a tensor too many", 14, "schema", lambda h: h.tensors(lambda t, name: t.__setitem__("loss", t[name]))),
    Trick("an update a million times as long", 15, "norm", lambda h: _longer(h, 1e6)),
    Trick("a weight of 1e12", 15, "schema", lambda h: h.header(_claims("weight", 10**12))),
    Trick("a thousand times the steps", 15, "steps", lambda h: h.changed(num_steps=h.update.num_steps * 1000)),
    Trick("100 000 tensors", 16, "error", lambda h: h.header(_many(MANY))),
    Trick("as many tensors as a header holds", 16, "schema", lambda h: h.header(_many(MANY // 2))),
)
"""By round, from 1."""
ROUNDS_OF_TRICKS = len(TRICKS)


def _foreign(honest: Honest) -> bytes:
    return honest.sealed(honest.update.to_bytes(), campaign="another")


def _as(honest: Honest, signer: str) -> bytes:
    return honest.sealed(replace(honest.update, bank=signer).to_bytes(), signer)


def _with_header(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:

    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    written = json.dumps(header, separators=(",", ":")).encode()
    return len(written).to_bytes(8, "little") + written + content[8 + length :]


def _with_metadata(honest: bytes, forged: bytes) -> bytes:
    """``forged`` with the metadata of ``honest``."""

    metadata = json.loads(honest[8 : 8 + int.from_bytes(honest[:8], "little")])["__metadata__"]
    return _with_header(forged, lambda header: header.update({"__metadata__": metadata}))


class Mallory:
    """The app: that of an honest bank, whose updates are replaced on their way out."""

    def __init__(self, home: Any, config: Any, resources: Any) -> None:
        from fedbank_client.desk import Desk
        from fedbank_client.resident import bank_app

        self._home, self._key = home, home.load_signing_key()
        self._desk = Desk(home, config, resources, lambda *entry: None)
        self._honest = bank_app(self._desk)
        self._before, self._played = b"", set[int]()

    def __call__(self, message: Any, context: Any) -> Any:
        """One answer."""
        reply = self._honest(message, context)
        if message.metadata.message_type != "train" or reply.has_error():
            return reply
        record = reply.content[RECORD]
        record[PAYLOAD] = self._tricked(bytes(record[PAYLOAD]))
        return reply

    def _tricked(self, envelope: bytes) -> bytes:
        seal_of = self._desk.seal()
        opened = open_sealed(envelope, UPDATE, lambda _: self._key.public, seal_of.context, 1 << 30)
        update = Update.from_bytes(bytes(opened.payload), self._spec())
        self._hold(update.round)
        sent = envelope
        trick = TRICKS[update.round - 1] if update.round <= len(TRICKS) else None
        if trick is not None and update.round not in self._played:
            self._played.add(update.round)
            sent = trick.make(Honest(update, self._key, dict(seal_of.context), self._before))
        self._before = envelope
        return sent

    def _spec(self) -> AdapterSpec:
        agreement, _ = self._desk._open()
        spec: AdapterSpec = self._desk._model_of(agreement).spec
        return spec

    def _hold(self, number: int) -> None:
        path = self._home.folder / "hold"
        while str(number) in path.read_text().split():
            (self._home.folder / f"holds-{number}").touch()
            time.sleep(0.05)


def main(folder: Path) -> None:
    """Be a member until SIGTERM."""
    from fedbank.config import load_client
    from fedbank.supervision import end_with_parent, stop_on_signals
    from fedbank_client.home import read_home
    from fedbank_client.loading import load_resources
    from fedbank_client.node import NodeSettings, run_node
    from fedbank_client.resident import _access
    from fedbank_client.start import status_file

    end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    home, config = read_home(folder), load_client(["seed=9", "data.customers=100", "threads=1"])
    app = Mallory(home, config, load_resources(config, logging.info))
    stop: threading.Event = stop_on_signals()
    run_node(NodeSettings(_access(home), status_file(home), home.folder / "flower"), app, stop)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
