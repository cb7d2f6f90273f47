"""Where a campaign's committed rounds live, so that the same campaign continues after a crash."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedbank.adapter.state import AdapterSpec, digest
from fedbank.aggregation.rounds import GlobalState
from fedbank.aggregation.server_step import StepState
from fedbank.durable import open_locked, write_atomic
from fedbank.errors import RunError
from fedbank_server.history import History
from fedbank_server.round_store import RoundStore, VolatileRoundStore
from fedbank_server.writing import writing

_PREFIXES = ("adapter", "first", "second")


class CampaignStore:
    """The newest committed ``GlobalState`` of one campaign, in one file that is replaced atomically.

    Beside it lie ``rounds`` (the round at work and its updates) and ``history`` (one line for each committed round).
    ``simulated`` is for simulations: a commit is then safe from a crash of the process, not of the machine, and rounds
    and history are in memory.
    """

    def __init__(self, path: Path, *, simulated: bool = False) -> None:
        self._path = path
        self._sync = not simulated
        self.keeps_rounds = not simulated
        self.rounds = VolatileRoundStore() if simulated else RoundStore(path.parent)
        self.history = History(None if simulated else path.parent / "history.jsonl")

    @contextmanager
    def exclusive(self, patience_s: float = 5.0) -> Iterator[None]:
        """No other process runs the campaign meanwhile; ``RunError`` if one does and goes on doing so."""
        if not self.keeps_rounds:  # a simulation has locked its folder
            yield
            return
        path = self._path.parent / "campaign.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(open_locked(path, write=True, patience_s=patience_s))
            except OSError as error:
                raise RunError(
                    f"Expected to be the only one that runs the campaign in {path.parent}, got: {error.strerror}. "
                    "Wait for the other process or stop it."
                ) from error
            yield

    def save(self, state: GlobalState, costs: Mapping[str, float]) -> None:
        """Commit ``state`` with what its round cost: after a crash ``load`` returns it or the one before."""
        tensors: dict[str, NDArray[np.float32]] = {}
        for prefix, group in zip(_PREFIXES, (state.adapter, state.step.first, state.step.second), strict=True):
            tensors |= {f"{prefix}/{name}": np.ascontiguousarray(tensor) for name, tensor in group.items()}
        header = {"round": str(state.round), "digest": _digest(state.round, tensors), "costs": json.dumps(costs)}
        header["previous"] = state.previous
        with writing(self._path):
            write_atomic(self._path, save(tensors, metadata=header), sync=self._sync)

    def costs(self) -> dict[str, float]:
        """What the last committed round cost; empty before the first."""
        if not self._path.exists():
            return {}
        costs: dict[str, float] = json.loads(_header(self._path.read_bytes())["costs"])
        return costs

    def load(self, spec: AdapterSpec) -> GlobalState | None:
        """The newest committed state, or ``None`` before the first commit; ``RunError`` if the file is damaged."""
        if not self._path.exists():
            return None
        content = self._path.read_bytes()
        try:
            header = _header(content)
            tensors = load(content)
            groups = [
                {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}
                for prefix in _PREFIXES
            ]
            step = StepState(groups[1], groups[2])
            state = GlobalState(int(header["round"]), groups[0], step, header.get("previous", ""))
            shapes = {name: tensor.shape for name, tensor in state.adapter.items()}
            intact = _digest(state.round, tensors) == header["digest"] and shapes == spec.shapes()
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, SafetensorError) as error:
            raise self._damaged() from error
        if not intact:
            raise self._damaged()
        return state

    def _damaged(self) -> RunError:
        return RunError(
            f"Expected the committed adapter of a campaign in {self._path}, got a damaged file or another adapter. "
            "Restore it from a backup or start the run again in a new folder."
        )


def _header(content: bytes) -> dict[str, str]:
    header: dict[str, str] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    return header


def _digest(round_number: int, tensors: dict[str, NDArray[np.float32]]) -> str:
    """Of all that is stored: adapter, moments and the round they belong to."""
    return digest({**tensors, "round": np.asarray([round_number], np.float32)})
