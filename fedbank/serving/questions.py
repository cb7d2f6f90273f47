"""What is asked of the service, and the events of an answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedbank.errors import FedBankError
from fedbank.serving.engines.interface import INTERACTIVE, Finish, Turn
from fedbank.serving.pipeline import Notice


class QuestionError(FedBankError):
    """A question that is empty or too long, or an answer of a length that is not offered."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks (a pseudonym) and in whose name (the customer, as the bank calls them)."""

    principal: str
    customer: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. ``history``: given where the caller keeps the conversation; then there is no session.

    ``max_tokens`` of the answer; ``None``: the service's default. ``temperature``, ``seed``: see ``Generation``.
    """

    text: str = field(repr=False)
    session_id: str | None = None
    max_tokens: int | None = None
    priority: int = INTERACTIVE
    history: tuple[Turn, ...] | None = field(default=None, repr=False)
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """The question was taken; text comes."""

    request_id: str
    session_id: str | None
    release: str


@dataclass(frozen=True, slots=True)
class Delta:
    """More text of the answer."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answered:
    """The whole answer, once it is kept. ``latency_ms`` from the question to here."""

    request_id: str
    session_id: str | None
    release: str
    text: str = field(repr=False)
    prompt_tokens: int
    answer_tokens: int
    latency_ms: float
    finish: Finish
    notices: tuple[Notice, ...]
    aigc: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """Characters of a question (with its history, if that is given), tokens of an answer."""

    max_characters: int = 8000
    default_tokens: int = 256
    max_tokens: int = 1024

    def check(self, question: Question) -> None:
        """``QuestionError`` if it is not within them."""
        length = len(question.text) + sum(len(turn.text) for turn in question.history or ())
        tokens = question.max_tokens
        if not question.text.strip():
            raise QuestionError("Expected a question, got blanks. Send its text.")
        if length > self.max_characters:
            raise QuestionError(
                f"Expected a question of at most {self.max_characters} characters, got {length}. Ask a shorter one."
            )
        if tokens is not None and not 1 <= tokens <= self.max_tokens:
            raise QuestionError(f"Expected an answer of 1 to {self.max_tokens} tokens, got {tokens}. Ask for less.")
