"""A bank's service as a process of its own, for the pages: all of it is real but the model, which says what it is told.

``python told_bank.py FOLDER``; the line that it prints is its address. A question ``say X`` is answered with X, and one
with ``slowly`` never ends. A file ``adopted`` in FOLDER names the release that is offered, a file ``down`` stops the
model.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Hashable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from fedbank.errors import FedBankError
from fedbank.evidence.log import EvidenceLog
from fedbank.sealing.keys import SigningKey
from fedbank.serving.access.development_issuer import DevelopmentIssuer
from fedbank.serving.access.tokens import TokenVerifier
from fedbank.serving.answering import Answering, AnswerLimits, Desks
from fedbank.serving.engines.interface import DownError, Generation, Health, Piece
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
from fedbank.serving.store.jobs import Jobs
from fedbank.serving.store.records import Records
from fedbank.serving.store.vault import RecordsKey
from fedbank_client.serving.app import make_app
from fedbank_client.serving.limits import Rates
from fedbank_client.serving.server import make_server
from fedbank_client.serving.service import Development, Service

HOST, AUDIENCE = "127.0.0.1", "bank-a"
SETTINGS = RolloutSettings(shadow_share=1.0, canary_share=1.0, automatic=False)


class ToldModel:
    """An engine whose words are in the question."""

    def __init__(self, folder: Path) -> None:
        self._down, self._running = folder / "down", 0

    async def generate(self, asked: Generation) -> AsyncGenerator[Piece]:
        if self._down.exists():
            raise DownError("The model was told to be down.", 7.0)
        question = asked.turns[-1].text
        answer = f"{question.removeprefix('say ')} [after {len(asked.turns) // 2}]"
        self._running += 1
        try:
            for start in range(0, len(answer), 4):
                yield Piece(answer[start : start + 4], 1)
            while "slowly" in question:
                await asyncio.sleep(0.05)
                yield Piece("More. ", 1)
            yield Piece("", 0, "stop", 9)
        finally:
            self._running -= 1

    async def load(self, release: str, adapter: Path) -> None: ...

    async def unload(self, release: str) -> None: ...

    async def health(self) -> Health:
        down = self._down.exists()
        return Health(not down, "told to be down" if down else "", self._running)

    async def close(self) -> None: ...


class Adopted:
    """A source of releases: whatever the file says is verified."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "adopted"

    def mark(self) -> Hashable:
        return self._file.read_text()

    def offered(self, now: datetime) -> Offered | None:
        return self.of(self._file.read_text(), now)

    def of(self, release: str, now: datetime) -> Offered:
        if not release:
            raise FedBankError("Expected a release, got none. Adopt one.")
        return Offered(release, release.encode().hex().ljust(64, "0")[:64], self._file.parent)


async def main(folder: Path) -> None:
    key, model = RecordsKey.generate(), ToldModel(folder)
    records = Records(Database(folder / "records.sqlite"), key)
    evidence = EvidenceLog(folder / "evidence", "test.example/bank-a", SigningKey.derived("test", "evidence"))
    desk = ReleaseDesk(model, Adopted(folder), folder / "rollout.json", SETTINGS, lambda *_: None)
    conversations = Conversations(records)
    audit, monitor, worker = AnswerAudit(evidence), Monitor(), ThreadPoolExecutor(1)
    pipeline = Pipeline((PersonalData(), AiNotice()))
    mirror = Mirror(model, desk)
    desks = Desks(model, pipeline, desk, mirror, MemorySessions(), conversations, audit, monitor, worker, "Bank A")
    issuer = DevelopmentIssuer(folder, HOST)
    service = Service(
        answering=Answering(desks, AnswerLimits(), records.customer),
        verifier=TokenVerifier(issuer.policy(AUDIENCE), issuer.keys()),
        key=key,
        records=records,
        conversations=conversations,
        feedback=FeedbackDesk(records),
        jobs=Jobs(records),
        releases=desk,
        monitor=monitor,
        engine=model,
        audit=audit,
        evidence=evidence,
        rates=Rates(100.0, 100),
        development=Development(issuer, AUDIENCE),
    )
    await desk.look(datetime.now(UTC))
    server = make_server(make_app(service), service.limits)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    sys.stdout.write(f"http://{HOST}:{server.servers[0].sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    while not serving.done():
        await asyncio.sleep(0.1)
        await desk.look(datetime.now(UTC))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
