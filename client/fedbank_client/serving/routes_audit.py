"""The bank's evidence, for its auditor."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import PlainTextResponse

from fedbank.serving.access.rights import Right
from fedbank_client.serving import problems
from fedbank_client.serving.bodies import MOST_ENTRIES, EntriesShown, EntryShown
from fedbank_client.serving.guard import BankRoute, CallerOf, needs

router = APIRouter(route_class=BankRoute, prefix="/v1/audit", tags=["audit"])
_LARGEST = 2**53 - 1


@router.get(
    "/entries",
    response_model=EntriesShown,
    openapi_extra={"problems": (problems.EVIDENCE, problems.RECORDS, problems.INVALID)},
)
@needs(Right.READ_AUDIT)
async def entries(
    caller: CallerOf,
    after: Annotated[int, Query(ge=-1, le=_LARGEST, description="The last entry that is known; -1: none")] = -1,
    limit: Annotated[int, Query(ge=1, le=MOST_ENTRIES)] = 100,
) -> EntriesShown:
    """Entries as they are in the log, oldest first. The checkpoint says whether they are all."""
    found = await caller.service.store.run(caller.service.evidence.page, after + 1, limit)
    shown = [EntryShown.model_validate(entry.fields()) for entry in found]
    return EntriesShown(entries=shown, next=shown[-1].seq if len(shown) == limit else None)


@router.get(
    "/checkpoint",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {"example": "bank-a/serving\n3\n…=\n\n— bank-a/serving …\n"}}}},
    openapi_extra={"problems": (problems.EVIDENCE, problems.RECORDS)},
)
@needs(Right.READ_AUDIT)
async def checkpoint(caller: CallerOf) -> str:
    """The signed note over everything that is in the log now (docs/formats/evidence.md)."""
    return await caller.service.store.run(caller.service.evidence.checkpoint)
