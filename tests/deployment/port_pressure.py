"""What attackers try on the coordinator's ports by how much they send, how slowly and how often."""

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from functools import partial

import httpx
from attempt import MIB, Attempt
from consortium import Consortium
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from port_tools import CLOSED, client, key_header, post, raw, said, status_line, tls

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


PRESSURE: tuple[Attempt[Consortium], ...] = (
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
)
