"""OpenAI's chat completions, so that its official client works unchanged."""

import asyncio
from collections.abc import AsyncGenerator

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from fedbank.serving.access.rights import Right
from fedbank.serving.answering import Answered, Asker, Delta, Question
from fedbank_client.serving import problems
from fedbank_client.serving.guard import BankRoute, CallerOf, needs
from fedbank_client.serving.openai_bodies import MODEL, ChatBody, Completion, Models, beside, chunk, completion, usage
from fedbank_client.serving.problems import RefusedError
from fedbank_client.serving.routes_ask import ASKING
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

router = APIRouter(route_class=BankRoute, tags=["openai"])
_DONE = "data: [DONE]\n\n"
_STREAM = f'data: {{"id":"chatcmpl-r3f…","object":"chat.completion.chunk","choices":[…]}}\n\n{_DONE}'


@router.get("/v1/models", response_model=Models)
@needs(Right.ASK, Right.ASK_FOR_CUSTOMER)
async def models(caller: CallerOf) -> Models:
    """The one model, and the release that most questions are answered with."""
    about = {"release": caller.service.releases.rollout.stable}
    return Models(data=[{"id": MODEL, "object": "model", "created": 0, "owned_by": "bank", "fedbank": about}])


@router.post(
    "/v1/chat/completions",
    response_model=Completion,
    responses={200: {"content": described(_STREAM)}},
    openapi_extra={"problems": (*ASKING, problems.UNKNOWN_MODEL)},
)
@needs(Right.ASK, Right.ASK_FOR_CUSTOMER)
async def chat_completions(request: Request, caller: CallerOf, body: ChatBody) -> Completion | Response:
    """Answer a conversation that the caller keeps; there is no session. A stream ends with ``data: [DONE]``.

    What goes wrong after the status was sent is an object with ``error``, which OpenAI's client raises.
    """
    asker, question = Asker(caller.name, caller.customer(body.user)), _question(body)
    answering, limits, created = caller.service.answering, caller.service.limits, int(caller.now.timestamp())
    if not body.stream:
        async with asyncio.timeout(limits.request_s):
            return completion(await unless_gone(request, answering.answer(asker, question)), created)
    deadline = asyncio.get_running_loop().time() + limits.request_s
    flow = Flow(answering.ask(asker, question))
    async with asyncio.timeout_at(deadline):
        events = await opened(request, flow)
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    return EventStream(_frames(request, following(flow, events, deadline), created, with_usage), flow.close)


def _question(body: ChatBody) -> Question:
    if body.model != MODEL:
        raise RefusedError(problems.UNKNOWN_MODEL, f"Expected the model {MODEL}, got another. GET /v1/models lists it.")
    *history, last = body.turns()
    if last.role != "user":
        raise RefusedError(problems.UNUSABLE, "Expected a conversation that ends with the user's message, got another.")
    return Question(
        last.text,
        max_tokens=body.most_tokens(),
        history=tuple(history),
        temperature=body.temperature,
        seed=body.seed,
    )


async def _frames(
    request: Request, events: AsyncGenerator[Event], created: int, with_usage: bool
) -> AsyncGenerator[str]:
    request_id = ""
    try:
        async for event in events:
            if isinstance(event, Answered):
                last = chunk(request_id, created, {}, event.finish)
                yield frame({**last, "fedbank": beside(event)})
                if with_usage:
                    yield frame({**last, "choices": [], "usage": usage(event)})
                yield _DONE
            elif isinstance(event, Delta):
                yield frame(chunk(request_id, created, {"content": event.text}))
            else:
                request_id = event.request_id
                yield frame(chunk(request_id, created, {"role": "assistant", "content": ""}))
    except Exception as error:  # noqa: BLE001 - the status is sent: it becomes the stream's last object
        problem = problem_in_stream(request, error)
        yield frame({"error": {"message": problem["detail"], "code": problem["type"], **problem}})
