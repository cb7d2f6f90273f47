"""What attackers try on the coordinator's two ports. The target is a ``Consortium`` whose SuperLink runs."""

import datetime
import time
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
from attempt import Attempt
from consortium import TOKEN, Consortium, payload_of
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import sign_message
from pki import Authority, Paths
from port_pressure import PRESSURE
from port_tools import (
    NO_HTTP,
    NO_MEMBER,
    NO_SIGNATURE,
    NO_TOKEN,
    OTHER_KEY,
    access,
    client,
    denied,
    joined,
    key_header,
    post,
    raw,
    revoked_after,
    status_line,
)

from fedbank_client.connection import FleetConnection

# --- who it is ---------------------------------------------------------------------------------------------------


def _hello(make: Callable[[Consortium], Paths | None], consortium: Consortium) -> str:
    with client(consortium, make(consortium)) as attacker:
        try:
            return str(attacker.get("/health").status_code)
        except httpx.TransportError:
            return NO_HTTP


def _plain_http(consortium: Consortium) -> str:
    try:
        return str(httpx.get(f"http://127.0.0.1:{consortium.public}/health", timeout=10).status_code)
    except httpx.TransportError:
        return NO_HTTP


def _another_authority(consortium: Consortium) -> Paths:
    return Authority(consortium.folder / "other-pki").bank("bank1")


def _stranger(consortium: Consortium) -> str:
    stranger = consortium.authority.bank("stranger")
    return post(consortium, "/v1/fleet/activate-node", stranger, headers=key_header(stranger))


def _anothers_node_key(consortium: Consortium) -> str:
    headers = key_header(consortium.banks["bank2"])
    return post(consortium, "/v1/fleet/activate-node", consortium.banks["bank1"], headers=headers)


def _anothers_node(consortium: Consortium) -> str:
    bank1, bank2 = FleetConnection(access(consortium, "bank1")), FleetConnection(access(consortium, "bank2"))
    own, other = bank1.activate(), bank2.activate()
    bank1.resume(other)
    got = denied(bank1, bank1.pull)
    FleetConnection(access(consortium, "bank1")).deactivate(own)
    bank2.deactivate(other)
    bank2.close()
    return got


def _forged_sender(consortium: Consortium) -> str:
    bank1, bank2 = FleetConnection(access(consortium, "bank1")), FleetConnection(access(consortium, "bank2"))
    own, other = bank1.activate(), bank2.activate()
    forged = PushMessagesRequest(node=Node(node_id=own), message_object_trees=[ObjectTree(object_id="0" * 64)])
    forged.messages_list.add().metadata.src_node_id = other
    bank = consortium.banks["bank1"]
    got = post(
        consortium, "/v1/fleet/push-messages", bank, content=forged.SerializeToString(), headers=key_header(bank)
    )
    for line, node in ((bank1, own), (bank2, other)):
        line.deactivate(node)
        line.close()
    return got


def signed_headers(paths: Paths, shift_s: float = 0.0) -> dict[str, str]:
    """What a node signs now, or signed ``shift_s`` seconds from now."""
    key = serialization.load_ssh_private_key(paths.node_key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    at = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=shift_s)).isoformat()
    signature = b64encode(sign_message(key, at.encode())).decode()
    return key_header(paths) | {TIMESTAMP_HEADER: at, FLEET_HTTP_SIGNATURE_HEADER: signature}


def _replayed(by: str, shift_s: float, consortium: Consortium) -> str:
    """bank2's signed request, sent again by ``by``."""
    headers = signed_headers(consortium.banks["bank2"], shift_s)
    return post(consortium, "/v1/fleet/activate-node", consortium.banks[by], headers=headers)


def _replies(repliers: tuple[str, ...], consortium: Consortium) -> str:
    """bank2 is asked; who of ``repliers``, replying in turn, is heard."""
    lines = {bank: FleetConnection(access(consortium, bank)) for bank in ("bank1", "bank2")}
    nodes = {bank: line.activate() for bank, line in lines.items()}
    heard: list[str] = []
    with consortium.grid() as grid:
        asked = list(grid.push_messages([_message(b"who are you?", dst_node_id=nodes["bank2"])]))
        question: Any = None
        deadline = time.monotonic() + 30
        while question is None and time.monotonic() < deadline:
            question = lines["bank2"].pull()
        for number, bank in enumerate(repliers):
            reply = _message(f"{bank}, reply {number + 1}".encode(), reply_to=question)
            reply.metadata.__dict__["_src_node_id"] = nodes[bank]
            lines[bank].push(reply, 0.1)
            for _ in range(2):  # each waits for half a second
                heard += [payload_of(one).decode() for one in grid.pull_messages(asked)]
    for bank, line in lines.items():
        line.deactivate(nodes[bank])
        line.close()
    return f"heard: {'; '.join(heard) or 'nobody'}"


def _message(payload: bytes, **options: Any) -> Message:
    content = RecordDict({"fedbank": ConfigRecord({"payload": payload})})
    return (
        Message(content, message_type="query.echo", **options)
        if options.get("dst_node_id")
        else Message(content, **options)
    )


# --- where it may go ---------------------------------------------------------------------------------------------

MEMBERS_ROUTES = {
    ("GET", "/health"): "200",
    ("POST", "/v1/control/list-runs"): "404",
    ("POST", "/v1/control/register-node"): "404",
    ("POST", "/v1/control/start-run"): "404",
    ("POST", "/v1/runtime/acquire-task"): "404",
    ("POST", "/v1/runtime/pull-messages"): "404",
    ("POST", "/v1/fleet/register-node"): "404",
    ("POST", "/v1/fleet/get-fab"): "404",
    ("POST", "/v1/fleet/../control/list-runs"): "404",
    ("POST", "/v1/fleet/%2e%2e/control/list-runs"): "404",
    ("POST", "/v1/fleet/pull-messages/"): "404",
    ("GET", "/v1/fleet/pull-messages"): "405",
    ("GET", "/docs"): "404",
    ("GET", "/openapi.json"): "404",
    ("POST", "/v1/fleet/pull-messages"): "403",
}


def _member_asks(method: str, path: str, consortium: Consortium) -> str:
    """Even with the operator's token, which banks do not have."""
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nauthorization: Bearer {TOKEN}\r\n\r\n"
    return status_line(raw(consortium, consortium.banks["bank1"], head.encode()))


def _operator_asks(path: str, authorization: str | None, consortium: Consortium) -> str:
    headers = {} if authorization is None else {"authorization": authorization}
    return post(consortium, path, consortium.banks["bank1"], consortium.private, headers=headers)


def _bank_route_on_the_private_port(consortium: Consortium) -> str:
    headers = {"authorization": f"Bearer {TOKEN}"}
    return post(consortium, "/v1/fleet/pull-messages", None, consortium.private, headers=headers)


def _revoked(consortium: Consortium) -> str:
    line = joined(consortium, "leaver")
    took = revoked_after(consortium, "leaver", line)
    return denied(line, line.pull) if took < 60 else f"served for {took:.0f} s"


_DAY = datetime.timedelta(days=1)

ATTEMPTS: tuple[Attempt[Consortium], ...] = (
    Attempt("no certificate", 17, (NO_HTTP,), partial(_hello, lambda c: None)),
    Attempt("a certificate of another authority", 18, (NO_HTTP,), partial(_hello, _another_authority)),
    Attempt(
        "an expired certificate",
        18,
        (NO_HTTP,),
        partial(_hello, lambda c: c.authority.bank("late", valid=(-2 * _DAY, -_DAY))),
    ),
    Attempt(
        "a certificate of tomorrow",
        18,
        (NO_HTTP,),
        partial(_hello, lambda c: c.authority.bank("early", valid=(_DAY, 2 * _DAY))),
    ),
    Attempt("the server's own certificate", 18, (NO_HTTP,), partial(_hello, lambda c: c.server)),
    Attempt("no TLS", 17, (NO_HTTP,), _plain_http),
    Attempt("a certificate that is not in the roster", 17, (NO_MEMBER,), _stranger),
    Attempt("one bank's certificate, another's node key", 17, (OTHER_KEY,), _anothers_node_key),
    Attempt("pulling as another bank's node", 12, ("denied: does not accept this node's signature",), _anothers_node),
    Attempt("a reply in another node's name", 12, ("403 A node speaks for itself only.",), _forged_sender),
    Attempt(
        "a reply to what another bank was asked",
        11,
        ("heard: bank2, reply 2",),
        partial(_replies, ("bank1", "bank2")),
    ),
    Attempt("a second reply to one question", 11, ("heard: bank2, reply 1",), partial(_replies, ("bank2", "bank2"))),
    Attempt("another bank's signed request, replayed", 11, (OTHER_KEY,), partial(_replayed, "bank1", 0.0)),
    Attempt("its own request of 400 s ago, replayed", 11, (NO_SIGNATURE,), partial(_replayed, "bank2", -400.0)),
    Attempt("its own request of 30 s ahead", 19, (NO_SIGNATURE,), partial(_replayed, "bank2", 30.0)),
    *(
        Attempt(f"a member asks {method} {path}", 20, (status,), partial(_member_asks, method, path))
        for (method, path), status in MEMBERS_ROUTES.items()
    ),
    *(
        Attempt(
            f"the private port, {path}, with {authorization or 'no token'}",
            20,
            (NO_TOKEN,),
            partial(_operator_asks, path, authorization and authorization.replace("TOKEN", TOKEN)),
        )
        for path in ("/v1/control/list-runs", "/v1/runtime/acquire-task", "/v1/runtime/pull-messages")
        for authorization in (None, "Bearer wrong", "Basic TOKEN", "Bearer TOKENx")
    ),
    Attempt("a bank's route on the private port", 20, ("404 Not found.",), _bank_route_on_the_private_port),
    *PRESSURE,
    Attempt("a revoked bank on its open connection", 17, ("denied: revoked",), _revoked),
)
