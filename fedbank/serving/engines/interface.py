"""What an engine is: the one interface between the service and whatever turns a conversation into an answer.

An engine knows adapters by the name of their release and nothing of who asks, of policies or of records. It may be in
this process or anywhere else; whatever happens to it ends in one of the errors below, within a bounded time.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from fedbank.errors import FedBankError

Role = Literal["system", "user", "assistant"]
Finish = Literal["stop", "length"]
INTERACTIVE, BACKGROUND = 0, 1
"""Priorities: somebody waits for it; nobody does (shadow traffic, batch jobs)."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine is asked: the next turn after ``turns``, of ``max_new_tokens`` at most.

    ``release``: whose adapter; ``None``: the base model alone. ``temperature`` 0: the likeliest token each time.
    """

    request_id: str
    turns: Sequence[Turn]
    max_new_tokens: int
    release: str | None
    priority: int = INTERACTIVE
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer as it comes: ``text`` (may be empty), and how many tokens it took.

    The last piece alone has ``finish``, and ``prompt_tokens`` of the whole request.
    """

    text: str
    token_count: int
    finish: Finish | None = None
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Health:
    """``ready``: whether a request can be served now; ``said``: why not, for an operator."""

    ready: bool
    said: str
    running: int = 0
    waiting: int = 0


class EngineError(FedBankError):
    """An engine could not answer. ``retry_after_s``: when it may be worth another try; ``None``: it is not."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BusyError(EngineError):
    """The queue is full."""


class DownError(EngineError):
    """The engine does not answer, or not in time."""


class RequestError(EngineError):
    """It cannot be answered as it is: too long, or a release that is not loaded."""


class Engine(Protocol):
    """See the module. Closing the iterator of ``generate`` cancels the request and frees its slot."""

    def generate(self, asked: Generation) -> AsyncGenerator[Piece]:
        """The answer, piece by piece; ``EngineError`` at any moment."""
        ...

    async def load(self, release: str, adapter: Path) -> None:
        """Make a release's adapter (a verified PEFT folder) available under its name; requests go on meanwhile."""
        ...

    async def unload(self, release: str) -> None:
        """Forget it, once nobody is being answered with it any more."""
        ...

    async def health(self) -> Health:
        """How it is, within a second."""
        ...

    async def close(self) -> None:
        """End everything; whoever waits gets ``DownError``."""
        ...
