"""What a service does by itself, beside answering: looks after releases, works on batch jobs, purges old records.

Whatever goes wrong in one round is logged without its words, which may be a customer's, and the next round comes.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

from fedbank.errors import FedBankError
from fedbank_client.serving.edge import LOG, where
from fedbank_client.serving.folder import PURGED
from fedbank_client.serving.job_worker import work_on_jobs
from fedbank_client.serving.service import Service
from fedbank_client.serving.wiring import Opened

_LOOK_S = 2.0
_ITSELF = "service"


@contextlib.asynccontextmanager
async def running(opened: Opened, watch: "ReleaseWatch", retention: timedelta, purge_at: str) -> AsyncIterator[None]:
    """All of it, until the block ends. ``purge_at``: HH:MM of this machine's clock."""
    service, stop = opened.service, asyncio.Event()
    working = asyncio.create_task(work_on_jobs(service, stop))
    rounds = [asyncio.create_task(one) for one in (_watching(watch), _purging(service, retention, purge_at))]
    try:
        yield
    finally:
        stop.set()
        for task in rounds:
            task.cancel()
        await asyncio.gather(working, *rounds, return_exceptions=True)


class ReleaseWatch:
    """Looks after releases, and tells the operator at the console when something about them has changed."""

    def __init__(self, opened: Opened, say: Callable[[str], None]) -> None:
        self._opened, self._say = opened, say
        self._told: list[str] | None = None

    async def look(self) -> None:
        """One look: what was adopted, what is no longer valid, the gates, the probe questions, the engine's health.

        What fails, such as a release that needs more memory than there is, is logged, and the next look tries again.
        """
        service = self._opened.service
        try:
            await service.releases.look(service.clock())
            if service.releases.rollout.candidate is not None:
                self._opened.mirror.probe()
            service.monitor.engine(await service.engine.health())
        except Exception as error:  # noqa: BLE001 - a look that fails must not be the last
            LOG.error("a look after releases failed: %s", where(error))
        self._tell()

    def _tell(self) -> None:
        """What is new of it."""
        releases = self._opened.service.releases
        stable, candidate = releases.rollout.stable, releases.rollout.candidate
        lines = [
            f"Answers with {stable}." if stable else "Answers nobody yet: no release may. Run: fedbank client sync"
        ]
        lines += [f"On its way: {candidate.release}, {candidate.stage}."] if candidate else []
        lines += [releases.problem] if releases.problem else []
        for line in lines:
            if line not in (self._told or ()):
                self._say(line)
        self._told = lines


async def purge(service: Service, retention: timedelta) -> None:
    """Remove what is too old, and note how much in the evidence."""
    removed = await service.store.run(service.records.purge, service.clock(), retention)
    if removed.rows:
        said = f"{removed.rows} rows, {removed.keys} keys"
        await service.store.run(service.evidence.append, PURGED, "records", said, _ITSELF)


def seconds_until(time_of_day: str, now: datetime) -> float:
    """Until the next HH:MM of ``now``'s clock."""
    hours, minutes = map(int, time_of_day.split(":"))
    due = now.replace(hour=hours, minute=minutes, second=0, microsecond=0)
    return ((due if due > now else due + timedelta(days=1)) - now).total_seconds()


async def _watching(watch: ReleaseWatch) -> None:
    while True:
        await asyncio.sleep(_LOOK_S)
        await watch.look()


async def _purging(service: Service, retention: timedelta, time_of_day: str) -> None:
    """At the start, for a machine that sleeps at night, and every night."""
    while True:
        try:
            await purge(service, retention)
        except FedBankError as error:
            LOG.warning("records were not purged: %s", error)
        await asyncio.sleep(seconds_until(time_of_day, datetime.now(UTC).astimezone()))
