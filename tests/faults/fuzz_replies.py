"""Replies that lie, of every kind that a coordinator may get, and Flower messages that hold something else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from mutator import Mutator

RECORD, PAYLOAD = "fedbank", "payload"


@dataclass(frozen=True)
class Liar:
    """A member with a real key: what it signs is ``context``'s. ``honest`` has a real payload of each kind."""

    name: str
    context: Mapping[str, str]
    sign: Callable[[bytes], bytes]
    mutator: Mutator

    def reply(self, to: Message, kind: str, honest: bytes) -> Message:
        """A reply of a ``kind``: presence, acceptance, update, receipt, error or record."""
        if kind == "error":
            code = self.mutator.random.choice((100, 100, 101, 102, 102, 0, 2, 3, 4, 5, -1, 2**31 - 1))
            return Message(Error(code, self.mutator.text()), reply_to=to)
        if kind == "record":
            return Message(record(self.mutator, honest), reply_to=to)
        return Message(content(self.sealed(kind, honest)), reply_to=to)

    def sealed(self, kind: str, honest: bytes) -> bytes:
        """A payload of a ``kind`` that differs from the honest one, in an envelope."""
        change = self.mutator.safetensors if kind in SAFETENSORS else self.mutator.json_text
        payload = honest if self.mutator.random.random() < 0.1 else change(honest) if kind in CHANGED else b""
        if kind not in CHANGED:
            payload = self.mutator.blob(honest)
        return self.mutator.envelope(kind, self.name, self.context, payload, self.sign)


SAFETENSORS = frozenset({"update", "request", "result"})
CHANGED = SAFETENSORS | {"presence", "acceptance"}
"""Kinds whose payload has a grammar of its own; of the others bytes are changed."""


def content(payload: bytes) -> RecordDict:
    """One record with one bytes value: what a message of FedBank is."""
    return RecordDict({RECORD: ConfigRecord({PAYLOAD: payload})})


def record(mutator: Mutator, payload: bytes) -> RecordDict:
    """Records of Flower that are no message of FedBank."""
    array = ArrayRecord({"x": Array(np.zeros(3, np.float32))})
    others: list[Any] = [
        {},
        {RECORD: ConfigRecord({})},
        {RECORD: ConfigRecord({PAYLOAD: "text"})},
        {RECORD: ConfigRecord({PAYLOAD: [payload[:9], b""]})},
        {RECORD: ConfigRecord({PAYLOAD: 10**15})},
        {RECORD: ConfigRecord({PAYLOAD: float("nan")})},
        {RECORD: ConfigRecord({"[/x]": payload})},
        {RECORD: array},
        {RECORD: MetricRecord({PAYLOAD: float("inf")})},
        {"\x1b[2J": ConfigRecord({PAYLOAD: payload})},
        {RECORD: ConfigRecord({PAYLOAD: b""})},
        {RECORD: ConfigRecord({PAYLOAD: mutator.random.randbytes(200)}), "other": array},
    ]
    return RecordDict(mutator.random.choice(others))
