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
import mmap
import os
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import fedbank_client.bank as bank_module
from fedbank.adapter.lora import AdaptedModel, LoraSettings
from fedbank.adapter.state import digest, initial_state
from fedbank.adapter.update import RoundRequest, Update
from fedbank.data.encode import EncodedUnits
from fedbank.model.loading import ModelSpec, load_base_model
from fedbank.privacy.clipping import ClippedSum
from fedbank.privacy.ledger import LEDGER, Charge, Ledger
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan, Sampling
from fedbank.training.local import LocalSettings
from fedbank_client.bank import Bank, Participation

PHASES = ("idle", "charge", "train", "noise", "save", "send")
TARGETS = ("charge", "noise", "save", "send")
NAME, CAMPAIGN, STEPS = "bank-a", "spring", 1
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_LENGTH = struct.Struct("<q")
_CHUNK = 4096
_CUSTOMERS, _RECORD_TOKENS = 8, 10


class Board:
    """Shared memory between bank and observer: the phase, how often each began and how long it was last."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * (2 * len(PHASES) + 3))
        values = np.frombuffer(self._memory, dtype=np.int64)
        self._begun, self._last_ns, self._now = np.split(values, [len(PHASES), 2 * len(PHASES)])

    def enter(self, phase: str) -> None:
        """The bank is now in ``phase``."""
        now = time.perf_counter_ns()
        self._last_ns[self._now[0]] = now - self._now[1]
        self._now[:2] = PHASES.index(phase), now
        self._begun[self._now[0]] += 1

    def count_execution(self) -> None:
        """An execution begins to draw noise."""
        self._now[2] += 1

    def began(self, phase: str) -> int:
        """How often ``phase`` began."""
        return int(self._begun[PHASES.index(phase)])

    def last_s(self, phase: str) -> float:
        """How long ``phase`` took when it was last left."""
        return float(self._last_ns[PHASES.index(phase)]) * 1e-9

    @property
    def phase(self) -> str:
        """Where the bank is, or was killed."""
        return PHASES[int(self._now[0])]

    @property
    def executions(self) -> int:
        """Executions of a round that began to draw noise; a round has one step here."""
        return int(self._now[2])


BOARD = Board()


class MarkedPlan(PrivacyPlan):
    """A plan that tells when noise is drawn."""

    __slots__ = ()

    def release(self, total: ClippedSum, stream: RandomStream) -> tuple[torch.Tensor, ...]:
        """As any plan."""
        BOARD.enter("noise")
        BOARD.count_execution()
        released = PrivacyPlan.release(self, total, stream)
        BOARD.enter("train")
        return released


def marked(phase: str, function: Callable[..., Any], after: str) -> Callable[..., Any]:
    """``function``, telling when it begins and ends."""

    def call(*args: Any, **named: Any) -> Any:
        BOARD.enter(phase)
        result = function(*args, **named)
        BOARD.enter(after)
        return result

    return call


@dataclass
class Setting:
    """All that a bank process needs, made once; forked processes inherit it."""

    model: AdaptedModel
    data: EncodedUnits
    plan: PrivacyPlan

    @classmethod
    def make(cls) -> "Setting":
        """The tiny Qwen3 with an adapter of 170 kB, a few customers with one short record each."""
        torch.set_num_threads(1)
        base = load_base_model(ModelSpec("tiny", device="cpu"))
        model = AdaptedModel(base.model, LoraSettings(8, 16.0, MODULES, "B"))
        rng = np.random.default_rng(0)
        tokens = rng.integers(4, 1000, _CUSTOMERS * _RECORD_TOKENS).astype(np.int32)
        starts = np.arange(0, len(tokens) + 1, _RECORD_TOKENS)
        data = EncodedUnits(tokens, starts, np.full(_CUSTOMERS, 5, np.int32), np.arange(_CUSTOMERS + 1))
        plan = MarkedPlan.with_noise(Sampling(0.5, 4.0, 1, 5_000), 20.0, 0.5, 1e-5)
        return cls(model, data, plan)

    def bank(self, folder: Path, *, secure: bool) -> Bank:
        """The bank as it starts up."""

        def derived(number: int) -> RandomStream:
            return RandomStream.derived("kill-loop", number)

        participation = Participation(CAMPAIGN, self.plan, LocalSettings(STEPS, 0.05))
        device = torch.device("cpu")
        streams = None if secure else derived
        return Bank(NAME, participation, self.data, lambda: self.model, folder, stream_for_round=streams, device=device)


class BankProcess:
    """One life of a bank: answers requests on a pipe until it is killed."""

    def __init__(self, setting: Setting, folder: Path, *, secure: bool) -> None:
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self._buffer = bytearray()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._requests)
            os.close(self._answers)
            _live(setting, folder, secure, requests, answers)
        os.close(requests)
        os.close(answers)
        os.set_blocking(self._answers, False)

    def ask(self, request: bytes) -> None:
        """Send a request."""
        _send(self._requests, request)

    def answer(self) -> bytes | None:
        """The answer if it has come in completely."""
        try:
            while chunk := os.read(self._answers, 1 << 16):
                self._buffer += chunk
        except BlockingIOError:
            pass
        if len(self._buffer) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
        if len(self._buffer) < end:
            return None
        answer = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return answer

    def wait_for_answer(self) -> bytes:
        """The answer, without a kill."""
        while (answer := self.answer()) is None:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                raise AssertionError("the bank's process ended by itself; its error is above")
            time.sleep(0.0005)
        return answer

    def kill(self) -> bytes | None:
        """End this life; the answer if it was out by then."""
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            raise AssertionError(f"the bank's process ended by itself with status {status}; its error is above")
        answer = self.answer()
        self.close()
        return answer

    def close(self) -> None:
        """Close the pipes."""
        os.close(self._requests)
        os.close(self._answers)


def _live(setting: Setting, folder: Path, secure: bool, requests: int, answers: int) -> None:
    """The bank's process; never returns."""
    code = 1
    try:
        Ledger.charge = marked("charge", Ledger.charge, "train")  # type: ignore[method-assign]
        bank_module.write_atomic = marked("save", bank_module.write_atomic, "send")
        bank = setting.bank(folder, secure=secure)
        while True:
            BOARD.enter("idle")
            request = _receive(requests)
            if request is None:
                code = 0
                break
            update = bank.train(request).to_bytes()
            BOARD.enter("send")
            _send(answers, update)
    except BaseException as error:
        sys.stderr.write(f"the bank failed: {type(error).__name__}: {error}\n")
        raise
    finally:
        sys.stderr.flush()
        os._exit(code)


def _send(pipe: int, content: bytes) -> None:
    content = _LENGTH.pack(len(content)) + content
    for start in range(0, len(content), _CHUNK):
        chunk = content[start : start + _CHUNK]
        while chunk:
            chunk = chunk[os.write(pipe, chunk) :]


def _receive(pipe: int) -> bytes | None:
    def read(count: int) -> bytes:
        content = b""
        while len(content) < count and (part := os.read(pipe, count - len(content))):
            content += part
        return content

    head = read(_LENGTH.size)
    return read(_LENGTH.unpack(head)[0]) if head else None


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
