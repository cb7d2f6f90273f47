"""Kills a bank with SIGKILL again and again, around charge, noise, save and send, and checks its books every time.

``python tests/faults/kill_loop.py --kills 200`` prints one JSON object and exits with 1 if anything is wrong. The bank
is a real ``Bank`` with the tiny Qwen3 that ships with the package, in a process of its own that this process forks
(so that a restart need not import torch), asks for rounds over a pipe, and kills at a random moment of a phase chosen
at random. The bank tells its phase through shared memory, by marks that change nothing about what it does.

Half of the kills meet a bank as it is deployed, with secure noise and keys that it keeps for a round, half one with a
replayable stream. After every kill:

* the ledger verifies, and the bank's folder holds ledger, head, finished updates and at most one round's key only;
* every update that is on disk or came out has its charge, and so has every round that began to draw noise: the ledger
  is never below the true spend;
* no round is charged twice.

At the end of a campaign with a replayable stream the adapter is, bit by bit, that of a campaign without a kill.
SIGKILL takes the process, not the machine: that a charge survives a power failure too rests on fsync, whose order
``tests/privacy/test_ledger.py`` checks.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from killed_bank import BOARD, CAMPAIGN, NAME, PHASES, BankProcess, Setting
from numpy.typing import NDArray

from fedbank.adapter.state import digest, initial_state
from fedbank.adapter.update import RoundRequest, Update
from fedbank.privacy.ledger import LEDGER, Charge, Ledger

TARGETS = ("charge", "noise", "save", "send")


@dataclass
class Books:
    """What the observer knows of one campaign, and what it makes of the bank's folder."""

    setting: Setting
    folder: Path
    executions_before: int
    sent: list[Update] = field(default_factory=list)
    drawn: set[int] = field(default_factory=set)

    def check(self) -> list[str]:
        """What is wrong, in words; ``PrivacyError`` if the ledger does not verify."""
        charges = Ledger(self.folder / LEDGER, NAME).charges()
        wrong = [*self._lost(charges), *self._charged_twice(charges)]
        if free := self.drawn - {charge.round for charge in charges}:
            wrong.append(f"the rounds {sorted(free)} drew noise and are not charged")
        if len(keys := list(self.folder.glob("keys/*.key"))) > 1:
            wrong.append(f"{len(keys)} keys are kept, of more than one round")
        for path in self.folder.rglob("*"):
            ending = {"finished": ".safetensors", "keys": ".key"}.get(path.parent.name)
            known = ending is not None and ending in path.name
            if path.is_file() and not known and path.name not in (LEDGER, "ledger.head"):
                wrong.append(f"{path.name} was left on disk")
        return wrong

    def _lost(self, charges: list[Charge]) -> Iterator[str]:
        charged = {(charge.round, charge.base_digest, charge.plan_digest) for charge in charges}
        kept = [path.read_bytes() for path in self.folder.glob("finished/*.safetensors")]
        for update in [*self.sent, *(Update.from_bytes(content, self.setting.model.spec) for content in kept)]:
            if (update.round, update.base_digest, update.plan_digest) not in charged:
                yield f"round {update.round} left or was kept and is not charged"

    def _charged_twice(self, charges: list[Charge]) -> Iterator[str]:
        for number, count in Counter(charge.round for charge in charges).items():
            if count > 1:
                yield f"round {number} is charged {count} times"


@dataclass
class Figures:
    """What is printed."""

    kills: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    charges: int = 0
    executions: int = 0
    sent_again: int = 0
    wrong: list[str] = field(default_factory=list)


def run_campaign(
    setting: Setting, folder: Path, kills: int, rounds: int, rng: np.random.Generator, *, secure: bool
) -> tuple[Figures, str]:
    """Rounds with ``kills`` kills, at least ``rounds`` rounds; figures and the digest of the last adapter."""
    figures, books = Figures(), Books(setting, folder, BOARD.executions)
    adapter = initial_state(setting.model.spec, seed=0)
    process = BankProcess(setting, folder, secure=secure)
    number, target = 1, None
    while figures.kills.total() < kills or number <= rounds:
        if target is None and number > 1 and figures.kills.total() < kills and rng.random() < 0.8:
            target = str(rng.choice(TARGETS))
        before = BOARD.executions
        process.ask(RoundRequest(CAMPAIGN, number, setting.plan.digest(), adapter).to_bytes())
        answer, killed = _wait(process, target, rng)
        if killed:
            figures.kills[BOARD.phase] += 1
            target = None
        if BOARD.executions > before:
            books.drawn.add(number)
        if answer is not None:
            figures.sent_again += BOARD.executions == before
            update = Update.from_bytes(answer, setting.model.spec)
            books.sent.append(update)
            adapter = _add(adapter, update.tensors)
            number += 1
        if killed:
            figures.wrong += books.check()
            process = BankProcess(setting, folder, secure=secure)
    process.kill()
    figures.wrong += books.check()
    if answer is not None and list(folder.glob("keys/*.key")):
        figures.wrong.append("a key outlived its round")
    figures.rounds = number - 1
    figures.charges = len(Ledger(folder / LEDGER, NAME).charges())
    figures.executions = BOARD.executions - books.executions_before
    return figures, digest(adapter)


def _wait(process: BankProcess, target: str | None, rng: np.random.Generator) -> tuple[bytes | None, bool]:
    """The answer if it came, and whether the bank was killed: somewhere around ``target``, if it gets there."""
    if target is None:
        return process.wait_for_answer(), False
    began, length_s = BOARD.began(target), BOARD.last_s(target)
    while BOARD.began(target) == began:
        answer = process.answer()
        if answer is not None:
            return answer, False
    moment = time.perf_counter() + rng.uniform(0.0, 1.1) * length_s
    while time.perf_counter() < moment:
        pass
    return process.kill(), True


def _add(adapter: Any, change: Any) -> dict[str, NDArray[np.float32]]:
    return {name: tensor + change[name] if name in change else tensor for name, tensor in adapter.items()}


def main(words: list[str] | None = None) -> int:
    """Print the figures; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments; the scheduler adds its own chance")
    chosen = parser.parse_args(words)
    began, setting, rng = time.perf_counter(), Setting.make(), np.random.default_rng(chosen.seed)
    wrong: list[str] = []
    printed: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="kill-loop-") as folder:
        for secure, kills in ((False, chosen.kills // 2), (True, chosen.kills - chosen.kills // 2)):
            name = "secure" if secure else "replayable"
            figures, last = run_campaign(setting, Path(folder) / name, kills, 0, rng, secure=secure)
            wrong += figures.wrong
            if not secure:
                _, expected = run_campaign(setting, Path(folder) / "whole", 0, figures.rounds, rng, secure=False)
                if last != expected:
                    wrong.append("the adapter is not that of a campaign without a kill")
            printed[name] = {
                "kills": figures.kills.total(),
                "kills_by_phase": {phase: figures.kills[phase] for phase in PHASES if figures.kills[phase]},
                "rounds": figures.rounds,
                "charges": figures.charges,
                "executions": figures.executions,
                "sent_again_without_charge": figures.sent_again,
            }
    printed |= {"seconds": round(time.perf_counter() - began, 1), "wrong": wrong, "ok": not wrong}
    sys.stdout.write(json.dumps(printed, indent=2) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
