"""A member that lies: ``python lying_updates.py HOME SEED`` is its process, with code of its own behind its answers.

The bank ``mallory`` tells the N-th of ``LIES`` in round N; other names lie about their size before the first round. The
honest banks of the same consortium run the product, unchanged.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from repeatable_bank import serve_desk

from fedbank.adapter.state import Released
from fedbank.adapter.update import PAYLOAD, RECORD, UPDATE, Update
from fedbank.aggregation.norms import sgd_norm_bound
from fedbank.sealing.envelope import open_sealed, seal
from fedbank_client.desk import Desk
from fedbank_client.resident import bank_app

MALLORY, TRUDY = "mallory", "trudy"
SIZE = 10**15
MARKUP = "refused [/x] [bold]\x1b[2J\x1b[31m\x07\u202e\r\nRound 1: 9 updates"
Tensors = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lie:
    """What is sent in one round, and what becomes of it: ``refused``, ``left-out``, or ``counts`` as an honest one.

    ``tensors`` makes those of a signed update of the honest ones and of the bank's own norm bound; otherwise ``sent``
    are the bytes in the place of an update, and ``error`` is the text of a refusal.
    """

    name: str
    outcome: str
    tensors: Callable[[Tensors, float], Tensors] | None = None
    sent: bytes = b""
    error: str = ""


def _against(tensors: Tensors, norm: float) -> Tensors:
    """The opposite of what was trained, with this norm."""
    length = np.sqrt(sum(np.square(tensor, dtype=np.float64).sum() for tensor in tensors.values()))
    return {name: (-norm / length * tensor).astype(np.float32) for name, tensor in tensors.items()}


def _nan(tensors: Tensors, bound: float) -> Tensors:
    spoilt = {name: tensor.copy() for name, tensor in tensors.items()}
    spoilt[min(spoilt)][0, 0] = np.nan
    return spoilt


def _longer(tensors: Tensors, bound: float) -> Tensors:
    return {name: np.float32(-1.2) * tensor for name, tensor in tensors.items()}


LIES = (
    Lie("markup and control characters for a refusal", "refused", error=MARKUP),
    Lie("garbage for an update", "refused", sent=bytes(range(256)) * 300),
    Lie("one NaN in a signed update", "refused", tensors=_nan),
    Lie("the opposite, at the edge of its own bound", "left-out", tensors=lambda t, bound: _against(t, 0.999 * bound)),
    Lie("the opposite, of the length of an honest one", "counts", tensors=_longer),
)
"""By round, from 1; the one that counts is the last, since the adapter is another one after it."""


class LyingDesk(Desk):
    """An honest bank's desk, but for the size that ``trudy`` declares."""

    def _acceptance(self, agreement: Any) -> Any:
        honest = super()._acceptance(agreement)
        return honest if self.name == MALLORY else replace(honest, declared_size=SIZE)


class Liar:
    """The app: that of an honest bank, whose updates are replaced on their way out."""

    def __init__(self, desk: Any) -> None:
        self._desk, self._honest = desk, bank_app(desk)

    def __call__(self, message: Any, context: Any) -> Any:
        """One answer."""
        from flwr.app import Error, Message

        reply = self._honest(message, context)
        if self._desk.name != MALLORY or message.metadata.message_type != "train" or reply.has_error():
            return reply
        record = reply.content[RECORD]
        lie, update = self._opened(bytes(record[PAYLOAD]))
        if lie.error:
            return Message(Error(100, lie.error), reply_to=message)
        record[PAYLOAD] = lie.sent if lie.tensors is None else self._lied(update, lie.tensors)
        return reply

    def _opened(self, envelope: bytes) -> tuple[Lie, Update]:
        """The honest update, and the lie of its round."""
        key, spec = self._desk._key, self._model().spec
        opened = open_sealed(envelope, UPDATE, lambda _: key.public, self._desk.seal().context, 1 << 30)
        update = Update.from_bytes(bytes(opened.payload), spec)
        return LIES[update.round - 1], update

    def _lied(self, update: Update, change: Callable[[Tensors, float], Tensors]) -> bytes:
        """The update with other tensors, signed with the bank's own key."""
        tensors = Released(change(dict(update.tensors), self._bound()))
        payload = replace(update, tensors=tensors).to_bytes()
        return seal(UPDATE, update.bank, self._desk.seal().context, payload, self._desk._key)

    def _bound(self) -> float:
        """The norm up to which the coordinator admits this bank's updates."""
        agreement, _ = self._desk._open()
        training, plan = agreement.proposal.terms.training, agreement.plan
        return sgd_norm_bound(
            self._model().spec.num_trainable(),
            training.local_steps,
            training.learning_rate,
            training.momentum,
            clip_norm=plan.clip_norm,
            noise_multiplier=plan.noise_multiplier,
            expected_batch=plan.sampling.expected_batch_size,
        )

    def _model(self) -> Any:
        agreement, _ = self._desk._open()
        return self._desk._model_of(agreement)


if __name__ == "__main__":
    serve_desk(Path(sys.argv[1]), int(sys.argv[2]), LyingDesk, Liar)
