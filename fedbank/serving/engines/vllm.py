"""vLLM as a child process of the service: started with what FedBank needs, reachable with a key that only we have.

Whoever runs vLLM apart attaches with ``OpenAIEngine`` alone; its adapter endpoints must then be out of others' reach.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedbank.serving.engines.interface import DownError
from fedbank.serving.engines.openai_engine import Endpoint, OpenAIEngine

_LOOK_S = 0.2
_STOP_S = 15.0
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "auto", "int4": "auto"}
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True, slots=True)
class Vllm:
    """How to start it. ``program``: the command; ``precision``: as ``plan`` has it, INT8 and INT4 only for a ``model``
    that is stored so. ``max_rank``: of any adapter. ``more``, ``environment``: further words and variables. ``name``:
    what it calls the model; empty: as the folder is called.
    """

    model: Path
    log: Path
    program: str = "vllm"
    precision: str = "bf16"
    max_length: int = 4096
    max_rank: int = 16
    memory_share: float = 0.9
    start_s: float = 600.0
    more: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    name: str = ""

    @property
    def served_name(self) -> str:
        """What requests have to call the model."""
        return self.name or self.model.name

    def command(self, port: int) -> list[str]:
        """Its words: one model, one address of this machine, adapters of releases side by side."""
        options = {
            "--served-model-name": self.served_name,
            "--host": "127.0.0.1",
            "--port": str(port),
            "--dtype": _DTYPES[self.precision],
            "--max-model-len": str(self.max_length),
            "--gpu-memory-utilization": str(self.memory_share),
            "--max-lora-rank": str(self.max_rank),
            "--max-loras": "2",
            "--scheduling-policy": "priority",
        }
        words = [word for pair in options.items() for word in pair]
        return [self.program, "serve", str(self.model), *words, "--enable-lora", *self.more]


class VllmProcess:
    """A running vLLM. Its log is in ``settings.log``; prompts are in it only if ``more`` asks for that."""

    def __init__(self, settings: Vllm) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def ended(self) -> int | None:
        """The exit code, once it has ended without being told to."""
        return None if self._process is None else self._process.poll()

    async def start(self) -> OpenAIEngine:
        """An engine that answers.

        Raises:
            DownError: it ended, or is not ready within ``start_s``; its log says why.
        """
        port, key, settings = _free_port(), secrets.token_urlsafe(32), self._settings
        environment = {**os.environ, **_QUIET, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", **settings.environment}
        environment["VLLM_API_KEY"] = key  # not a word of the command: everybody on the machine can read those
        try:
            with settings.log.open("ab") as log:
                words = _with_us(settings.command(port))
                self._process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
        except OSError as error:
            raise DownError(
                f"Expected to start {settings.program}, got: {error.strerror}. Install vLLM or name its command."
            ) from error
        url = f"http://127.0.0.1:{port}"
        engine = OpenAIEngine(Endpoint(url, settings.served_name, key, priorities=True))
        try:
            await self._ready(engine)
        except BaseException:
            await engine.close()
            await self.stop()
            raise
        return engine

    async def stop(self) -> None:
        """End it and all that it has started: SIGTERM, and SIGKILL to whatever is left after 15 seconds."""
        if self._process is None:
            return
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, _STOP_S)
        self._signal(signal.SIGKILL)
        await asyncio.to_thread(self._process.wait)
        self._process = None

    async def _ready(self, engine: OpenAIEngine) -> None:
        end = time.monotonic() + self._settings.start_s
        while self._process is not None and not (await engine.health()).ready:
            if (code := self._process.poll()) is not None:
                raise DownError(f"Expected vLLM to start, got exit code {code}. Its log says why: {self._settings.log}")
            if time.monotonic() > end:
                raise DownError(
                    f"Expected vLLM to be ready within {self._settings.start_s:g} s, got nothing. "
                    f"Its log says why: {self._settings.log}"
                )
            await asyncio.sleep(_LOOK_S)

    def _signal(self, number: int) -> None:
        """To its whole session: vLLM's workers are processes of their own."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def _with_us(words: list[str]) -> list[str]:
    """The command so that Linux ends it when the thread that starts it ends, even by SIGKILL: what is left would keep
    the card's memory, and nobody else has its key.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None or shutil.which(words[0]) is None:
        return words
    return [setpriv, "--pdeathsig", "TERM", "--", *words]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
