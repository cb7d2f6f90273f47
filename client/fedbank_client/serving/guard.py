"""Who may use a route: declared beside it, checked before a byte of the body is read; no route goes without.

A token becomes a principal, the principal must have one of the route's rights, and its bucket must have room.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, TypeVar

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from fedbank.serving.access.jwks import KeySetError
from fedbank.serving.access.rights import RIGHTS, ForbiddenError, Principal, Right, UnauthorizedError, bearer_token
from fedbank_client.serving import problems
from fedbank_client.serving.edge import AT_END
from fedbank_client.serving.limits import read_object
from fedbank_client.serving.problems import RefusedError
from fedbank_client.serving.service import Service

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
ASKING = frozenset({Right.ASK, Right.ASK_FOR_CUSTOMER})
_RETRY_S = 2.0
_ACCESS = "__fedbank_access__"
SCHEME = "bearer"
_ALWAYS = (problems.MALFORMED, problems.INTERNAL, problems.OVERLOADED, problems.STOPPING, problems.LATE)
_GUARDED = (problems.UNAUTHORIZED, problems.FORBIDDEN, problems.RATE_LIMITED, problems.KEYS)
_BODY = (problems.SLOW_BODY, problems.TOO_LARGE, problems.MEDIA, problems.INVALID)


@dataclass(frozen=True, slots=True)
class Access:
    """Rights of which one is enough (none: anybody), and whether the route takes batches."""

    rights: frozenset[Right]
    batch: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is; ``name``: the principal's pseudonym."""

    service: Service
    principal: Principal
    name: str

    @property
    def now(self) -> datetime:
        """The service's time."""
        return self.service.clock()

    def customer(self, named: str | None) -> str:
        """In whose name a question is asked: the customer's own token names them, an agent says who.

        Raises:
            ForbiddenError: a customer names one.
            RefusedError: an agent names none.
        """
        if Right.ASK_FOR_CUSTOMER not in RIGHTS[self.principal.role]:
            if named is not None:
                self.principal.require(Right.ASK_FOR_CUSTOMER)
            return self.principal.subject
        if named is None:
            raise RefusedError(
                problems.INVALID, "Expected the customer in whose name the agent asks, got none. Say it."
            )
        return named


def needs(*rights: Right, batch: bool = False) -> Callable[[Endpoint], Endpoint]:
    """Declare an endpoint's rights; one of them is enough."""
    if not rights:
        raise ValueError("an endpoint for everybody says so: open_to_all")
    return _declare(Access(frozenset(rights), batch))


def open_to_all(endpoint: Endpoint) -> Endpoint:
    """Declare that an endpoint needs no token."""
    return _declare(Access(frozenset()))(endpoint)


def _declare(access: Access) -> Callable[[Endpoint], Endpoint]:
    def declared(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _ACCESS, access)
        return endpoint

    return declared


class BankRoute(APIRoute):
    """A route whose endpoint declares its rights; without, it cannot be made."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **settings: Any) -> None:
        access = getattr(endpoint, _ACCESS, None)
        if not isinstance(access, Access):
            raise TypeError(f"{path} declares no right: needs(...) or open_to_all")
        self.access = access
        kinds = [*_ALWAYS, *(_GUARDED if access.rights else ())]
        if {"POST", "PUT", "PATCH"} & set(settings.get("methods") or ()):
            kinds += _BODY
        own = dict(settings.pop("openapi_extra", None) or {})
        problems_here = [*kinds, *own.pop("problems", ())]
        settings["responses"] = {**problems.responses(*problems_here), **(settings.get("responses") or {})}
        settings["openapi_extra"] = {"security": [{SCHEME: []}] if access.rights else [], **own}
        super().__init__(path, endpoint, **settings)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's, behind the guard."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            service: Service = request.app.state.service
            if self.access.rights:
                request.state.caller = await admit(service, self.access.rights, request)
            if self.body_field is not None:
                most = service.limits.batch_bytes if self.access.batch else service.limits.question_bytes
                content, found = await read_object(request, most, service.limits)
                request._body, request._json = content, found  # where FastAPI looks first
            return await handle(request)

        return guarded


async def admit(service: Service, rights: frozenset[Right], request: Request) -> Caller:
    """Who sends ``request``, if they may.

    Raises:
        UnauthorizedError, ForbiddenError, KeySetError, RefusedError: they may not, or not now.
    """
    try:
        token = bearer_token(request.headers.get("authorization"))
        if service.verifier is None:
            raise KeySetError("Expected an identity provider, got none configured. Set one.")
        principal = await service.tokens.run(service.verifier.principal, token, service.clock())
        if not any(right in RIGHTS[principal.role] for right in rights):
            principal.require(min(rights))
        name = principal.pseudonym(service.key)
    except UnauthorizedError:
        service.monitor.counted("unauthorized")
        raise
    except ForbiddenError:
        service.monitor.counted("forbidden")
        raise
    wait_s = service.rates.wait_s(name)
    if wait_s > 0:
        service.monitor.counted("rate-limited")
        raise RefusedError(problems.RATE_LIMITED, retry_after_s=wait_s)
    if rights & ASKING:
        ended = service.rates.begin(name)
        if ended is None:
            service.monitor.counted("rate-limited")
            raise RefusedError(problems.RATE_LIMITED, retry_after_s=_RETRY_S)
        setattr(request.state, AT_END, ended)
    return Caller(service, principal, name)


async def _caller(request: Request) -> Caller:  # async: others are given a thread each time
    caller: Caller = request.state.caller
    return caller


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


CallerOf = Annotated[Caller, Depends(_caller)]
ServiceOf = Annotated[Service, Depends(_service)]
