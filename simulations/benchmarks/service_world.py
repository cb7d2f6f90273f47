"""A bank's service in a folder, whole but for HTTP: real stages, sessions, records and evidence around any engine."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedbank.errors import FedBankError
from fedbank.evidence.log import EVIDENCE, EvidenceLog
from fedbank.sealing.keys import SigningKey
from fedbank.serving.answering import Answering, AnswerLimits, Desks
from fedbank.serving.engines.interface import Engine, Generation, Health, Piece
from fedbank.serving.labelling import AiNotice
from fedbank.serving.monitor import Monitor
from fedbank.serving.personal_data import PersonalData
from fedbank.serving.pipeline import Pipeline, language_of
from fedbank.serving.rollout.desk import Offered, ReleaseDesk, RolloutSettings
from fedbank.serving.rollout.mirroring import Mirror
from fedbank.serving.sharing.sessions import MemorySessions
from fedbank.serving.store.audit import AnswerAudit
from fedbank.serving.store.conversations import Conversations
from fedbank.serving.store.database import Database
from fedbank.serving.store.records import Records
from fedbank.serving.store.vault import RecordsKey

_LOOK_S = 5.0
_SAID = {
    True: (
        "您好，",
        "定期存款",
        "可以",
        "提前支取，",
        "未到期部分",
        "按活期利率",
        "计息。",
        "请携带",
        "有效证件",
        "到网点办理。",
    ),
    False: (
        "You can ",
        "withdraw a deposit ",
        "early. ",
        "The rest ",
        "earns ",
        "the demand rate. ",
        "Please bring ",
        "your documents.",
    ),
}


class FixedEngine:
    """Answers at once, in pieces, always the same in each language: what is left is the service's own time."""

    async def generate(self, asked: Generation) -> AsyncGenerator[Piece]:
        """See ``Engine``."""
        *first, last = _SAID[language_of(asked.turns[-1].text) == "zh"]
        for text in first:
            yield Piece(text, 2)
        yield Piece(last, 2, "stop", 40)

    async def load(self, release: str, adapter: Path) -> None:
        """See ``Engine``."""

    async def unload(self, release: str) -> None:
        """See ``Engine``."""

    async def health(self) -> Health:
        """See ``Engine``."""
        return Health(True, "")

    async def close(self) -> None:
        """See ``Engine``."""


class Folders:
    """Releases in folders, verified by whoever made them; ``adopted`` is the one that is offered."""

    def __init__(self, releases: Mapping[str, Offered], adopted: str) -> None:
        self._releases, self.adopted = releases, adopted

    def mark(self) -> Hashable:
        """See ``Source``."""
        return self.adopted

    def offered(self, now: datetime) -> Offered | None:
        """See ``Source``."""
        return self.of(self.adopted, now)

    def of(self, release: str, now: datetime) -> Offered:
        """See ``Source``."""
        if release not in self._releases:
            raise FedBankError(f"Expected a release that was made, got {release}.")
        return self._releases[release]


@dataclass(frozen=True, slots=True)
class World:
    """The parts that a benchmark looks at."""

    answering: Answering
    desks: Desks
    key: RecordsKey
    records: Records
    evidence: EvidenceLog

    @property
    def releases(self) -> ReleaseDesk:
        """Who answers."""
        return self.desks.releases


@contextlib.asynccontextmanager
async def service(
    folder: Path, engine: Engine, source: Folders, settings: RolloutSettings | None = None
) -> AsyncIterator[World]:
    """The service with its store and its evidence in ``folder``, which looks after its releases meanwhile."""
    key = RecordsKey.generate()
    records = Records(Database(folder / "records.sqlite"), key)
    evidence = EvidenceLog(folder / EVIDENCE, "benchmark.example/bank-a", SigningKey.derived("benchmark", "evidence"))
    desk = ReleaseDesk(engine, source, folder / "rollout.json", settings or RolloutSettings(), lambda *_: None)
    with ThreadPoolExecutor(4, thread_name_prefix="records") as worker:
        mirror = Mirror(engine, desk)
        desks = Desks(
            engine=engine,
            pipeline=Pipeline((PersonalData(), AiNotice())),
            releases=desk,
            mirror=mirror,
            sessions=MemorySessions(),
            conversations=Conversations(records),
            audit=AnswerAudit(evidence),
            monitor=Monitor(),
            worker=worker,
            producer="benchmark",
        )
        answering = Answering(desks, AnswerLimits(), records.customer)
        await desk.look(datetime.now(UTC))
        looking = asyncio.create_task(_look(desk))
        try:
            yield World(answering, desks, key, records, evidence)
        finally:
            looking.cancel()
            await answering.close()
            await mirror.close()
            await desk.close()
            await engine.close()
    evidence.close()
    records.close()


async def _look(desk: ReleaseDesk) -> None:
    while True:
        await asyncio.sleep(_LOOK_S)
        await desk.look(datetime.now(UTC))
