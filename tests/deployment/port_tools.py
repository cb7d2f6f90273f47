"""What attempts on the coordinator's two ports are made with: the target, and every way of speaking to it."""

import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from attempt import MIB
from consortium import Consortium, wait_for
from cryptography.hazmat.primitives import serialization
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from pki import Paths

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
