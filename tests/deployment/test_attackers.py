"""What an attacker tries on the coordinator's two ports and what it gets; the coordinator lives on and stays small."""

import datetime
import json
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from consortium import TOKEN, Consortium, exchange, payload_of, wait_for
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from pki import Authority, Paths

from fedbank_client.connection import Access, DeniedError, FleetConnection

pytestmark = pytest.mark.slow
_MIB = 1024 * 1024
_PROTOBUF = {"content-type": PROTOBUF_MEDIA_TYPE}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    made = Consortium(
        tmp_path_factory.mktemp("attacked"),
        banks=("bank1", "bank2", "flooder"),
        header_timeout_s=1.0,
        body_timeout_s=1.5,
        max_object_bytes=8 * _MIB,
        requests_per_s=8.0,
        burst=60,
    )
    made.start_server()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def survives(attacked: Consortium) -> Iterator[None]:
    """After every attack: alive, not bigger by 200 MB, and an honest bank can still report for duty."""
    process = psutil.Process(attacked.processes["serve"].pid)
    before = process.memory_info().rss
    yield
    assert process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    assert process.memory_info().rss - before < 200 * _MIB
    line = FleetConnection(access(attacked, "bank2"))
    line.deactivate(line.activate())
    line.close()


def access(consortium: Consortium, bank: str, node_key_of: str | None = None) -> Access:
    paths = consortium.banks[bank]
    node_key = consortium.banks[node_key_of or bank].node_key
    address = f"127.0.0.1:{consortium.public}"
    return Access(address, consortium.authority.ca, paths.certificate, paths.key, node_key, wait_s=0.0, timeout_s=5.0)


def client(consortium: Consortium, identity: Paths | None, port: int | None = None) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(consortium.authority.ca))
    if identity is not None:
        context.load_cert_chain(identity.certificate, identity.key)
    return httpx.Client(
        verify=context, base_url=f"https://127.0.0.1:{port or consortium.public}", timeout=10, headers=_PROTOBUF
    )


def key_header(paths: Paths) -> dict[str, str]:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_ssh_public_key(paths.node_public.encode())
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {"flwr-public-key": b64encode(pem).decode()}


@pytest.mark.parametrize("who", ["nobody", "another CA's bank", "an expired certificate"])
def test_no_byte_of_http_is_answered_without_a_certificate_of_the_consortium(
    attacked: Consortium, who: str, tmp_path: Path
) -> None:
    identity = None
    if who == "another CA's bank":
        identity = Authority(tmp_path / "other").bank("bank1")
    elif who == "an expired certificate":
        day = datetime.timedelta(days=1)
        identity = attacked.authority.bank("late", valid=(-2 * day, -day))
    with client(attacked, identity) as attacker, pytest.raises(httpx.TransportError):
        attacker.get("/health")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("POST", "/v1/control/list-runs", 404),
        ("POST", "/v1/control/register-node", 404),
        ("POST", "/v1/control/start-run", 404),
        ("POST", "/v1/runtime/acquire-task", 404),
        ("POST", "/v1/runtime/pull-messages", 404),
        ("POST", "/v1/fleet/register-node", 404),
        ("POST", "/v1/fleet/get-fab", 404),
        ("POST", "/v1/fleet/../control/list-runs", 404),
        ("POST", "/v1/fleet/%2e%2e/control/list-runs", 404),
        ("POST", "/v1/fleet/pull-messages/", 404),
        ("GET", "/v1/fleet/pull-messages", 405),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("POST", "/v1/fleet/pull-messages", 403),
    ],
)
def test_a_member_reaches_the_fleet_routes_and_nothing_else(
    attacked: Consortium, method: str, path: str, status: int
) -> None:
    bank = attacked.banks["bank1"]
    request = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nauthorization: Bearer {TOKEN}\r\n\r\n"
    assert raw(attacked, bank, request.encode()).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_certificate_of_the_ca_that_is_not_in_the_roster_is_refused(attacked: Consortium) -> None:
    stranger = attacked.authority.bank("stranger")
    with client(attacked, stranger) as attacker:
        answer = attacker.post("/v1/fleet/activate-node", headers=key_header(stranger))
    assert (answer.status_code, answer.json()["detail"]) == (403, "This certificate belongs to no active member.")


def test_one_banks_certificate_does_not_speak_for_another_banks_node_key(attacked: Consortium) -> None:
    line = FleetConnection(access(attacked, "bank1", node_key_of="bank2"))
    with pytest.raises(DeniedError, match="This node key is not that of the certificate's bank"):
        line.activate()
    line.close()


def test_one_bank_does_not_speak_as_another_banks_node(attacked: Consortium) -> None:
    bank1, bank2 = FleetConnection(access(attacked, "bank1")), FleetConnection(access(attacked, "bank2"))
    own, other = bank1.activate(), bank2.activate()
    bank1.resume(other)
    with pytest.raises(DeniedError, match="does not accept this node's signature"):
        bank1.pull()
    with client(attacked, attacked.banks["bank1"]) as attacker:
        forged = PushMessagesRequest(node=Node(node_id=own), message_object_trees=[ObjectTree(object_id="0" * 64)])
        forged.messages_list.add().metadata.src_node_id = other
        headers = key_header(attacked.banks["bank1"])
        answer = attacker.post("/v1/fleet/push-messages", content=forged.SerializeToString(), headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (403, "A node speaks for itself only.")
    for line, node in ((bank1, own), (bank2, other)):
        line.deactivate(node)
        line.close()


@pytest.mark.parametrize("path", ["push-object", "push-messages", "pull-messages"])
@pytest.mark.parametrize("announced", [True, False])
def test_a_body_of_300_megabytes_is_cut_off(attacked: Consortium, path: str, announced: bool) -> None:
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(300):
            sent += _MIB
            yield bytes(_MIB)

    headers = key_header(attacked.banks["bank1"]) | ({"content-length": str(300 * _MIB)} if announced else {})
    status: Any = None
    with client(attacked, attacked.banks["bank1"]) as attacker:
        try:
            status = attacker.post(f"/v1/fleet/{path}", content=body(), headers=headers).status_code
        except httpx.TransportError:
            status = "connection closed"
    assert status in (413, "connection closed")
    assert sent < 60 * _MIB


BOMBS: dict[str, tuple[str, bytes, int]] = {
    "5 MB of empty messages": (
        "push-messages",
        PushMessagesRequest(messages_list=[{}]).SerializeToString() * 2_500_000,
        413,
    ),
    "60 kB of empty messages": (
        "push-messages",
        PushMessagesRequest(messages_list=[{}]).SerializeToString() * 30_000,
        400,
    ),
    "60 kB of empty objects": (
        "push-messages",
        PushMessagesRequest(message_object_trees=[{}]).SerializeToString() * 30_000,
        400,
    ),
    "7 MB of children": (
        "push-object",
        PushObjectRequest(object_content=b"RecordDict " + b"," * 7_000_000).SerializeToString(),
        400,
    ),
    "another kind of object": (
        "push-object",
        PushObjectRequest(object_content=b"Array  0\x00").SerializeToString(),
        400,
    ),
    "no protobuf": ("push-messages", b"\xff" * 1000, 400),
    "no object": ("push-object", b"\xff" * 1000, 400),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_would_grow_when_decoded_is_refused_before(attacked: Consortium, bomb: str) -> None:
    path, body, status = BOMBS[bomb]
    with client(attacked, attacked.banks["bank1"]) as attacker:
        answer = attacker.post(f"/v1/fleet/{path}", content=body, headers=key_header(attacked.banks["bank1"]))
    assert answer.status_code == status


def test_compressed_bodies_are_refused(attacked: Consortium) -> None:
    headers = key_header(attacked.banks["bank1"]) | {"content-encoding": "gzip"}
    with client(attacked, attacked.banks["bank1"]) as attacker:
        assert attacker.post("/v1/fleet/push-object", content=b"x", headers=headers).status_code == 415


@pytest.mark.parametrize(
    ("what", "answer"),
    [(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nx: ", b""), (b"", b""), (b"x" * 70_000, b"HTTP/1.1 400")],
)
def test_slow_and_endless_headers_are_cut_off(attacked: Consortium, what: bytes, answer: bytes) -> None:
    began = time.monotonic()
    assert raw(attacked, attacked.banks["bank1"], what, drip=b"a").startswith(answer)
    assert time.monotonic() - began < 4


def test_a_connection_that_never_says_anything_is_cut_off(attacked: Consortium) -> None:
    with socket.create_connection(("127.0.0.1", attacked.public), timeout=5) as silent:
        assert silent.recv(1) == b""


def test_a_slow_body_is_cut_off(attacked: Consortium) -> None:
    key = key_header(attacked.banks["bank1"])["flwr-public-key"]
    head = f"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\nflwr-public-key: {key}\r\ncontent-length: 1000\r\n\r\n"
    assert raw(attacked, attacked.banks["bank1"], head.encode(), drip=b"a").startswith(b"HTTP/1.1 408")


def test_connections_of_one_certificate_are_counted(attacked: Consortium) -> None:
    bank = attacked.banks["bank1"]
    held = [tls(attacked, bank) for _ in range(8)]
    answer = raw(attacked, bank, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    for connection in held:
        connection.close()
    assert answer == b""


def test_one_banks_flood_is_slowed_down(attacked: Consortium) -> None:
    seen: set[int] = set()
    with client(attacked, attacked.banks["flooder"]) as attacker:
        headers = key_header(attacked.banks["flooder"])
        deadline = time.monotonic() + 20
        while 429 not in seen and time.monotonic() < deadline:
            seen.add(attacker.post("/v1/fleet/push-object", content=b"", headers=headers).status_code)
    assert 429 in seen


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
@pytest.mark.parametrize("path", ["/v1/control/list-runs", "/v1/runtime/acquire-task", "/v1/runtime/pull-messages"])
def test_the_private_port_wants_the_operators_token(attacked: Consortium, authorization: str | None, path: str) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    with client(attacked, attacked.banks["bank1"], attacked.private) as attacker:
        assert attacker.post(path, headers=headers).status_code == 401


def test_the_private_port_is_on_loopback_and_has_no_fleet_routes(attacked: Consortium) -> None:
    listening = [
        connection.laddr.ip
        for connection in psutil.Process(attacked.processes["serve"].pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == attacked.private
    ]
    assert listening == ["127.0.0.1"]
    with client(attacked, None, attacked.private) as operator:
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert operator.post("/v1/fleet/pull-messages", headers=headers).status_code == 404
        assert operator.post("/v1/control/list-runs", headers=headers).status_code == 200
        assert operator.get("/health").status_code == 200


@pytest.mark.fault(17)
def test_a_revoked_bank_is_out_at_once_on_a_connection_that_it_has(
    attacked: Consortium, seen: Callable[[str], None]
) -> None:
    third = attacked.authority.bank("bank3")
    attacked.banks["bank3"] = third
    attacked.roster(attacked.banks)
    line = FleetConnection(access(attacked, "bank3"))
    deadline = time.monotonic() + 10
    while True:
        try:
            line.activate()
            break
        except DeniedError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert line.pull() is None
    del attacked.banks["bank3"]
    attacked.roster(attacked.banks)
    began = time.monotonic()
    with pytest.raises(DeniedError, match="revoked"):
        while time.monotonic() - began < 10:
            line.pull()
            time.sleep(0.1)
    took = time.monotonic() - began
    assert took < 5
    seen(f"a revoked bank is out after {took:.1f} s")
    line.close()


def test_a_bank_that_is_revoked_in_the_middle_of_an_exchange_sends_nothing_more(attacked: Consortium) -> None:
    mallory = attacked.authority.bank("mallory")
    attacked.banks["mallory"] = mallory
    attacked.roster(attacked.banks)
    attacked.start("bank", "mallory")
    attacked.start("bank", "bank1")
    with attacked.grid(unreachable_after_s=3.0) as grid:
        wait_for(lambda: {"mallory", "bank1"} <= grid.banks().keys(), 30, attacked.log_of("mallory"))
        nodes = grid.banks()
        del attacked.banks["mallory"]
        attacked.roster(attacked.banks)
        wait_for(lambda: attacked.status("mallory")["state"] == "denied", 20, attacked.log_of("mallory"))
        replies = exchange(grid, {nodes["mallory"]: b"secret", nodes["bank1"]: b"secret"})
        assert payload_of(replies[nodes["bank1"]]) == b"secret"
        assert replies[nodes["mallory"]].has_error()
    assert "revoked" in attacked.status("mallory")["last_error"]
    assert not (attacked.folder / "mallory" / "calls").exists()
    for bank in ("mallory", "bank1"):
        attacked.processes.pop(bank).terminate()


def test_a_flood_of_refusals_is_told_once_a_minute(attacked: Consortium) -> None:
    with client(attacked, attacked.banks["bank1"]) as attacker:
        for _ in range(30):
            attacker.post("/v1/control/start-run")
    events = [json.loads(line) for line in (attacked.folder / "events").read_text().splitlines()]
    told = [event for event in events if event["kind"] == "refused" and event["status"] == 404]
    assert [event["who"] for event in told] == ["bank1"]


def test_a_revoked_bank_is_out_even_if_nobody_can_be_told(attacked: Consortium) -> None:
    for leaver in ("leaver1", "leaver2"):  # twice: the watch itself must live on
        attacked.banks[leaver] = attacked.authority.bank(leaver)
        attacked.roster(attacked.banks)
        wait_for(lambda leaver=leaver: not refused(access(attacked, leaver)), 10)
        (attacked.folder / "no-more-events").touch()
        left = access(attacked, leaver)
        del attacked.banks[leaver]
        attacked.roster(attacked.banks)
        wait_for(lambda left=left: refused(left), 10)
    (attacked.folder / "no-more-events").unlink()


def test_a_roster_that_cannot_be_read_changes_nothing(attacked: Consortium) -> None:
    (attacked.folder / "roster.json").write_text("{")
    time.sleep(1.2)
    line = FleetConnection(access(attacked, "bank1"))
    line.deactivate(line.activate())
    line.close()
    attacked.roster(attacked.banks)


def refused(who: Access) -> bool:
    time.sleep(0.25)  # faster would be slowed down
    line = FleetConnection(who)
    try:
        line.deactivate(line.activate())
    except DeniedError:
        return True
    finally:
        line.close()
    return False


def tls(consortium: Consortium, identity: Paths) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(consortium.authority.ca))
    context.load_cert_chain(identity.certificate, identity.key)
    return context.wrap_socket(
        socket.create_connection(("127.0.0.1", consortium.public), timeout=5), server_hostname="127.0.0.1"
    )


def raw(consortium: Consortium, identity: Paths, content: bytes, drip: bytes = b"") -> bytes:
    """Send bytes as they are, then ``drip`` until the other side has had enough; its answer."""
    with tls(consortium, identity) as connection:
        connection.settimeout(0.2 if drip else 5)
        answer = b""
        try:
            connection.sendall(content)
            for _ in range(50):
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
