"""One question on its whole way: session, stages in, release, engine, stages out, records, evidence.

An answer is complete when it is in the bank's store and in its evidence, and only then is its end told. One that breaks
off (the customer left, the engine failed) is in both as far as it was shown.
"""

import asyncio
import logging
import math
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from fedbank.errors import FedBankError
from fedbank.serving.engines.interface import BusyError, Engine, EngineError, Finish, Generation, RequestError, Turn
from fedbank.serving.labelling import aigc
from fedbank.serving.monitor import Monitor, Outcome
from fedbank.serving.pipeline import Language, Notice, Outgoing, Passage, Pipeline, Settled, WithheldError, language_of
from fedbank.serving.questions import Answered, AnswerLimits, Asker, Delta, Question, QuestionError, Started
from fedbank.serving.rollout.desk import Offered, ReleaseDesk
from fedbank.serving.rollout.mirroring import Mirror, Original, Pace
from fedbank.serving.sharing.cache import CachedAnswer
from fedbank.serving.sharing.redis_link import SharedStoreError
from fedbank.serving.sharing.sessions import Said, Sessions, UnknownSessionError
from fedbank.serving.sharing.shared_answers import SharedAnswers
from fedbank.serving.store.audit import AnswerAudit
from fedbank.serving.store.audit import Answered as Audited
from fedbank.serving.store.conversations import Conversations, Exchange
from fedbank.serving.store.keeping import Ended, Keeper

__all__ = [
    "CUT",
    "AnswerLimits",
    "Answered",
    "Answering",
    "Asker",
    "Delta",
    "Desks",
    "Question",
    "QuestionError",
    "Started",
]

_LOG = logging.getLogger(__name__)
CUT = Notice(
    "answer-cut",
    "回答已达到长度上限，可能不完整。",
    "The answer reached its maximal length and may be incomplete.",
)


@dataclass(frozen=True, slots=True)
class Desks:
    """Whom ``Answering`` works with. ``worker`` runs what blocks: the store and the log. ``producer``: the bank's name.

    ``system``: the bank's own instruction before every conversation, or empty. ``shared``: answers that are told
    again; ``None``: none are.
    """

    engine: Engine
    pipeline: Pipeline
    releases: ReleaseDesk
    mirror: Mirror
    sessions: Sessions
    conversations: Conversations
    audit: AnswerAudit
    monitor: Monitor
    worker: Executor
    producer: str
    system: str = ""
    shared: SharedAnswers | None = None


@dataclass(slots=True, eq=False)
class _Answer:
    """One answer as it grows. ``erased``: nothing of it is kept but its entry in the evidence."""

    asker: Asker
    question: Question
    request_id: str
    began: float
    at: datetime
    language: Language
    owner: str
    session_id: str | None = None
    release: Offered | None = None
    characters: int = 0
    erased: bool = False
    keeping: asyncio.Future[None] | None = None
    notices: tuple[Notice, ...] = ()
    shown: list[str] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)
    prompt_tokens: int = 0
    finish: Finish = "stop"


class Answering:
    """The service's one way from a question to an answer."""

    def __init__(
        self,
        desks: Desks,
        limits: AnswerLimits,
        pseudonym: Callable[[str], str],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``pseudonym``: of a customer's name (``Records.customer``).

        Raises:
            AuditError: a stage has a name or a version that no entry of the evidence can hold.
        """
        Audited("r", "0" * 32, "0" * 32, "none", desks.pipeline.policies, 0, 0)
        self._desks, self.limits, self._pseudonym, self._clock = desks, limits, pseudonym, clock
        self._instruction = (Turn("system", desks.system),) if desks.system else ()
        self._keeper = Keeper(desks.conversations, desks.audit, desks.worker)
        self._running: set[_Answer] = set()

    async def ask(self, asker: Asker, question: Question) -> AsyncGenerator[Started | Delta | Answered]:
        """``Started``, then text, then ``Answered``; closing it cancels.

        Raises:
            QuestionError, RefusedTextError, UnknownSessionError, NoReleaseError: before ``Started``.
            EngineError: at any moment.
            RecordsError, EvidenceError: the answer could not be kept, and its end is not told.
        """
        self.limits.check(question)
        answer = self._new(asker, question)
        history = await self._history(answer)
        outcome: Outcome = "refused"
        self._running.add(answer)
        try:
            found = await self._incoming(answer, history)
            outcome = "failed"
            await self._choose(answer, found)
            yield Started(answer.request_id, answer.session_id, answer.release.release if answer.release else "")
            async with aclosing(self._texts(answer, found)) as texts:
                async for text in texts:
                    answer.shown.append(text)
                    yield Delta(text)
            outcome = "answered"
        except (GeneratorExit, asyncio.CancelledError):
            outcome = "cancelled"
            raise
        finally:
            answer.keeping = asyncio.ensure_future(self._keep(answer, outcome))
            answer.keeping.add_done_callback(lambda _: self._running.discard(answer))
            try:
                await asyncio.shield(answer.keeping)  # whoever cancels does not cancel the records of what was shown
            except FedBankError:
                if outcome != "cancelled":  # nobody is left to be told, and whoever cancelled must see it done
                    raise
        yield self._told(answer)

    async def answer(self, asker: Asker, question: Question) -> Answered:
        """All of it at once."""
        async with aclosing(self.ask(asker, question)) as events:
            async for event in events:
                if isinstance(event, Answered):
                    return event
        raise AssertionError("an answer ends with Answered or an error")

    async def forget(self, owner: str) -> int:
        """Before a customer (by pseudonym) is erased: their sessions end, and no answer of theirs is told to others.

        What is being answered to them goes on, and is not kept behind the erasure. Returns how many sessions there
        were, once nothing of theirs is being written.

        Raises:
            SharedStoreError: it cannot be said that they are gone. Do it again.
        """
        theirs = [answer for answer in self._running if answer.owner == owner]
        for answer in theirs:
            answer.erased = True
        sessions = await self._desks.sessions.forget(owner)
        if self._desks.shared is not None:
            await self._desks.shared.forget(owner, self._clock())
        await self._kept(theirs)
        return sessions

    async def close(self) -> None:
        """Return once everything that was shown is kept."""
        await self._kept(self._running)

    @staticmethod
    async def _kept(answers: Iterable[_Answer]) -> None:
        await asyncio.gather(*(one.keeping for one in answers if one.keeping is not None), return_exceptions=True)

    def _new(self, asker: Asker, question: Question) -> _Answer:
        return _Answer(
            asker,
            question,
            f"r{secrets.token_hex(16)}",
            time.monotonic(),
            self._clock(),
            language_of(question.text),
            self._pseudonym(asker.customer),
            question.session_id if question.history is None else None,
        )

    async def _history(self, answer: _Answer) -> tuple[Turn, ...]:
        if answer.question.history is not None or answer.session_id is None:
            return answer.question.history or ()
        return await self._desks.sessions.context(answer.session_id, answer.owner, answer.at)

    async def _incoming(self, answer: _Answer, history: tuple[Turn, ...]) -> Passage | Settled:
        turns = (*history, Turn("user", answer.question.text))
        found = await self._desks.pipeline.incoming(Passage(answer.request_id, answer.language, turns))
        answer.notices = (found.passage if isinstance(found, Settled) else found).notices
        return found

    async def _choose(self, answer: _Answer, found: Passage | Settled) -> None:
        """A session if there is none, and the release that answers it; what is settled needs none."""
        releases = self._desks.releases
        if not isinstance(found, Settled):
            releases.choose(answer.request_id)  # no session begins while nobody may answer
        if answer.question.history is None and answer.session_id is None:
            answer.session_id = await self._desks.sessions.start(answer.owner, answer.at)
        if not isinstance(found, Settled):
            answer.release = releases.choose(answer.session_id or answer.request_id)

    async def _texts(self, answer: _Answer, found: Passage | Settled) -> AsyncGenerator[str]:
        """What may be shown, as it comes."""
        passage = found.passage if isinstance(found, Settled) else found
        outgoing, before = Outgoing(passage.filters), ""
        try:
            if isinstance(found, Settled):
                if text := await outgoing.feed(found.text):
                    yield text
            else:
                async with aclosing(self._pieces(answer, passage)) as pieces:
                    async for piece in pieces:
                        if text := await outgoing.feed(piece):
                            yield text
            if text := await outgoing.end():
                yield text
        except WithheldError as error:
            before = error.shown
            answer.notices = (*answer.notices, error.notice)
        if before:
            yield before
        if answer.finish == "length":
            answer.notices = (*answer.notices, CUT)

    async def _pieces(self, answer: _Answer, passage: Passage) -> AsyncGenerator[str]:
        """The model's words; a canary that fails before its first one gives way to the stable release."""
        desk, question = self._desks.releases, answer.question
        tokens = question.max_tokens or self.limits.default_tokens
        turns = (*self._instruction, *passage.turns)
        answer.characters = sum(len(turn.text) for turn in turns)
        asked = Generation(
            answer.request_id, turns, tokens, None, question.priority, question.temperature, question.seed
        )
        if (known := await self._known(answer, passage, asked)) is not None:
            yield known
            return
        while answer.release is not None:
            release = answer.release.release
            try:
                async with aclosing(self._one(answer, replace(asked, release=release))) as pieces:
                    async for piece in pieces:
                        yield piece
            except EngineError as error:
                self._failed(release, error)
                stable = desk.loaded(desk.rollout.stable)
                if any(answer.raw) or stable is None or stable.release == release:
                    raise
                answer.release, answer.pace = stable, Pace()
                continue
            desk.saw(release, answer.pace.ms, failed=False)
            self._desks.mirror.offer(Original(replace(asked, release=release), release, "".join(answer.raw)))
            await self._share(answer, passage, asked)
            return

    def _failed(self, release: str, error: EngineError) -> None:
        """A queue that is full says nothing of the release; a refusal may mean that the engine does not have it."""
        if not isinstance(error, BusyError):
            self._desks.releases.doubt(release)
        if not isinstance(error, BusyError | RequestError):
            self._desks.releases.saw(release, 0.0, failed=True)

    async def _known(self, answer: _Answer, passage: Passage, asked: Generation) -> str | None:
        """What the same release said to the same question, if it may be told again."""
        shared, offered = self._desks.shared, answer.release
        if shared is None or offered is None:
            return None
        found = await shared.get(passage, asked, offered.digest, answer.at)
        if found is None:
            return None
        answer.prompt_tokens, answer.finish = found.prompt_tokens, found.finish
        answer.pace.came(found.answer_tokens, time.monotonic())
        return found.text

    async def _share(self, answer: _Answer, passage: Passage, asked: Generation) -> None:
        shared, offered = self._desks.shared, answer.release
        if shared is not None and offered is not None:
            said = CachedAnswer("".join(answer.raw), answer.prompt_tokens, answer.pace.tokens, answer.finish)
            await shared.put(passage, asked, offered.digest, said, answer.owner, answer.at)

    async def _one(self, answer: _Answer, asked: Generation) -> AsyncGenerator[str]:
        async with aclosing(self._desks.engine.generate(asked)) as pieces:
            async for piece in pieces:
                answer.raw.append(piece.text)
                answer.pace.came(piece.token_count, time.monotonic())
                if piece.finish is not None:
                    answer.prompt_tokens, answer.finish = piece.prompt_tokens, piece.finish
                if piece.text:
                    yield piece.text

    async def _keep(self, answer: _Answer, outcome: Outcome) -> None:
        """Into the session, the store and the evidence; then into the numbers."""
        text, release = "".join(answer.shown), answer.release
        at = self._clock()
        latency = 1000 * (time.monotonic() - answer.began)
        try:
            await self._keeper.keep(self._ended(answer, text, outcome))
            if text and answer.session_id is not None and not answer.erased:
                said = Said(answer.question.text, text, _tokens(answer, text))
                await self._remember(answer, said, at)
        except Exception:
            outcome = "failed"
            raise
        finally:
            self._desks.monitor.ended(
                outcome,
                release.release if release else "none",
                latency,
                at,
                read=answer.prompt_tokens,
                written=answer.pace.tokens,
            )

    async def _remember(self, answer: _Answer, said: Said, at: datetime) -> None:
        """In its session, if that can be; the answer is kept, and counts all the same."""
        try:
            await self._desks.sessions.add(answer.session_id or "", answer.owner, said, at)
        except UnknownSessionError:
            pass  # it ended meanwhile
        except SharedStoreError as error:
            _LOG.warning("A session goes on without its last answer. %s", error)

    def _ended(self, answer: _Answer, text: str, outcome: Outcome) -> Ended:
        release, exchange = answer.release, None
        if text and not answer.erased:
            exchange = Exchange(
                answer.request_id,
                answer.at,
                answer.session_id or "",
                release.release if release is not None else "",
                answer.asker.customer,
                answer.question.text,
                text,
                language=answer.language,
            )
        entry = Audited(
            answer.request_id,
            answer.asker.principal,
            answer.owner,
            release.digest if release is not None else "none",
            self._desks.pipeline.policies,
            answer.prompt_tokens,
            answer.pace.tokens,
            outcome,
        )
        return Ended(exchange, entry)

    def _told(self, answer: _Answer) -> Answered:
        return Answered(
            answer.request_id,
            answer.session_id,
            answer.release.release if answer.release else "",
            "".join(answer.shown),
            answer.prompt_tokens,
            answer.pace.tokens,
            round(1000 * (time.monotonic() - answer.began), 1),
            answer.finish,
            answer.notices,
            aigc(self._desks.producer, answer.request_id),
        )


def _tokens(answer: _Answer, text: str) -> int:
    """Of the question and its answer, without what was said before: its share of the prompt, by characters.

    A text that no model read or wrote to its end counts a token for each character.
    """
    question, shown = len(answer.question.text), answer.pace.tokens or len(text)
    if not answer.prompt_tokens or not answer.characters:
        return question + shown
    return math.ceil(answer.prompt_tokens * min(1.0, question / answer.characters)) + shown
