"""Whether the process is up, whether it can answer, and its metrics."""

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from fedbank.serving.access.rights import Right
from fedbank_client.serving import problems
from fedbank_client.serving.bodies import Alive
from fedbank_client.serving.guard import BankRoute, CallerOf, ServiceOf, needs, open_to_all
from fedbank_client.serving.problems import RefusedError

router = APIRouter(route_class=BankRoute, tags=["health"])
_RETRY_S = 5.0


@router.get("/health", response_model=Alive)
@open_to_all
async def health() -> Alive:
    """The process is up."""
    return Alive()


@router.get("/ready", response_model=Alive, openapi_extra={"problems": (problems.NOT_READY,)})
@open_to_all
async def ready(service: ServiceOf) -> Alive:
    """A question could be answered now; else why not, in fixed words."""
    if service.releases.rollout.stable is None:
        raise RefusedError(
            problems.NOT_READY,
            "Expected a release that may answer, got none: none was adopted yet, or it was refused. The log says why.",
            _RETRY_S,
        )
    if not (await service.engine.health()).ready:
        raise RefusedError(problems.NOT_READY, "Expected a model that answers, got one that does not.", _RETRY_S)
    if service.keeping.is_failing():
        raise RefusedError(problems.NOT_READY, "Expected a place for what is answered, got none lately.", _RETRY_S)
    return Alive()


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": "fedbank_engine 1.0\n"}}}},
)
@needs(Right.WATCH)
async def metrics(caller: CallerOf) -> Response:
    """Prometheus' text format."""
    service = caller.service
    service.monitor.engine(await service.engine.health())
    return Response(service.monitor.exposition(), media_type=CONTENT_TYPE_LATEST)
