"""Batches: questions that nobody waits for."""

from fastapi import APIRouter
from starlette.responses import Response

from fedbank.serving.access.rights import Right
from fedbank.serving.store.jobs import Asked
from fedbank_client.serving import problems
from fedbank_client.serving.bodies import BatchBody, JobShown, JobTaken, job_shown
from fedbank_client.serving.guard import BankRoute, Caller, CallerOf, needs

router = APIRouter(route_class=BankRoute, tags=["batches"])
_OF_A_JOB = {"problems": (problems.UNKNOWN_JOB, problems.RECORDS)}


@router.post(
    "/v1/batch_query",
    status_code=202,
    response_model=JobTaken,
    responses={202: {"headers": {"Location": {"description": "Of the job", "schema": {"type": "string"}}}}},
    openapi_extra={"problems": (problems.MANY_JOBS, problems.RECORDS)},
)
@needs(Right.BATCH, batch=True)
async def batch_query(caller: CallerOf, body: BatchBody, response: Response) -> JobTaken:
    """Keep a job; it is answered behind whoever waits, and goes on after a restart."""
    service = caller.service
    asked = [Asked(one.customer, one.question) for one in body.questions]
    job_id = await service.store.run(service.jobs.submit, caller.name, asked, caller.now)
    response.headers["Location"] = f"/v1/jobs/{job_id}"
    return JobTaken(job_id=job_id)


@router.get("/v1/jobs/{job_id}", response_model=JobShown, openapi_extra=_OF_A_JOB)
@needs(Right.BATCH)
async def job(caller: CallerOf, job_id: str) -> JobShown:
    """How far one's own job is, with the answers that are there."""
    return await _shown(caller, job_id)


@router.delete("/v1/jobs/{job_id}", response_model=JobShown, openapi_extra=_OF_A_JOB)
@needs(Right.BATCH)
async def cancel_job(caller: CallerOf, job_id: str) -> JobShown:
    """Answer no more of one's own job; what is answered stays."""
    await caller.service.store.run(caller.service.jobs.cancel, job_id, caller.name)
    return await _shown(caller, job_id)


async def _shown(caller: Caller, job_id: str) -> JobShown:
    jobs, store = caller.service.jobs, caller.service.store
    found = await store.run(jobs.progress, job_id, caller.name, caller.now)
    return job_shown(found, await store.run(jobs.items, job_id, caller.name))
