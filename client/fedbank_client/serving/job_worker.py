"""Works on the jobs in the store, behind whoever waits for an answer."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta

from fedbank.errors import FedBankError
from fedbank.evidence.errors import EvidenceError
from fedbank.serving.answering import Asker, Question
from fedbank.serving.engines.interface import BACKGROUND, BusyError, DownError
from fedbank.serving.rollout.desk import NoReleaseError
from fedbank.serving.store.database import RecordsError
from fedbank.serving.store.jobs import Item
from fedbank_client.serving.edge import LOG, where
from fedbank_client.serving.service import Service

AT_ONCE = 2
_LOOK_S, _LONGEST_PAUSE_S = 1.0, 30.0
_ANSWER = timedelta(minutes=4)
"""Less than a claim holds (``JobLimits.claim``)."""
_NOT_ITS_FAULT = (BusyError, DownError, NoReleaseError, RecordsError, EvidenceError, TimeoutError)


async def work_on_jobs(service: Service, stop: asyncio.Event, *, look_s: float = _LOOK_S) -> None:
    """Until ``stop``: claim, answer, record. What this worker had claimed when it died last is free again first.

    While the engine, a release or the store is away nothing is claimed, and what was claimed is given back uncounted.
    An item that cannot be answered as it is has failed. ``look_s``: between two looks for new jobs.
    """
    while not stop.is_set():
        try:
            await service.store.run(service.jobs.resume, service.worker)
            break
        except RecordsError as error:
            await _pause(stop, error.retry_after_s or look_s)
    await asyncio.gather(*(_lane(service, stop, look_s) for _ in range(AT_ONCE)))


async def _lane(service: Service, stop: asyncio.Event, look_s: float) -> None:
    while not stop.is_set():
        try:
            pause_s = await _step(service, stop, look_s)
        except FedBankError as error:
            pause_s = getattr(error, "retry_after_s", None) or look_s
        except Exception as error:  # noqa: BLE001 - the claim runs out, and the lane goes on
            LOG.error("an item of a job failed: %s", where(error))
            pause_s = look_s
        if pause_s:
            await _pause(stop, min(pause_s, _LONGEST_PAUSE_S))


async def _step(service: Service, stop: asyncio.Event, look_s: float) -> float:
    """One item, if there is one and it can be answered now; the seconds until the next look."""
    if service.releases.rollout.stable is None or not (await service.engine.health()).ready:
        return look_s
    item = await service.store.run(service.jobs.claim, service.worker, service.clock())
    if item is None:
        return look_s
    work = asyncio.create_task(_answer(service, item))
    halt = asyncio.create_task(stop.wait())
    await asyncio.wait([work, halt], return_when=asyncio.FIRST_COMPLETED)
    for task in (work, halt):
        task.cancel()
    await asyncio.wait([work, halt])
    if work.cancelled():  # the service stops
        with contextlib.suppress(RecordsError):  # the next start gives it free
            await service.store.run(service.jobs.give_back, item)
        return 0.0
    return work.result()


async def _answer(service: Service, item: Item) -> float:
    """Answer ``item`` and record it; the seconds to pause before the next."""
    asker, question = Asker(item.owner, item.customer), Question(item.question, priority=BACKGROUND, history=())
    try:
        async with asyncio.timeout(_ANSWER.total_seconds()):
            found = await service.answering.answer(asker, question)
    except _NOT_ITS_FAULT as error:
        await _kept(lambda: service.store.run(service.jobs.give_back, item))
        return getattr(error, "retry_after_s", None) or _LOOK_S
    except FedBankError as error:
        LOG.info("item %d of %s cannot be answered: %s", item.number, item.job_id, type(error).__name__)
        await _kept(lambda: service.store.run(service.jobs.fail, item))
        return 0.0
    now, jobs = service.clock(), service.jobs
    await _kept(lambda: service.store.run(jobs.record, item, found.text, found.request_id, now))
    return 0.0


async def _kept(write: Callable[[], Awaitable[object]]) -> None:
    """Try until the store takes it: an item must not wait until its claim runs out, nor be answered twice."""
    while True:
        try:
            await write()
            return
        except RecordsError as error:
            await asyncio.sleep(error.retry_after_s or _LOOK_S)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
