"""What customers say of answers, and the bank's decisions on it."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from fedbank.serving.access.rights import Right
from fedbank.serving.store.feedback import State
from fedbank_client.serving import problems
from fedbank_client.serving.bodies import (
    FeedbackBody,
    FeedbackList,
    FeedbackShown,
    ReviewBody,
    feedback_shown,
)
from fedbank_client.serving.guard import BankRoute, CallerOf, needs

router = APIRouter(route_class=BankRoute, tags=["feedback"])
_SAID = {"problems": (problems.UNKNOWN_REQUEST, problems.DECIDED, problems.RECORDS)}
_MOST_LISTED = 500


@router.post("/v1/feedback", status_code=204, openapi_extra=_SAID)
@needs(Right.GIVE_FEEDBACK)
async def give_feedback(caller: CallerOf, body: FeedbackBody) -> None:
    """Say whether one's own answer helped; a second word replaces the first until it is reviewed."""
    service = caller.service
    await service.store.run(
        service.feedback.give,
        body.request_id,
        caller.principal.subject,
        helpful=body.helpful,
        comment=body.comment,
    )


@router.get(
    "/v1/feedback",
    response_model=FeedbackList,
    openapi_extra={"problems": (problems.RECORDS, problems.INVALID)},
)
@needs(Right.REVIEW_FEEDBACK)
async def list_feedback(
    caller: CallerOf,
    state: Annotated[State, Query()] = "candidate",
    limit: Annotated[int, Query(ge=1, le=_MOST_LISTED)] = 100,
) -> FeedbackList:
    """Feedback in one state, oldest first."""
    found = await caller.service.store.run(caller.service.feedback.listed, state, limit)
    return FeedbackList(feedback=[feedback_shown(one) for one in found])


@router.post(
    "/v1/feedback/{request_id}/review",
    response_model=FeedbackShown,
    openapi_extra={"problems": (*_SAID["problems"], problems.EVIDENCE)},
)
@needs(Right.REVIEW_FEEDBACK)
async def review_feedback(
    caller: CallerOf, request_id: Annotated[str, Path(max_length=64)], body: ReviewBody
) -> FeedbackShown:
    """Decide a candidate, once: whether it may enter training. The decision is in the audit log."""
    service = caller.service

    def note() -> None:
        service.audit.reviewed(request_id, approved=body.approve, by=caller.name)

    def decide() -> FeedbackShown:
        decided = service.feedback.review(
            request_id, caller.name, caller.now, approve=body.approve, corrected=body.corrected, note=note
        )
        return feedback_shown(decided)

    return await service.store.run(decide)
