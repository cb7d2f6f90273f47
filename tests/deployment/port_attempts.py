"""What attackers try on the coordinator's two ports. The target is a ``Consortium`` whose SuperLink runs."""

import datetime
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from attempt import MIB, Attempt
from consortium import TOKEN, Consortium, payload_of, wait_for
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import sign_message
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from pki import Authority, Paths

from fedbank.errors import RunError
from fedbank_client.connection import Access, DeniedError, FleetConnection

LIMITS: dict[str, Any] = {
    "header_timeout_s": 1.0,
    "body_timeout_s": 4.0,
    "max_object_bytes": 8 * MIB,
    "requests_per_s": 20.0,
    "burst": 100,
}
"""Less patience than a real coordinator has, so that attackers need not wait for minutes."""
BANKS = ("bank1", "bank2", "honest", "flooder", "idler")
NO_HTTP = "no HTTP at all: TLS refused"
CLOSED = "connection closed"
"""Also of an answer whose way back was cut by the rest of a body that met a closed connection (RFC 9112, 9.6)."""
NO_MEMBER = "403 This certificate belongs to no active member."
OTHER_KEY = "403 This node key is not that of the certificate's bank."
NO_SIGNATURE = "401 Invalid SuperNode authentication"
NO_TOKEN = "401 The operator's token is missing or wrong."
_DAY = datetime.timedelta(days=1)


def access(consortium: Consortium, bank: str, node_key_of: str | None = None) -> Access:
    """A bank's own way in; ``node_key_of`` for the node key of another."""
    paths = consortium.banks[bank]
    node_key = consortium.banks[node_key_of or bank].node_key
    address = f"127.0.0.1:{consortium.public}"
    return Access(address, consortium.authority.ca, paths.certificate, paths.key, node_key, wait_s=0.0, timeout_s=5.0)


def client(consortium: Consortium, identity: Paths | None, port: int | None = None) -> httpx.Client:
    """Any HTTP client, with a certificate or without."""
    context = ssl.create_default_context(cafile=str(consortium.authority.ca))
    if identity is not None:
        context.load_cert_chain(identity.certificate, identity.key)
    url = f"https://127.0.0.1:{port or consortium.public}"
    headers = {"content-type": PROTOBUF_MEDIA_TYPE}
    return httpx.Client(verify=context, base_url=url, timeout=20, headers=headers)


def key_header(paths: Paths) -> dict[str, str]:
    """The header by which a node says which node key it has."""
    key = serialization.load_ssh_public_key(paths.node_public.encode())
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(pem).decode()}


def post(consortium: Consortium, path: str, identity: Paths | None, port: int | None = None, **options: Any) -> str:
    """Status and reason of one POST."""
    with client(consortium, identity, port) as attacker:
        while True:
            try:
                answer = attacker.post(path, **options)
            except httpx.TransportError:
                return CLOSED
            if answer.status_code != 429:  # earlier attempts used up the rate
                return said(answer.status_code, answer.content)
            time.sleep(0.5)


def said(status: int, content: bytes) -> str:
    """A status with the gate's or Flower's reason."""
    try:
        body = httpx.Response(status, content=content).json()
        return f"{status} {body.get('detail') or body.get('message', '')}".strip()
    except (ValueError, AttributeError):
        return str(status)


def tls(consortium: Consortium, identity: Paths) -> ssl.SSLSocket:
    """A connection over which anything can be sent."""
    context = ssl.create_default_context(cafile=str(consortium.authority.ca))
    context.load_cert_chain(identity.certificate, identity.key)
    raw_socket = socket.create_connection(("127.0.0.1", consortium.public), timeout=10)
    return context.wrap_socket(raw_socket, server_hostname="127.0.0.1")


def raw(consortium: Consortium, identity: Paths, content: bytes, drip: bytes = b"") -> bytes:
    """Send bytes as they are, then ``drip`` until the other side has had enough; its answer."""
    with tls(consortium, identity) as connection:
        connection.settimeout(0.2 if drip else 10)
        answer = b""
        try:
            connection.sendall(content)
            for _ in range(100):
                try:
                    if not (part := connection.recv(65536)):
                        break
                    answer += part
                    if not drip:
                        break
                except TimeoutError:
                    connection.sendall(drip)
        except OSError:
            pass
        return answer


def status_line(answer: bytes) -> str:
    """The status of a raw answer."""
    return answer.split(b" ")[1].decode() if answer.startswith(b"HTTP/1.1 ") else CLOSED


def denied(line: FleetConnection, call: Callable[[], object]) -> str:
    """What a node is told that is denied, without the address."""
    try:
        call()
    except DeniedError as error:
        text = str(error)
        found = [words for words in ("does not accept this node's signature", "revoked", "clock is") if words in text]
        return f"denied: {found[0]}" if found else text
    except RunError as error:
        return str(error)
    finally:
        line.close()
    return "served"


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


# --- how much it sends -------------------------------------------------------------------------------------------


def _300_megabytes(path: str, announced: bool, consortium: Consortium) -> str:
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(300):
            sent += MIB
            yield bytes(MIB)

    bank = consortium.banks["bank1"]
    headers = key_header(bank) | ({"content-length": str(300 * MIB)} if announced else {})
    with client(consortium, bank) as attacker:
        try:
            answer = attacker.post(f"/v1/fleet/{path}", content=body(), headers=headers)
            got = str(answer.status_code)
        except httpx.TransportError:
            got = CLOSED
    return got if sent < 60 * MIB else f"{got} after {sent // MIB} MiB"


BOMBS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "5 MB of empty messages": (
        "push-messages",
        lambda: PushMessagesRequest(messages_list=[ProtoMessage()]).SerializeToString() * 2_500_000,
        "413",
    ),
    "60 kB of empty messages": (
        "push-messages",
        lambda: PushMessagesRequest(messages_list=[ProtoMessage()]).SerializeToString() * 30_000,
        "400",
    ),
    "60 kB of empty objects": (
        "push-messages",
        lambda: PushMessagesRequest(message_object_trees=[ObjectTree()]).SerializeToString() * 30_000,
        "400",
    ),
    "7 MB of children": (
        "push-object",
        lambda: PushObjectRequest(object_content=b"RecordDict " + b"," * 7_000_000).SerializeToString(),
        "400",
    ),
    "another kind of object": (
        "push-object",
        lambda: PushObjectRequest(object_content=b"Array  0\x00").SerializeToString(),
        "400",
    ),
    "no protobuf": ("push-messages", lambda: b"\xff" * 1000, "400"),
    "no object": ("push-object", lambda: b"\xff" * 1000, "400"),
}


def _bomb(path: str, make: Callable[[], bytes], consortium: Consortium, headers: dict[str, str] | None = None) -> str:
    bank = consortium.banks["bank1"]
    got = post(consortium, f"/v1/fleet/{path}", bank, content=make(), headers=key_header(bank) | (headers or {}))
    return got.split(" ")[0] if got != CLOSED else got


# --- how slowly, how often ---------------------------------------------------------------------------------------


def _drips(content: bytes, consortium: Consortium) -> str:
    began = time.monotonic()
    got = status_line(raw(consortium, consortium.banks["bank1"], content, drip=b"a"))
    return got if time.monotonic() - began < 15 else f"{got} after {time.monotonic() - began:.0f} s"


def _unfinished_push(consortium: Consortium, bank: str) -> bytes:
    """A request whose body does not come."""
    key = key_header(consortium.banks[bank])[FLEET_HTTP_PUBLIC_KEY_HEADER]
    head = f"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\nflwr-public-key: {key}\r\ncontent-length: 1000\r\n\r\n"
    return head.encode()


def _drips_a_body(consortium: Consortium) -> str:
    return _drips(_unfinished_push(consortium, "bank1"), consortium)


def _says_nothing(consortium: Consortium) -> str:
    with socket.create_connection(("127.0.0.1", consortium.public), timeout=20) as silent:
        return CLOSED if silent.recv(1) == b"" else "an answer"


_HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


def _ninth_connection(name: str, begun: bytes, consortium: Consortium) -> str:
    """After eight that have each sent ``begun``: what the ninth gets, and how many of the eight are still open.

    Nothing else connects as the bank ``name``: what it left open would count too.
    """
    bank = consortium.banks[name]
    held = [tls(consortium, bank) for _ in range(8)]
    for connection in held:
        connection.sendall(begun)
    time.sleep(0.5)  # until what was sent is read, and what there is to answer is here
    for connection in held:
        _take(connection)
    got = status_line(raw(consortium, bank, _HEALTH))
    time.sleep(0.2)
    still_open = sum(_take(connection) for connection in held)
    for connection in held:
        connection.close()
    return f"{got}, {still_open} stay open"


def _take(connection: ssl.SSLSocket) -> bool:
    """Read what is there; whether the connection is still open."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except ssl.SSLWantReadError:
        return True
    except OSError:
        pass
    return False


def _ninth_beside_work(consortium: Consortium) -> str:
    return _ninth_connection("flooder", _unfinished_push(consortium, "flooder"), consortium)


def _flood(consortium: Consortium) -> str:
    bank, seen = consortium.banks["flooder"], ""
    headers = key_header(bank)
    with client(consortium, bank) as attacker:
        deadline = time.monotonic() + 60
        while not seen.startswith("429") and time.monotonic() < deadline:
            try:
                answer = attacker.post("/v1/fleet/pull-messages", headers=headers)
            except httpx.TransportError:  # its earlier connections are still counted
                continue
            seen = said(answer.status_code, answer.content)
    return seen


# --- out ---------------------------------------------------------------------------------------------------------


def joined(consortium: Consortium, bank: str) -> FleetConnection:
    """The line of a bank that is admitted while the SuperLink runs."""
    consortium.banks[bank] = consortium.authority.bank(bank)
    consortium.roster(consortium.banks)
    line = FleetConnection(access(consortium, bank))

    def is_in() -> bool:
        try:
            line.activate()
        except DeniedError:
            return False
        return True

    wait_for(is_in, 60)
    return line


def revoked_after(consortium: Consortium, bank: str, line: FleetConnection, seconds: float = 60) -> float:
    """Take a bank out of the roster; the seconds until its open connection is denied."""
    del consortium.banks[bank]
    consortium.roster(consortium.banks)
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        try:
            line.pull()
        except DeniedError:
            return time.monotonic() - began
        time.sleep(0.1)
    return seconds


def _revoked(consortium: Consortium) -> str:
    line = joined(consortium, "leaver")
    took = revoked_after(consortium, "leaver", line)
    return denied(line, line.pull) if took < 60 else f"served for {took:.0f} s"


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
    *(
        Attempt(
            f"300 MB {'announced' if announced else 'unannounced'} to {path}",
            16,
            ("413", CLOSED),
            partial(_300_megabytes, path, announced),
        )
        for path in ("push-object", "push-messages", "pull-messages")
        for announced in (True, False)
    ),
    *(
        Attempt(f"a bomb: {name}", 16, (status, CLOSED) if status == "413" else (status,), partial(_bomb, path, make))
        for name, (path, make, status) in BOMBS.items()
    ),
    Attempt(
        "a bomb: a compressed body",
        16,
        ("415", CLOSED),
        partial(_bomb, "push-object", lambda: b"x", headers={"content-encoding": "gzip"}),
    ),
    Attempt("headers that drip", None, (CLOSED,), partial(_drips, b"POST /v1/fleet/pull-messages HTTP/1.1\r\nx: ")),
    Attempt("bytes that drip", None, (CLOSED,), partial(_drips, b"")),
    Attempt("headers without end", None, ("400", CLOSED), partial(_drips, b"x" * 70_000)),
    Attempt("a body that drips", None, ("408", CLOSED), _drips_a_body),
    Attempt("a connection that says nothing", 10, (CLOSED,), _says_nothing),
    Attempt("a ninth connection beside eight at work", None, (f"{CLOSED}, 8 stay open",), _ninth_beside_work),
    Attempt(
        "a ninth connection beside eight idle ones",
        None,
        ("200, 7 stay open",),
        partial(_ninth_connection, "idler", _HEALTH),
    ),
    Attempt("a flood of requests", None, ("429 Too many requests.",), _flood),
    Attempt("a revoked bank on its open connection", 17, ("denied: revoked",), _revoked),
)


def start(folder: Path) -> Consortium:
    """The target: a SuperLink that serves."""
    made = Consortium(folder, banks=BANKS, **LIMITS)
    made.start_server()
    return made


def still_serves(consortium: Consortium) -> bool:
    """Whether an honest bank can report for duty."""
    line = FleetConnection(access(consortium, "honest"))
    try:
        line.deactivate(line.activate())
    except RunError:
        return False
    finally:
        line.close()
    return True
