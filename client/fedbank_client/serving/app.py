"""The service's routes as one ASGI application."""

import json
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from fedbank.errors import FedBankError
from fedbank_client.serving import (
    development,
    routes_ask,
    routes_audit,
    routes_feedback,
    routes_health,
    routes_jobs,
    routes_openai,
    routes_operator,
    routes_pages,
)
from fedbank_client.serving.edge import REQUEST_ID, Edge
from fedbank_client.serving.guard import SCHEME, BankRoute, open_to_all
from fedbank_client.serving.problems import (
    INTERNAL,
    INVALID,
    LATE,
    MALFORMED,
    MEDIA_TYPE,
    NOT_FOUND,
    SCHEMA,
    WRONG_METHOD,
    Kind,
    Problem,
    RefusedError,
)
from fedbank_client.serving.service import Service
from fedbank_client.serving.telling import told

_ROUTERS = (
    routes_ask.router,
    routes_openai.router,
    routes_jobs.router,
    routes_feedback.router,
    routes_operator.router,
    routes_audit.router,
    routes_health.router,
    routes_pages.router,
)
_MOST_ERRORS = 20
_FRAMEWORKS = "#/components/schemas/HTTPValidationError"
_ABOUT = "A bank's service for its customers' inquiries. Every error is a problem document (RFC 9457)."


def make_app(service: Service) -> FastAPI:
    """The application; whoever made ``service`` closes it."""
    app = FastAPI(
        title="FedBank inquiry service",
        version="1",
        openapi_url=None,
        docs_url=None,  # FastAPI's pages load from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.router.route_class = BankRoute
    for router in (*_ROUTERS, *((development.router,) if service.development is not None else ())):
        app.router.routes.extend(router.routes)
    app.get("/openapi.json", include_in_schema=False)(_description(app))
    app.add_exception_handler(FedBankError, _on_error)
    app.add_exception_handler(TimeoutError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_left)
    app.add_middleware(Edge, limits=service.limits)
    return app


def _description(app: FastAPI) -> Any:
    """The endpoint of the OpenAPI description, written once: anybody may ask for it, and it is long."""
    written: list[bytes] = []

    @open_to_all
    async def openapi() -> Response:
        if not written:
            written.append(json.dumps(describe(app), ensure_ascii=False).encode())
        return Response(written[0], media_type="application/json")

    return openapi


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description of ``app``."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, routes=app.routes, description=_ABOUT)
        parts = found.setdefault("components", {})
        parts["securitySchemes"] = {SCHEME: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
        schemas = parts.setdefault("schemas", {})
        schemas["Problem"] = SCHEMA
        for name in ("HTTPValidationError", "ValidationError"):  # the framework's, for problems that are no such here
            schemas.pop(name, None)
        for operation in (one for methods in found["paths"].values() for one in methods.values()):
            if _FRAMEWORKS in str(operation["responses"].get("422")):  # of a path that takes every text
                del operation["responses"]["422"]
        app.openapi_schema = found
    return app.openapi_schema


async def _on_error(request: Request, error: Exception) -> Response:
    return _answer(request, told(request, RefusedError(LATE) if isinstance(error, TimeoutError) else error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    """What the framework refuses."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    kinds: dict[int, Kind] = {404: NOT_FOUND, 405: WRONG_METHOD, 400: MALFORMED}
    kind = kinds.get(status, INTERNAL)
    headers = getattr(error, "headers", None) or {}
    return _answer(request, Problem(kind, kind.says or kind.title, headers, {}))


async def _on_invalid(request: Request, error: Exception) -> Response:
    """Which fields are wrong, and never what was in them: not even the name of one that is not known."""
    found: Sequence[Any] = error.errors() if isinstance(error, RequestValidationError) else ()
    errors = [{"at": _place(one), "said": _said(one)} for one in found[:_MOST_ERRORS]]
    said = f"Expected the form in /openapi.json, got another in {len(found)} place{'' if len(found) == 1 else 's'}."
    return _answer(request, Problem(INVALID, f"{said} Correct what 'errors' names.", {}, {"errors": errors}))


async def _on_left(request: Request, error: Exception) -> Response:
    """Nobody reads it."""
    return Response(status_code=499)


def _said(error: dict[str, Any]) -> str:
    if error["type"] == "union_tag_invalid":  # the one message that quotes what was sent
        return f"Input should be one of {error['ctx']['expected_tags']}"
    said: str = error["msg"]
    return said


def _place(error: dict[str, Any]) -> str:
    place = error["loc"][1:]
    known = place[:-1] if error["type"] == "extra_forbidden" else place
    words = [str(word) for word in known] + (["(unknown field)"] if known != place else [])
    return ".".join(words) or "(body)"


def _answer(request: Request, problem: Problem) -> Response:
    document = problem.document(getattr(request.state, REQUEST_ID))
    return JSONResponse(document, problem.kind.status, headers=dict(problem.headers), media_type=MEDIA_TYPE)
