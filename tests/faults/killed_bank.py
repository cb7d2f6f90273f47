"""A real ``Bank`` in a process of its own that tells its phase and can be killed: what ``kill_loop.py`` kills.

The process is forked, so that a restart need not import torch. It tells its phase through shared memory, by marks that
change nothing about what it does.
"""

import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fedbank_client.bank as bank_module
from fedbank.adapter.lora import AdaptedModel, LoraSettings
from fedbank.data.encode import EncodedUnits
from fedbank.model.loading import ModelSpec, load_base_model
from fedbank.privacy.clipping import ClippedSum
from fedbank.privacy.ledger import Ledger
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan, Sampling
from fedbank.training.local import LocalSettings
from fedbank_client.bank import Bank, Participation

PHASES = ("idle", "charge", "train", "noise", "save", "send")
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
