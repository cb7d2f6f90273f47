"""What a researcher records while campaigns run: one line a round, with scores that no deployment could see.

The recorder sits outside the two apps. It scores every committed adapter on held-out customers of all banks,
which in a deployment stay inside the banks.
"""

import json
from concurrent.futures import Executor
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

from fedbank.adapter.state import Tensors
from fedbank.aggregation.admit import Refused
from fedbank.aggregation.rounds import GlobalState
from fedbank.data.encode import EncodedUnits
from fedbank.durable import append_durable, read_lines
from fedbank.errors import RunError
from fedbank.privacy.accounting import round_up
from fedbank.privacy.plan import PrivacyPlan
from fedbank.training.evaluate import Evaluation, evaluate
from fedbank_server.observer import CommittedRound, Observer
from fedbank_simulations.campaigns import FEDERATED, banks_of
from fedbank_simulations.resident import Resident
from fedbank_simulations.strict_json import to_json


class Progress(Protocol):
    """Whoever shows progress to a person."""

    def campaign_started(self, campaign: str, banks: int, rounds: int, done: int) -> None:
        """``done`` of ``rounds`` were committed in an earlier session."""

    def bank_done(self, campaign: str, round_number: int, bank: str) -> None:
        """A bank's update is in."""

    def round_done(self, campaign: str, line: dict[str, Any]) -> None:
        """A round was committed and recorded."""


class Recorder(Observer):
    """Writes ``rounds.jsonl`` of one campaign and tells ``progress``."""

    def __init__(
        self, home: Resident, campaign: str, folder: Path, progress: Progress, executor: Executor | None = None
    ) -> None:
        self._home = home
        self._campaign = campaign
        self._path = folder / "rounds.jsonl"
        self._progress = progress
        self._executor = executor

    def recorded(self) -> list[int]:
        """Numbers of the rounds recorded so far, oldest first."""
        return [int(line["round"]) for line in read_rounds(self._path)]

    def update_admitted(self, round_number: int, bank: str) -> None:
        """Pass on to the progress display."""
        self._progress.bank_done(self._campaign, round_number, bank)

    def refused(self, round_number: int, refused: Refused) -> None:
        """End the simulation: nobody in it is hostile, so something is wrong that a person has to see."""
        raise RunError(f"Expected an answer of every bank in round {round_number}, got a refusal: {refused.reason}")

    def round_committed(self, committed: CommittedRound) -> None:
        """Score the new global adapter and append its line."""
        self.record(committed.state, committed.costs())

    def record(self, state: GlobalState, costs: dict[str, float]) -> None:
        """Append the line of one round; ``costs`` are those stored with its state, none for the base model."""
        round_number, adapter = state.round, state.adapter
        scores = score_banks(self._home, self._campaign, adapter, monitored=True, executor=self._executor)
        line = {
            "round": round_number,
            "steps": round_number * self._home.config.training.local_steps,
            **{"seconds": 0.0, "bytes_up": 0, "bytes_down": 0, "update_norm": 0.0, **costs},
            "adapter_sha256": state.digest(),
            "evaluation": asdict(merge(list(scores.values()))),
            "public_evaluation": self._public(adapter),
            "epsilon": self._epsilons(round_number),
            "banks": {bank: asdict(value) for bank, value in scores.items()},
        }
        append_durable(self._path, to_json(line).encode(), sync=False)
        self._progress.round_done(self._campaign, line)

    def _public(self, adapter: Tensors) -> dict[str, Any] | None:
        """Scores on the coordinator's public set: of the federated campaign only, the others have no coordinator."""
        if self._campaign != FEDERATED:
            return None
        return asdict(score(self._home, adapter, self._home.scenario.public))

    def _epsilons(self, round_number: int) -> dict[str, float]:
        steps = round_number * self._home.config.training.local_steps
        members = self._home.members(self._campaign)
        return {
            name: round_up(_epsilon(member.plan, steps), 4)
            for name, member in members.items()
            if isinstance(member.plan, PrivacyPlan)
        }


def read_rounds(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``rounds.jsonl``; ``RunError`` if one is damaged. A last line cut by a crash is left out."""
    rounds = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            parsed = json.loads(line)
            int(parsed["round"])
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"Expected a round in line {number} of {path}, got something else. "
                "Restore the file from a backup or start the run again in a new folder."
            ) from error
        rounds.append(parsed)
    return rounds


@lru_cache(maxsize=4096)
def _epsilon(plan: PrivacyPlan, steps: int) -> float:
    return plan.epsilon(steps)


def score_banks(
    home: Resident, campaign: str, adapter: Tensors, *, monitored: bool, executor: Executor | None = None
) -> dict[str, Evaluation]:
    """Scores on every bank's own held-out customers: all banks', or the one bank's of a ``local_only`` campaign."""
    banks = home.scenario.banks
    names = list(banks_of(campaign, banks))
    data = [banks[name].monitored if monitored else banks[name].held_out for name in names]
    each = map if executor is None else executor.map
    return dict(zip(names, each(partial(score, home, adapter), data), strict=True))


def score(home: Resident, adapter: Tensors, data: EncodedUnits) -> Evaluation:
    """Scores of the base model with ``adapter`` on ``data``."""
    home.model.write(adapter)
    return evaluate(home.model, data, device=home.base.device)


def merge(parts: list[Evaluation]) -> Evaluation:
    """The scores over all records of ``parts`` together."""
    total = sum(part.n for part in parts)
    nll = sum(part.nll * part.n for part in parts) / total
    return Evaluation(nll, sum(part.exact_match * part.n for part in parts) / total, total)
