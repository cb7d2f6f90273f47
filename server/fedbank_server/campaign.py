"""The coordinator's loop over a campaign's rounds, on any Flower ``Grid``.

Asks every bank for its update, admits what belongs to the round, commits when all are in. It polls
``push_messages``/``pull_messages`` itself: ``Grid.send_and_receive`` waits three seconds between looks.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedbank.adapter.state import Tensors
from fedbank.adapter.update import PAYLOAD, RECORD, RoundRequest, Update
from fedbank.aggregation.rounds import CampaignTerms, GlobalState, Round
from fedbank.errors import RunError
from fedbank_server.store import CampaignStore

_NODES_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class CommittedRound:
    """One committed round: ``change_norm`` is the L2 norm of the average change, bytes are payload bytes."""

    state: GlobalState
    change_norm: float
    seconds: float
    bytes_up: int
    bytes_down: int

    def costs(self) -> dict[str, float]:
        """What the round cost, as it is stored with the state."""
        return {
            "seconds": round(self.seconds, 4),
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "update_norm": self.change_norm,
        }


class Observer(Protocol):
    """Whoever watches a campaign; called in the coordinator's thread."""

    def update_admitted(self, round_number: int, bank: str) -> None:
        """A bank's update was admitted to the round."""

    def round_committed(self, committed: CommittedRound) -> None:
        """A round was committed and is already on disk."""


class Campaign:
    """Runs the rounds that are missing from ``store`` and leaves the final state there."""

    def __init__(
        self,
        terms: CampaignTerms,
        store: CampaignStore,
        initial: GlobalState,
        observer: Observer,
        *,
        stop: Callable[[], bool] = lambda: False,
        poll_interval_s: float = 0.05,
    ) -> None:
        self._terms = terms
        self._store = store
        self._initial = initial
        self._observer = observer
        self._stop = stop
        self._poll_interval_s = poll_interval_s

    def run(self, grid: Grid) -> GlobalState:
        """Run to the last round; returns early, after a committed round at the latest, when asked to stop."""
        state = self._store.load(self._terms.adapter) or self._initial
        if state.round >= self._terms.num_rounds:
            return state
        nodes = self._enrol(grid)
        while state.round < self._terms.num_rounds and not self._stop():
            committed = self._run_round(grid, nodes, state)
            if committed is None:
                break
            state = committed.state
        return state

    def _enrol(self, grid: Grid) -> dict[str, int]:
        """Node id of every member bank, as the nodes themselves say."""
        wanted = len(self._terms.weights)
        deadline = time.monotonic() + _NODES_TIMEOUT_S
        while len(node_ids := sorted(grid.get_node_ids())) < wanted and time.monotonic() < deadline:
            time.sleep(self._poll_interval_s)
        question = dict.fromkeys(node_ids, self._terms.campaign.encode())
        replies = self._exchange(grid, "query.enrol", question)
        nodes = {reply_payload(reply).decode(): reply.metadata.src_node_id for reply in replies}
        if nodes.keys() != self._terms.weights.keys() and not self._stop():
            raise RunError(
                f"Expected the banks {sorted(self._terms.weights)} to enrol, got {sorted(nodes)}. "
                "Check that every bank's client runs for this campaign."
            )
        return nodes

    def _run_round(self, grid: Grid, nodes: dict[str, int], state: GlobalState) -> CommittedRound | None:
        """One round, or ``None`` if stopped before all updates are in (the banks keep theirs)."""
        began = time.monotonic()
        current = Round(self._terms, state)
        requests = {
            nodes[bank]: RoundRequest(
                self._terms.campaign, current.number, self._terms.plans[bank], state.adapter
            ).to_bytes()
            for bank in sorted(nodes)
        }
        bytes_up, bytes_down = 0, sum(map(len, requests.values()))
        for reply in self._exchange(grid, "train", requests):
            payload = reply_payload(reply)
            update = Update.from_bytes(payload, self._terms.adapter)
            current.admit(update)
            bytes_up += len(payload)
            self._observer.update_admitted(current.number, update.bank)
        if current.missing:
            return None
        next_state, change = current.commit()
        _check_finite(next_state)
        seconds = time.monotonic() - began
        committed = CommittedRound(next_state, _norm(change), seconds, bytes_up, bytes_down)
        self._store.save(next_state, committed.costs())
        self._observer.round_committed(committed)
        return committed

    def _exchange(self, grid: Grid, message_type: str, payloads: Mapping[int, bytes]) -> Iterable[Message]:
        """Send every node its payload and yield replies as they come, until all are in or a stop is asked for."""
        messages = [Message(request_content(payload), node, message_type) for node, payload in payloads.items()]
        waiting = set(grid.push_messages(messages))
        while waiting and not self._stop():
            replies = list(grid.pull_messages(waiting))
            for reply in replies:
                waiting.discard(reply.metadata.reply_to_message_id)
                yield reply
            if not replies:
                time.sleep(self._poll_interval_s)


def request_content(payload: bytes) -> RecordDict:
    """One record with one value: a message of Flower costs a request for every object in it."""
    return RecordDict({RECORD: ConfigRecord({PAYLOAD: payload})})


def reply_payload(message: Message) -> bytes:
    """The bytes of a reply; ``RunError`` if the bank's app failed."""
    if message.has_error():
        raise RunError(
            f"Expected a reply from node {message.metadata.src_node_id}, got an error: {message.error.reason}"
        )
    payload = message.content.config_records[RECORD][PAYLOAD]
    if not isinstance(payload, bytes):
        raise RunError(f"Expected bytes from node {message.metadata.src_node_id}, got {type(payload).__name__}.")
    return payload


def _check_finite(state: GlobalState) -> None:
    if not all(np.isfinite(tensor).all() for tensor in state.adapter.values()):
        raise RunError(
            f"Expected a finite global adapter after round {state.round}, got infinity or NaN: training diverged. "
            "Lower aggregation.learning_rate or training.learning_rate. The round was not committed."
        )


def _norm(tensors: Tensors) -> float:
    """To six digits: the last ones depend on how memory happens to be aligned."""
    norm = np.sqrt(sum(float(np.square(tensor, dtype=np.float64).sum()) for tensor in tensors.values()))
    return float(f"{norm:.6g}")
