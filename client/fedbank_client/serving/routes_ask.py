"""One question: ``POST /v1/query``."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import asdict

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from fedbank.serving.access.rights import Right
from fedbank.serving.answering import Answered, Asker, Delta, Question
from fedbank_client.serving import problems
from fedbank_client.serving.bodies import AnswerShown, QueryBody, answer_shown
from fedbank_client.serving.guard import BankRoute, CallerOf, needs
from fedbank_client.serving.streaming import (
    Event,
    EventStream,
    Flow,
    described,
    following,
    frame,
    opened,
    problem_in_stream,
    unless_gone,
)

router = APIRouter(route_class=BankRoute, tags=["questions"])
ASKING = (
    problems.UNKNOWN_SESSION,
    problems.SECRET,
    problems.UNUSABLE,
    problems.ENGINE_BUSY,
    problems.ENGINE_DOWN,
    problems.NO_RELEASE,
    problems.RECORDS,
    problems.EVIDENCE,
)
"""How a question can end."""
_STREAM = (
    'event: started\ndata: {"request_id":"r3f…","session_id":"dGhp…","release":"release-2026-03-01"}\n\n'
    'event: delta\ndata: {"text":"请立即"}\n\n'
    'event: answered\ndata: {"answer":"请立即挂失。","token_count":6,"latency_ms":410.0,"release":"release-2026-03-01",'
    '"session_id":"dGhp…","request_id":"r3f…","notices":[],"aigc":{}}\n\n'
)


@router.post(
    "/v1/query",
    response_model=AnswerShown,
    responses={200: {"content": described(_STREAM, "started", "delta", "answered", "problem")}},
    openapi_extra={"problems": ASKING},
)
@needs(Right.ASK, Right.ASK_FOR_CUSTOMER)
async def query(request: Request, caller: CallerOf, body: QueryBody) -> AnswerShown | Response:
    """Answer a question, whole or as it is written.

    As a stream: events ``started``, ``delta`` and, last, ``answered`` with the whole answer; or ``problem``. What fails
    before the first text has its own status.
    """
    asker = Asker(caller.name, caller.customer(body.customer))
    question = Question(body.question, body.session_id, body.max_length)
    answering, limits = caller.service.answering, caller.service.limits
    if not body.stream:
        async with asyncio.timeout(limits.request_s):
            return answer_shown(await unless_gone(request, answering.answer(asker, question)))
    deadline = asyncio.get_running_loop().time() + limits.request_s
    flow = Flow(answering.ask(asker, question))
    async with asyncio.timeout_at(deadline):
        events = await opened(request, flow)
    return EventStream(_frames(request, flow, events, deadline), flow.close)


async def _frames(request: Request, flow: Flow, events: list[Event], deadline: float) -> AsyncGenerator[str]:
    try:
        async for event in following(flow, events, deadline):
            if isinstance(event, Answered):
                yield frame(answer_shown(event).model_dump(), "answered")
            else:
                yield frame(asdict(event), "delta" if isinstance(event, Delta) else "started")
    except Exception as error:  # noqa: BLE001 - the status is sent: it becomes the stream's last event
        yield frame(problem_in_stream(request, error), "problem")
