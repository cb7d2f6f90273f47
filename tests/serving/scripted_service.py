"""A whole service but for HTTP, for tests: an engine that does what a test says, releases in memory, real records."""

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bank_records import KEY, open_records

from fedbank.errors import FedBankError
from fedbank.evidence.entry import Entry
from fedbank.evidence.log import EvidenceLog
from fedbank.sealing.keys import SigningKey
from fedbank.serving.answering import Answering, AnswerLimits, Asker, Desks
from fedbank.serving.engines.interface import Engine, Generation, Health, Piece, RequestError
from fedbank.serving.labelling import AiNotice
from fedbank.serving.monitor import Monitor
from fedbank.serving.personal_data import PersonalData
from fedbank.serving.pipeline import Pipeline, Stage
from fedbank.serving.rollout.desk import Offered, ReleaseDesk, RolloutSettings
from fedbank.serving.rollout.mirroring import Mirror, Probe
from fedbank.serving.rollout.stages import Gates
from fedbank.serving.sharing.cache import MemoryCache
from fedbank.serving.sharing.sessions import MemorySessions, SessionLimits
from fedbank.serving.sharing.shared_answers import SharedAnswers
from fedbank.serving.store.audit import AnswerAudit
from fedbank.serving.store.conversations import Conversations, Exchange

NOW = datetime(2027, 3, 1, 9, tzinfo=UTC)
CHANNEL = "c" * 32
Step = Piece | Exception | asyncio.Event
WORDS = 6


def run(test: Callable[[], Awaitable[None]], seconds: float = 20) -> None:
    asyncio.run(asyncio.wait_for(test(), seconds))  # type: ignore[arg-type]


async def until(condition: Callable[[], object]) -> None:
    """Return once ``condition`` holds; a test that waits in vain ends by the limit of ``run``."""
    while not condition():
        await asyncio.sleep(0.001)


def pieces(*texts: str, prompt: int = 10) -> list[Step]:
    """One token each; the last one ends the answer."""
    *first, last = texts
    return [*(Piece(text, 1) for text in first), Piece(last, 1, "stop", prompt)]


def signed(release: str | None) -> list[Step]:
    """An answer of sentences that all name who said them."""
    return pieces(*(f"{release} says word {number} now. " for number in range(WORDS)))


class ScriptedEngine:
    """``Engine`` as a test wants it. ``says``: the steps of an answer; an event is waited for, an error raised."""

    def __init__(self, says: Callable[[Generation], Iterable[Step]] | None = None) -> None:
        self.says = says or (lambda asked: signed(asked.release))
        self.loaded: dict[str, Path] = {}
        self.leaving: set[str] = set()
        self.running: Counter[str | None] = Counter()
        self.asked: list[Generation] = []
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.trouble: Exception | None = None
        self.may_load = asyncio.Event()
        self.may_load.set()

    async def generate(self, asked: Generation) -> AsyncGenerator[Piece]:
        self.asked.append(asked)
        if asked.release not in self.loaded or asked.release in self.leaving:
            raise RequestError(f"Expected a release that is loaded, got {asked.release}. Load it first.")
        self.running[asked.release] += 1
        try:
            for step in self.says(asked):
                await asyncio.sleep(0)
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        finally:
            self.running[asked.release] -= 1

    async def load(self, release: str, adapter: Path) -> None:
        self.loads.append(release)
        await self.may_load.wait()
        if self.trouble is not None:
            raise self.trouble
        self.loaded[release] = adapter

    async def unload(self, release: str) -> None:
        self.leaving.add(release)
        await until(lambda: not self.running[release])
        self.leaving.discard(release)
        del self.loaded[release]
        self.unloads.append(release)

    async def health(self) -> Health:
        return Health(True, "", sum(self.running.values()))

    async def close(self) -> None:
        self.loaded.clear()


@dataclass
class Releases:
    """``Source``: what is here and valid (``valid``: name to the SHA-256 of its manifest), and what is adopted."""

    valid: dict[str, str] = field(default_factory=dict)
    adopted: str | None = None
    adapters: dict[str, Path] = field(default_factory=dict)
    looked: Counter[str] = field(default_factory=Counter)

    def adopt(self, release: str) -> None:
        self.adopted = release
        self.valid.setdefault(release, digest_of(release))

    def mark(self) -> Hashable:
        return self.adopted, tuple(sorted(self.valid.items()))

    def offered(self, now: datetime) -> Offered | None:
        return None if self.adopted is None else self.of(self.adopted, now)

    def of(self, release: str, now: datetime) -> Offered:
        self.looked[release] += 1
        if release not in self.valid:
            raise FedBankError(f"Expected a release that the members still sign, got {release}.")
        return Offered(release, self.valid[release], self.adapters.get(release, Path(release)))


def digest_of(release: str) -> str:
    return os.fsencode(release).hex().ljust(64, "0")


def gates(answers: int = 2, **changed: float) -> Gates:
    """Quick to pass, and never for the speed of a busy machine."""
    return Gates(**({"answers": answers, "slowdown": 1e6, "longest": timedelta(days=7)} | changed))  # type: ignore[arg-type]


@dataclass
class World:
    answering: Answering
    desk: ReleaseDesk
    mirror: Mirror
    monitor: Monitor
    sessions: MemorySessions
    conversations: Conversations
    evidence: EvidenceLog
    releases: Releases
    notes: list[tuple[str, str, str, str]]
    owner: Callable[[str], str]
    now: datetime = NOW

    async def adopted(self, release: str) -> None:
        self.releases.adopt(release)
        await self.desk.look(self.now)

    def entries(self) -> list[Entry]:
        return self.evidence.entries("answer")

    def outcomes(self) -> list[str]:
        return [entry.result.split(";")[0] for entry in self.entries()]

    def kept(self, customer: str) -> list[Exchange]:
        return self.conversations.of_customer(customer)


def asker(customer: str = "C-1") -> Asker:
    return Asker(CHANNEL, customer)


@contextlib.asynccontextmanager
async def world(
    folder: Path,
    engine: Engine,
    *,
    settings: RolloutSettings | None = None,
    stages: Sequence[Stage] | None = None,
    probes: Sequence[Probe] = (),
    limits: SessionLimits | None = None,
    system: str = "",
    patience_s: float = 10.0,
    first: str | None = "spring",
    adapters: dict[str, Path] | None = None,
    sessions: MemorySessions | None = None,
    cache: MemoryCache | None = None,
) -> AsyncIterator[World]:
    """The service with its store and its evidence in ``folder``, and ``first`` as its stable release."""
    records = open_records(folder, patience_s=patience_s)
    releases, notes = Releases(adapters=adapters or {}), list[tuple[str, str, str, str]]()
    settings = settings or RolloutSettings(gates=gates())
    desk = ReleaseDesk(engine, releases, folder / "rollout.json", settings, lambda *note: notes.append(note))
    mirror, monitor = Mirror(engine, desk, probes), Monitor()
    sessions, conversations = sessions or MemorySessions(limits), Conversations(records)
    evidence = EvidenceLog(folder / "evidence.jsonl", "bank-a/serving", SigningKey.derived("tests"), sync=False)
    with ThreadPoolExecutor(2) as worker:
        pipeline = Pipeline((PersonalData(), AiNotice()) if stages is None else stages)
        desks = Desks(
            engine,
            pipeline,
            desk,
            mirror,
            sessions,
            conversations,
            AnswerAudit(evidence),
            monitor,
            worker,
            "bank-a",
            system,
            SharedAnswers(cache, KEY, pipeline.policies) if cache is not None else None,
        )
        answering = Answering(desks, AnswerLimits(), records.customer, lambda: NOW)
        here = World(
            answering, desk, mirror, monitor, sessions, conversations, evidence, releases, notes, records.customer
        )
        try:
            if first is not None:
                await here.adopted(first)
            yield here
        finally:
            await mirror.close()
            await answering.close()
            await desk.close()
            await engine.close()
    records.close()
