"""What stands in front of Flower's SuperLink: who may say what to it, how much and how often.

Two ASGI applications around the same SuperLink. ``PublicGate`` lets active members use the eight fleet routes that
FedBank's node needs, each with its own certificate and its own node key. ``PrivateGate`` lets the operator use the
control and runtime routes. Bodies are counted while they arrive and looked at before Flower decodes them.
"""

import asyncio
import hmac
import json
import math
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from fedbank.errors import UpdateError
from fedbank.rates import Rate
from fedbank.wire import MAX_CHAIN, read_head
from fedbank_server.bodies import App, Objects, Receive, RefusedError, Scope, Send, read_body, whole, with_body
from fedbank_server.doorbell import Doorbell
from fedbank_server.flower_hooks import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    DecodeError,
    ObjectTree,
    PullMessagesRequest,
    PushMessagesRequest,
    PushObjectRequest,
)
from fedbank_server.limits import Limits
from fedbank_server.repository_pages import PREFIX

CERTIFICATE = "fedbank.certificate_sha256"
"""Where the listener puts the SHA-256 of the peer's certificate: ``scope["extensions"]``."""
WAIT = b"fedbank-wait"
"""Request header: seconds that a pull may be held until there is something to pull."""
FOR = b"fedbank-for"
"""Request header of the coordinator's pushes: the node that is to be woken. Waking all for each message would cost the
square of the number of banks in requests."""
_FLEET = "/v1/fleet/"
_ACTIVATE, _PULL, _PUSH = "activate-node", "pull-messages", "push-messages"
_PULL_OBJECT, _PUSH_OBJECT = "pull-object", "push-object"
FLEET_ROUTES = frozenset(
    {"deactivate-node", "send-node-heartbeat", "confirm-message-received"}
    | {_ACTIVATE, _PULL, _PUSH, _PULL_OBJECT, _PUSH_OBJECT}
)
_OBJECTS = (_PUSH_OBJECT, _PULL_OBJECT)
_RINGS = (_PUSH, _PUSH_OBJECT)
_NO_MEMBER = "This certificate belongs to no active member."


@dataclass(frozen=True, slots=True)
class Admitted:
    """A bank that may connect: its name and its node key as Flower writes it."""

    bank: str
    node_key: bytes


class PublicGate:
    """The fleet routes, for banks whose certificate's SHA-256 is in ``members``, which may be replaced at any time.

    ``objects`` is that of the private gate too: one object of a message is in memory at a time, whoever sends it.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        banks_bell: Doorbell,
        coordinator_bell: Doorbell,
        on_refusal: Callable[[str, str, int, str], None],
        objects: Objects | None = None,
        releases: App | None = None,
    ) -> None:
        self.members: Mapping[str, Admitted] = {}
        self._releases = releases
        self._app, self._limits, self._on_refusal = app, limits, on_refusal
        self._banks_bell, self._coordinator_bell = banks_bell, coordinator_bell
        self._rate = Rate(limits.requests_per_s, limits.burst)
        self._at_once: Counter[str] = Counter()
        self._objects = objects or Objects()
        self._reports: Counter[str] = Counter()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http":
            return
        if scope["path"] == "/health" and scope["method"] == "GET":
            await _answer(send, 200, "ok")
            return
        certificate = scope.get("extensions", {}).get(CERTIFICATE, "")
        try:
            if self._releases is not None and scope["path"].startswith(PREFIX):
                self._check_reader(certificate)
                await self._releases(scope, receive, send)
            else:
                await self._serve(scope, receive, send, certificate)
        except RefusedError as refused:
            member = self.members.get(certificate)
            self._on_refusal(member.bank if member else certificate, scope["path"], refused.status, str(refused))
            await _answer(send, refused.status, str(refused))

    def _check_reader(self, certificate: str) -> None:
        """Releases are signed: who fetches them is known by its certificate alone, without a node."""
        member = self.members.get(certificate)
        if member is None:
            raise RefusedError(403, _NO_MEMBER)
        if not self._rate.allows(member.bank):
            raise RefusedError(429, "Too many requests.")

    async def _serve(self, scope: Scope, receive: Receive, send: Send, certificate: str) -> None:
        route = _route(scope)
        headers = dict(scope["headers"])
        bank = self._bank(certificate, headers)
        if not self._rate.allows(bank):
            raise RefusedError(429, "Too many requests.")
        if self._at_once[bank] >= self._limits.requests_at_once:
            raise RefusedError(429, "Too many requests at once.")
        self._at_once[bank] += 1
        self._reports[bank] += route == _ACTIVATE
        report = self._reports[bank]

        def check(content: bytes) -> None:
            _check_body(route, content)
            self._bank(certificate, headers)  # it may have been revoked while it waited or sent

        try:
            cap = self._limits.body_bytes(is_object=route == _PUSH_OBJECT)
            with self._objects.room() as body:
                await read_body(body, headers, receive, cap, self._limits.body_timeout_s)
                if route == _PULL:
                    wait_s = min(_seconds(headers.get(WAIT)), self._limits.wait_s)
                    await self._banks_bell.wait(bank, wait_s, _node(whole(body)))
                async with self._turn(route, bank):
                    if route == _PULL and report != self._reports[bank]:
                        await _answer(send, 409, "This bank has reported for duty anew since it asked.")
                    else:
                        behind = self._objects.one_at_a_time if route in _OBJECTS else with_body
                        await self._ask(behind(self._app, body, check), scope, receive, send, certificate)
        finally:
            self._at_once[bank] -= 1
        if route in _RINGS:
            self._coordinator_bell.ring()

    def _turn(self, route: str, bank: str) -> AbstractAsyncContextManager[None]:
        """Of one bank, one report for duty or pull at a time.

        A pull may outlive its connection, and Flower hands out a message once. So none reaches Flower after the bank
        has reported anew, and the report waits for one that is there: what is lost was sent before the report, which is
        what tells the coordinator to ask again (``CoordinatorGrid``).
        """
        return self._turns[bank] if route in (_ACTIVATE, _PULL) else nullcontext()

    async def _ask(self, app: App, scope: Scope, receive: Receive, send: Send, certificate: str) -> None:
        """Flower's answer, unless the bank was revoked while Flower worked: then nothing of it, and no code of Flower's
        for a node that it has just forgotten."""
        revoked = False

        async def to_member(event: MutableMapping[str, Any]) -> None:
            nonlocal revoked
            if event["type"] == "http.response.start":
                revoked = certificate not in self.members
            if not revoked:
                await send(event)

        await app(scope, receive, to_member)
        if revoked:
            raise RefusedError(403, _NO_MEMBER)

    def _bank(self, certificate: str, headers: Mapping[bytes, bytes]) -> str:
        """The bank that a request comes from: its certificate is an active member's, its node key the same member's."""
        member = self.members.get(certificate)
        if member is None:
            raise RefusedError(403, _NO_MEMBER)
        try:
            key = b64decode(headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER.encode(), b""), validate=True)
        except ValueError:
            key = b""
        if not hmac.compare_digest(key, member.node_key):
            raise RefusedError(403, "This node key is not that of the certificate's bank.")
        return member.bank


class PrivateGate:
    """The control and runtime routes, for whoever has the operator's token; other pages go to ``pages`` if given."""

    def __init__(
        self,
        app: App,
        token: str,
        banks_bell: Doorbell,
        coordinator_bell: Doorbell,
        pages: App | None = None,
        objects: Objects | None = None,
    ) -> None:
        self._app, self._pages, self._objects = app, pages, objects or Objects()
        self._expected = b"Bearer " + token.encode()
        self._banks_bell, self._coordinator_bell = banks_bell, coordinator_bell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI); the server's start and end go to the SuperLink."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if path == "/health" and scope["method"] == "GET":
            await _answer(send, 200, "ok")
        elif not path.startswith("/v1/") and self._pages is not None:
            await self._pages(scope, receive, send)
        elif not path.startswith(("/v1/control/", "/v1/runtime/")):
            await _answer(send, 404, "Not found.")
        elif not hmac.compare_digest(dict(scope["headers"]).get(b"authorization", b""), self._expected):
            await _answer(send, 401, "The operator's token is missing or wrong.")
        else:
            if path.endswith(_PULL):
                await self._coordinator_bell.wait("coordinator", _seconds(dict(scope["headers"]).get(WAIT)))
            try:
                await self._obey(scope, receive, send)
            except RefusedError as refused:
                await _answer(send, refused.status, str(refused))
            if path.endswith((_PUSH, _PUSH_OBJECT)):
                self._banks_bell.ring(dict(scope["headers"]).get(FOR, b"").decode("ascii", "replace"))

    async def _obey(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["path"].endswith(_OBJECTS):
            await self._app(scope, receive, send)
            return
        with self._objects.room() as body:
            await read_body(body, dict(scope["headers"]), receive, math.inf, None)
            await self._objects.one_at_a_time(self._app, body, lambda content: None)(scope, receive, send)


def _route(scope: Scope) -> str:
    route: str = scope["path"].removeprefix(_FLEET)
    if not scope["path"].startswith(_FLEET) or route not in FLEET_ROUTES:
        raise RefusedError(404, "Not found.")
    if scope["method"] != "POST":
        raise RefusedError(405, "Only POST.")
    return route


def _check_body(route: str, body: bytes) -> None:
    """Refuse what would grow when Flower decodes it, and a reply in another node's name."""
    try:
        if route == _PUSH_OBJECT:
            read_head(PushObjectRequest.FromString(body).object_content)
        elif route == _PUSH:
            request = PushMessagesRequest.FromString(body)
            trees = request.message_object_trees
            if len(request.messages_list) != 1 or len(trees) != 1 or not _is_chain(trees[0]):
                raise RefusedError(400, "One message of one record at a time.")
            if request.messages_list[0].metadata.src_node_id != request.node.node_id:
                raise RefusedError(403, "A node speaks for itself only.")
    except (DecodeError, UpdateError) as error:
        raise RefusedError(400, str(error)) from None


def _node(body: bytes) -> str:
    """The node that pulls, as it says: all that is at stake is when it is woken."""
    try:
        return str(PullMessagesRequest.FromString(body).node.node_id)
    except DecodeError:
        return ""  # Flower refuses it


def _is_chain(tree: ObjectTree) -> bool:
    for _ in range(MAX_CHAIN):
        if not tree.children:
            return True
        if len(tree.children) > 1:
            return False
        tree = tree.children[0]
    return False


def _seconds(header: bytes | None) -> float:
    """Of a wait header; nothing else than a short decimal number counts."""
    text = (header or b"0").decode("ascii", "replace")
    return float(text) if len(text) <= 6 and text.replace(".", "", 1).isdigit() else 0.0


async def _answer(send: Send, status: int, text: str) -> None:
    """A short answer that ends the connection, so that a refused body is not read to its end."""
    body = json.dumps({"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status not in (200, 429):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
