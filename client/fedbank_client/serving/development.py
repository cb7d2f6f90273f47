"""Tokens for a first run on one machine; the route is there only where the development issuer is configured."""

import ipaddress
from urllib.parse import urlsplit

from fastapi import APIRouter
from starlette.requests import Request

from fedbank.serving.access.development_issuer import LIFETIME_S
from fedbank_client.serving import problems
from fedbank_client.serving.bodies import DevelopmentBody, TokenShown
from fedbank_client.serving.guard import BankRoute, ServiceOf, open_to_all
from fedbank_client.serving.problems import RefusedError

_FORWARDED = frozenset({"forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"})
router = APIRouter(route_class=BankRoute, tags=["development"])


@router.post(
    "/v1/development/token",
    response_model=TokenShown,
    openapi_extra={"problems": (problems.NOT_HERE, problems.NOT_FOUND)},
)
@open_to_all
async def development_token(request: Request, service: ServiceOf, body: DevelopmentBody) -> TokenShown:
    """A token for an hour, for whoever asks from this very machine."""
    if service.development is None:  # the route is not there either
        raise RefusedError(problems.NOT_FOUND)
    peer, host = request.client.host if request.client else "", request.headers.get("host", "")
    origin = request.headers.get("origin")
    if not _FORWARDED.isdisjoint(request.headers):  # by a proxy on this machine, for somebody who may be elsewhere
        raise RefusedError(problems.NOT_HERE)
    if not is_loopback(peer) or not is_loopback(_name(host)) or origin not in (None, f"{request.url.scheme}://{host}"):
        raise RefusedError(problems.NOT_HERE)
    issuer, audience = service.development.issuer, service.development.audience
    token = await service.tokens.run(issuer.token, body.role, body.subject, audience, service.clock(), peer=peer)
    return TokenShown(access_token=token, expires_in=LIFETIME_S)


@router.options("/v1/development/token", status_code=204, include_in_schema=False)
@open_to_all
async def is_here() -> None:
    """For the pages, which offer such a token only where there is one."""


def is_loopback(name: str) -> bool:
    """Whether ``name`` is this machine's and nobody else's: an address, or localhost (RFC 6761, section 6.3)."""
    try:
        return name.lower() == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """The name in a Host header, whatever it is: a page of another name that resolves to here has its own."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
