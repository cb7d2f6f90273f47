"""A bank's whole service for tests: the real engine on the tiny model, a release, records, evidence, tokens, HTTP."""

import asyncio
import contextlib
import functools
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
from bank_records import KEY
from bank_records import bytes_of as bytes_of
from bank_records import exchange as exchange
from identity_provider import AT as AT
from identity_provider import AUDIENCE, NOW, token, verifier
from identity_provider import POLICY as POLICY
from identity_provider import hmac_with_public_key as hmac_with_public_key
from serving_models import local_tiny, write_tiny_adapter

from fedbank.errors import RunError
from fedbank.evidence.log import EVIDENCE, EvidenceLog
from fedbank.sealing.keys import SigningKey
from fedbank.serving.access.development_issuer import DevelopmentIssuer
from fedbank.serving.access.tokens import TokenVerifier
from fedbank.serving.answering import Answering, AnswerLimits, Desks
from fedbank.serving.engines.batching import Limits
from fedbank.serving.engines.interface import Engine, Generation, Health, Piece
from fedbank.serving.engines.transformers_engine import TransformersEngine
from fedbank.serving.labelling import AiNotice
from fedbank.serving.monitor import Monitor
from fedbank.serving.personal_data import PersonalData
from fedbank.serving.pipeline import Pipeline
from fedbank.serving.rollout.desk import Offered, ReleaseDesk, RolloutSettings
from fedbank.serving.rollout.mirroring import Mirror
from fedbank.serving.sharing.sessions import MemorySessions
from fedbank.serving.store.audit import AnswerAudit
from fedbank.serving.store.conversations import Conversations
from fedbank.serving.store.database import Database
from fedbank.serving.store.feedback import FeedbackDesk
from fedbank.serving.store.jobs import JobLimits, Jobs
from fedbank.serving.store.records import Records
from fedbank_client.serving.app import make_app
from fedbank_client.serving.limits import HttpLimits, Rates, Threads
from fedbank_client.serving.server import make_server
from fedbank_client.serving.service import Development, Service

QUESTION = "How do I open an account?"
FIRST, SECOND = "release-1", "release-2"
CUSTOMER, AGENT, OPERATOR, AUDITOR = "customer-channel", "agent", "operator", "auditor"
ROLES = (CUSTOMER, AGENT, OPERATOR, AUDITOR)


@functools.cache
def adapter(name: str) -> Path:
    """A release's folder for the tiny model, made once."""
    folder = Path(mkdtemp()) / name
    write_tiny_adapter(folder, seed=11 if name == FIRST else 12)
    return folder


@functools.cache
def engine() -> TransformersEngine:
    """The real engine, for all tests of a process."""
    return TransformersEngine(local_tiny(), Limits(max_running=4))


class Adopted:
    """The releases that ``client sync`` would have adopted: ``name`` now."""

    def __init__(self, name: str | None) -> None:
        self.name = name

    def mark(self) -> Hashable:
        return self.name

    def offered(self, now: datetime) -> Offered | None:
        return self.of(self.name, now) if self.name else None

    def of(self, release: str, now: datetime) -> Offered:
        if release not in (FIRST, SECOND):
            raise RunError(f"Expected a release, got {release}.")
        return Offered(release, ("a" if release == FIRST else "b") * 64, adapter(release))


class Braked:
    """The real engine with a brake: after ``free`` pieces of an answer it waits until ``go``. Counts who is in it."""

    def __init__(self, free: int = 1) -> None:
        self._engine, self._free, self.inside, self.seen = engine(), free, 0, 0
        self.go = asyncio.Event()

    async def generate(self, asked: Generation) -> AsyncGenerator[Piece]:
        self.inside += 1
        self.seen += 1
        try:
            async with contextlib.aclosing(self._engine.generate(asked)) as pieces:
                count = 0
                async for piece in pieces:
                    if count >= self._free:
                        await self.go.wait()
                    count += 1
                    yield piece
        finally:
            self.inside -= 1

    async def load(self, release: str, folder: Path) -> None:
        await self._engine.load(release, folder)

    async def unload(self, release: str) -> None:
        pass  # others use the same engine

    async def health(self) -> Health:
        return await self._engine.health()

    async def close(self) -> None:
        pass


@dataclass(slots=True)
class Setting:
    """What a test may want otherwise."""

    engine: Engine | None = None
    adopted: str | None = FIRST
    limits: HttpLimits = field(default_factory=HttpLimits)
    answers: AnswerLimits = field(default_factory=lambda: AnswerLimits(default_tokens=12, max_tokens=200))
    rates: Rates = field(default_factory=lambda: Rates(1000, 1000))
    jobs: JobLimits = field(default_factory=JobLimits)
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    verifier: TokenVerifier | None = field(default_factory=verifier)
    development: bool = False
    patience_s: float = 10.0


class World:
    """One service and its time."""

    def __init__(self, folder: Path, setting: Setting, worker: ThreadPoolExecutor) -> None:
        self.folder, self.now = folder, NOW
        self.engine = setting.engine or engine()
        self.source = Adopted(setting.adopted)
        self.records = Records(Database(folder / "records.sqlite", patience_s=setting.patience_s), KEY)
        self.evidence = EvidenceLog(folder / EVIDENCE, "bank-a/serving", SigningKey.derived("serving"), clock=self.time)
        self.desk = ReleaseDesk(
            self.engine,
            self.source,
            folder / "rollout.json",
            setting.rollout,
            lambda action, release, result, actor: self.evidence.append(action, release, result, actor) and None,
        )
        self.mirror = Mirror(self.engine, self.desk)
        audit, monitor = AnswerAudit(self.evidence), Monitor()
        conversations = Conversations(self.records)
        desks = Desks(
            engine=self.engine,
            pipeline=Pipeline((PersonalData(), AiNotice())),
            releases=self.desk,
            mirror=self.mirror,
            sessions=MemorySessions(),
            conversations=conversations,
            audit=audit,
            monitor=monitor,
            worker=worker,
            producer="bank-a",
        )
        answering = Answering(desks, setting.answers, self.records.customer, self.time)
        issuer = DevelopmentIssuer(folder, "127.0.0.1") if setting.development else None
        self.service = Service(
            answering=answering,
            verifier=TokenVerifier(issuer.policy(AUDIENCE), issuer.keys()) if issuer else setting.verifier,
            key=KEY,
            records=self.records,
            conversations=conversations,
            feedback=FeedbackDesk(self.records),
            jobs=Jobs(self.records, setting.jobs),
            releases=self.desk,
            monitor=monitor,
            engine=self.engine,
            audit=audit,
            evidence=self.evidence,
            rates=setting.rates,
            development=Development(issuer, AUDIENCE) if issuer else None,
            limits=setting.limits,
            store=Threads("store", 2),
            tokens=Threads("tokens", 1),
            clock=self.time,
        )
        self.app: FastAPI = make_app(self.service)

    def time(self) -> datetime:
        return self.now

    def client(self, role: str | None = CUSTOMER, subject: str = "C-10023", **settings: Any) -> httpx.AsyncClient:
        """Speaks to the application without a network; ``role`` ``None``: without a token."""
        headers = {"Authorization": f"Bearer {token(roles=[role], sub=subject)}"} if role else {}
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://bank.test", headers=headers, **settings)

    def answers_of(self, customer: str = "C-10023") -> list[Any]:
        """What the bank has of a customer."""
        return self.service.conversations.of_customer(customer)


@contextlib.asynccontextmanager
async def a_service(folder: Path, setting: Setting | None = None) -> AsyncIterator[World]:
    """A service that has looked at its releases once."""
    with ThreadPoolExecutor(1) as worker:
        world = World(folder, setting or Setting(), worker)
        await world.desk.look(world.now)
        try:
            yield world
        finally:
            await world.service.answering.close()
            await world.mirror.close()
            await world.desk.close()
            world.service.store.close()
            world.service.tokens.close()
    world.evidence.close()
    world.records.close()


@contextlib.asynccontextmanager
async def listening(world: World) -> AsyncIterator[int]:
    """The service behind a real listener on a loopback port, until its orderly end."""
    server = make_server(world.app, world.service.limits)
    running = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started or running.done())
        yield port_of(server)
    finally:
        server.should_exit = True
        await running


def port_of(server: uvicorn.Server) -> int:
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return port


async def until(holds: Any, seconds: float = 20.0) -> None:
    """Wait for a condition, within a bound."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.005)


def events_of(text: str) -> list[tuple[str, str]]:
    """Name and data of the events of a stream."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields.get("event", ""), fields["data"]))
    return found
