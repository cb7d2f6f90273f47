"""The operator's view, their steps with releases, and the erasure of one customer."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from fastapi import APIRouter

from fedbank.errors import FedBankError
from fedbank.serving.access.rights import Right
from fedbank_client.serving import problems
from fedbank_client.serving.bodies import EraseBody, Erased, Nothing, StatusShown
from fedbank_client.serving.edge import LOG
from fedbank_client.serving.guard import BankRoute, Caller, CallerOf, needs
from fedbank_client.serving.problems import RefusedError, kind_of

router = APIRouter(route_class=BankRoute, prefix="/v1/operator", tags=["operator"])
_VIEW: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "application/json": {
                "example": {"stable": {"release": "release-2026-03-01"}, "previous": None, "candidate": None}
            }
        }
    }
}
_STEP: dict[str, Any] = {"problems": (problems.NO_SUCH_STEP, problems.ENGINE_DOWN, problems.EVIDENCE)}


@router.get("/status", response_model=StatusShown, openapi_extra={"problems": (problems.RECORDS,)})
@needs(Right.WATCH)
async def status(caller: CallerOf) -> StatusShown:
    """Releases, traffic, queue and feedback, as numbers."""
    service, now = caller.service, caller.now
    health = await service.engine.health()
    return StatusShown(
        releases=service.releases.view(now),
        traffic=service.monitor.traffic(now),
        engine={
            "ready": health.ready,
            "said": health.said,
            "running": health.running,
            "waiting": health.waiting,
        },
        feedback=await service.store.run(service.feedback.counts),
    )


@router.post("/promote", response_model=dict[str, Any], responses=_VIEW, openapi_extra=_STEP)
@needs(Right.ROLL_OUT)
async def promote(caller: CallerOf, body: Nothing) -> dict[str, Any]:
    """The candidate goes one stage on."""
    return await _step(caller, caller.service.releases.promote(caller.name, caller.now))


@router.post("/rollback", response_model=dict[str, Any], responses=_VIEW, openapi_extra=_STEP)
@needs(Right.ROLL_OUT)
async def rollback(caller: CallerOf, body: Nothing) -> dict[str, Any]:
    """The candidate goes; without one, the release before is stable again."""
    return await _step(caller, caller.service.releases.roll_back(caller.name, caller.now))


async def _step(caller: Caller, step: Coroutine[Any, Any, None]) -> dict[str, Any]:
    try:
        await step
    except FedBankError as error:
        if kind_of(error) is not problems.INTERNAL:
            raise
        LOG.warning("a step with a release was refused: %s", error)  # of a release, without a customer's word
        raise RefusedError(
            problems.NO_SUCH_STEP, "Expected a release that verifies, got another. See the log."
        ) from None
    return caller.service.releases.view(caller.now)


@router.post("/erase", response_model=Erased, openapi_extra={"problems": (problems.RECORDS, problems.EVIDENCE)})
@needs(Right.ERASE)
async def erase(caller: CallerOf, body: EraseBody) -> Erased:
    """Remove everything of one customer but the audit's hashes. If it breaks off, send it again: it goes on."""
    return await asyncio.shield(asyncio.ensure_future(_erase(caller, body.customer)))


async def _erase(caller: Caller, customer: str) -> Erased:
    """What could still be added behind the rows first; the evidence once nothing is left."""
    service = caller.service
    name = service.records.customer(customer)
    sessions = await service.answering.forget(name)
    removed = await service.store.run(service.records.erase, customer, caller.now)
    await service.store.run(service.audit.erased, name, removed.rows, caller.name)
    return Erased(rows=removed.rows, keys=removed.keys, sessions=sessions)
