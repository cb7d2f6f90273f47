"""What stands in front of Flower's SuperLink: who may say what to it, how much and how often.

Two ASGI applications around the same SuperLink. ``PublicGate`` lets active members use the eight fleet routes that
FedBank's node needs, each with its own certificate and its own node key. ``PrivateGate`` lets the operator use the
control and runtime routes. Bodies are counted while they arrive and looked at before Flower decodes them.
"""

import asyncio
import hmac
import json
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

from fedbank.errors import UpdateError
from fedbank.wire import MAX_CHAIN, read_head
from fedbank_server.doorbell import Doorbell
from fedbank_server.flower_hooks import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    DecodeError,
    ObjectTree,
    PullMessagesRequest,
    PushMessagesRequest,
    PushObjectRequest,
)
from fedbank_server.limits import Limits, Rate
from fedbank_server.repository_pages import PREFIX

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

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
_RINGS = frozenset({_PUSH, _PUSH_OBJECT})
_NO_MEMBER = "This certificate belongs to no active member."
_IN_MEMORY_BYTES = 1024 * 1024
"""Of a body that waits; a larger one waits in a file without a name."""
_PIECE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Admitted:
    """A bank that may connect: its name and its node key as Flower writes it."""

    bank: str
    node_key: bytes


class _RefusedError(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class PublicGate:
    """The fleet routes, for banks whose certificate's SHA-256 is in ``members``, which may be replaced at any time.

    Memory: one upload that Flower decodes and stores, and ``objects_at_once`` downloads, however many banks there are.
    What has arrived waits for its turn in ``spool``, a folder on disk (``None``: the system's for temporary files).
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        banks_bell: Doorbell,
        coordinator_bell: Doorbell,
        on_refusal: Callable[[str, str, int, str], None],
        spool: Path | None = None,
        releases: App | None = None,
    ) -> None:
        self.members: Mapping[str, Admitted] = {}
        self._releases = releases
        self._app, self._limits, self._on_refusal = app, limits, on_refusal
        self._banks_bell, self._coordinator_bell = banks_bell, coordinator_bell
        self._rate = Rate(limits.requests_per_s, limits.burst)
        self._at_once: Counter[str] = Counter()
        self._object_turns = {
            _PUSH_OBJECT: asyncio.Semaphore(1),
            _PULL_OBJECT: asyncio.Semaphore(limits.objects_at_once),
        }
        self._reports: Counter[str] = Counter()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._spool = None if spool is None else str(spool)

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
        except _RefusedError as refused:
            member = self.members.get(certificate)
            self._on_refusal(member.bank if member else certificate, scope["path"], refused.status, str(refused))
            await _answer(send, refused.status, str(refused))

    def _check_reader(self, certificate: str) -> None:
        """Releases are signed: who fetches them is known by its certificate alone, without a node."""
        member = self.members.get(certificate)
        if member is None:
            raise _RefusedError(403, _NO_MEMBER)
        if not self._rate.allows(member.bank):
            raise _RefusedError(429, "Too many requests.")

    async def _serve(self, scope: Scope, receive: Receive, send: Send, certificate: str) -> None:
        route = _route(scope)
        headers = dict(scope["headers"])
        bank = self._bank(certificate, headers)
        if not self._rate.allows(bank):
            raise _RefusedError(429, "Too many requests.")
        if self._at_once[bank] >= self._limits.requests_at_once:
            raise _RefusedError(429, "Too many requests at once.")
        self._at_once[bank] += 1
        self._reports[bank] += route == _ACTIVATE
        report = self._reports[bank]
        try:
            cap = self._limits.body_bytes(is_object=route == _PUSH_OBJECT)
            with SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES, dir=self._spool) as waiting:
                await _read_body(waiting, headers, receive, cap, self._limits.body_timeout_s)
                if route == _PULL:
                    wait_s = min(_seconds(headers.get(WAIT)), self._limits.wait_s)
                    await self._banks_bell.wait(bank, wait_s, _node(_whole(waiting)))
                async with self._turn(route, bank):
                    body = [_whole(waiting)]
                    _check_body(route, body[0])
                    self._bank(certificate, headers)  # it may have been revoked while it waited or sent
                    if route == _PULL and report != self._reports[bank]:
                        await _answer(send, 409, "This bank has reported for duty anew since it asked.")
                    else:
                        await self._ask_flower(scope, _replay(body, receive), send, certificate)
        finally:
            self._at_once[bank] -= 1
        if route in _RINGS:
            self._coordinator_bell.ring()

    def _turn(self, route: str, bank: str) -> AbstractAsyncContextManager[None]:
        """Some objects at a time; of one bank, one report for duty or pull at a time.

        A pull may outlive its connection, and Flower hands out a message once. So none reaches Flower after the bank
        has reported anew, and the report waits for one that is there: what is lost was sent before the report, which is
        what tells the coordinator to ask again (``CoordinatorGrid``).
        """
        if route in self._object_turns:
            return self._object_turns[route]
        return self._turns[bank] if route in (_ACTIVATE, _PULL) else nullcontext()

    async def _ask_flower(self, scope: Scope, receive: Receive, send: Send, certificate: str) -> None:
        """Flower's answer, unless the bank was revoked while Flower worked: then nothing of it, and no code of Flower's
        for a node that it has just forgotten."""
        revoked = False

        async def to_member(event: MutableMapping[str, Any]) -> None:
            nonlocal revoked
            if event["type"] == "http.response.start":
                revoked = certificate not in self.members
            if not revoked:
                await _send_in_pieces(event, send)

        await self._app(scope, receive, to_member)
        if revoked:
            raise _RefusedError(403, _NO_MEMBER)

    def _bank(self, certificate: str, headers: Mapping[bytes, bytes]) -> str:
        """The bank that a request comes from: its certificate is an active member's, its node key the same member's."""
        member = self.members.get(certificate)
        if member is None:
            raise _RefusedError(403, _NO_MEMBER)
        try:
            key = b64decode(headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER.encode(), b""), validate=True)
        except ValueError:
            key = b""
        if not hmac.compare_digest(key, member.node_key):
            raise _RefusedError(403, "This node key is not that of the certificate's bank.")
        return member.bank


class PrivateGate:
    """The control and runtime routes, for whoever has the operator's token; other pages go to ``pages`` if given."""

    def __init__(
        self, app: App, token: str, banks_bell: Doorbell, coordinator_bell: Doorbell, pages: App | None = None
    ) -> None:
        self._app, self._pages = app, pages
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
            await self._app(scope, receive, partial(_send_in_pieces, send=send))
            if path.endswith((_PUSH, _PUSH_OBJECT)):
                self._banks_bell.ring(dict(scope["headers"]).get(FOR, b"").decode("ascii", "replace"))


def _route(scope: Scope) -> str:
    route: str = scope["path"].removeprefix(_FLEET)
    if not scope["path"].startswith(_FLEET) or route not in FLEET_ROUTES:
        raise _RefusedError(404, "Not found.")
    if scope["method"] != "POST":
        raise _RefusedError(405, "Only POST.")
    return route


async def _read_body(
    target: SpooledTemporaryFile[bytes], headers: Mapping[bytes, bytes], receive: Receive, cap: int, timeout_s: float
) -> None:
    """Write the whole body to ``target``, never more than ``cap`` bytes of it; the announced length is not believed."""
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise _RefusedError(415, "Compressed bodies are not accepted.")
    if (announced := headers.get(b"content-length", b"0")).isdigit() and int(announced) > cap:
        raise _RefusedError(413, f"At most {cap} bytes.")
    size, more = 0, True
    try:
        async with asyncio.timeout(timeout_s):
            while more:
                event = await receive()
                if event["type"] == "http.disconnect":
                    raise _RefusedError(400, "The body ended early.")
                chunk = event.get("body", b"")
                size += len(chunk)
                more = event.get("more_body", False)
                if size > cap:
                    raise _RefusedError(413, f"At most {cap} bytes.")
                target.write(chunk)
    except TimeoutError:
        raise _RefusedError(408, f"The body took more than {timeout_s:g} s.") from None
    except OSError as error:
        raise _RefusedError(503, f"The body could not be kept: {error.strerror}.") from None


def _whole(body: SpooledTemporaryFile[bytes]) -> bytes:
    body.seek(0)
    return body.read()


def _check_body(route: str, body: bytes) -> None:
    """Refuse what would grow when Flower decodes it, and a reply in another node's name."""
    try:
        if route == _PUSH_OBJECT:
            read_head(PushObjectRequest.FromString(body).object_content)
        elif route == _PUSH:
            request = PushMessagesRequest.FromString(body)
            trees = request.message_object_trees
            if len(request.messages_list) != 1 or len(trees) != 1 or not _is_chain(trees[0]):
                raise _RefusedError(400, "One message of one record at a time.")
            if request.messages_list[0].metadata.src_node_id != request.node.node_id:
                raise _RefusedError(403, "A node speaks for itself only.")
    except (DecodeError, UpdateError) as error:
        raise _RefusedError(400, str(error)) from None


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


def _replay(body: list[bytes], receive: Receive) -> Receive:
    """A ``receive`` that gives the one element of ``body`` first, and holds it no longer than that."""

    async def receive_again() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": body.pop(), "more_body": False} if body else await receive()

    return receive_again


async def _send_in_pieces(event: MutableMapping[str, Any], send: Send) -> None:
    """``send``, with the body of an answer in pieces, each of which waits until the one before has left.

    As a whole it would be encrypted and held once more at once, however slowly its reader reads.
    """
    body: bytes = event.get("body", b"")
    last = max(len(body) - 1, 0) // _PIECE_BYTES * _PIECE_BYTES
    for start in range(0, last, _PIECE_BYTES):
        await send({"type": event["type"], "body": body[start : start + _PIECE_BYTES], "more_body": True})
    await send({**event, "body": body[last:]} if last else event)


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
