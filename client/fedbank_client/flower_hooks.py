"""Every part of Flower that the bank's node uses and that Flower does not promise to keep (flwr 1.41).

``check_flower`` compares their signatures with what this code was written against, so that an upgrade fails at
the start with one sentence and not in the middle of a round. Nothing here fetches or unpacks a bundle.
"""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.common.serde import message_from_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import (
    ProtobufCall,
    ProtobufClient,
    ProtobufClientInterceptor,
    ProtobufRequestContext,
)
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedbank import flower
from fedbank.errors import RunError, UpdateError
from fedbank.flower import Signatures, deflate, expect_flower

__all__ = [
    "HEARTBEAT_DEFAULT_INTERVAL",
    "ActivateNodeRequest",
    "ConfirmMessageReceivedRequest",
    "DeactivateNodeRequest",
    "FleetHttpClient",
    "Node",
    "ObjectTree",
    "PullMessagesRequest",
    "PullObjectRequest",
    "PushMessagesRequest",
    "PushObjectRequest",
    "SendNodeHeartbeatRequest",
    "check_flower",
    "deflate",
    "inflate",
    "make_client",
    "message_from_proto",
    "public_key_to_bytes",
    "read_node_key",
]
_SIGNATURES: Signatures = (
    (ProtobufClient.__init__, ("self", "base_url", "interceptors", "verify", "timeout", "retry_invoker")),
    (NodeAuthHttpInterceptor.__init__, ("self", "private_key", "public_key")),
    (FleetHttpClient.ActivateNode, ("self", "request")),
    (FleetHttpClient.PullMessages, ("self", "request")),
    (FleetHttpClient.PushMessages, ("self", "request")),
    (FleetHttpClient.PushObject, ("self", "request")),
)


def check_flower() -> None:
    """Raise ``RunError`` if the installed Flower is not the one that this code was written against."""
    expect_flower(_SIGNATURES)


def read_node_key(path: Path, passphrase: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """The node's private key (OpenSSH, NIST P-384); ``RunError`` if the file is not one or others may read it."""
    if path.stat().st_mode & 0o077:
        raise RunError(f"Expected {path} to be readable by its owner only, got a wider mode. Run: chmod 600 {path}")
    try:
        key = load_ssh_private_key(path.read_bytes(), passphrase)
    except (ValueError, TypeError) as error:
        raise RunError(
            f"Expected the node's private key in {path}, got: {error}. Use the file of client init."
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise RunError(f"Expected an elliptic-curve key in {path}, got another kind. Use the file of client init.")
    return key


def make_client(
    address: str,
    context: ssl.SSLContext,
    key: ec.EllipticCurvePrivateKey,
    *,
    timeout: httpx.Timeout,
    max_bytes: int,
    wait_s: float,
) -> FleetHttpClient:
    """Flower's client of the fleet routes, with our TLS; an answer above ``max_bytes`` or compressed is an error."""
    interceptors: list[ProtobufClientInterceptor] = [_Wait(wait_s), NodeAuthHttpInterceptor(key, key.public_key())]
    client = FleetHttpClient(f"https://{address}", interceptors=interceptors, verify=context)
    client._client.close()
    client._client = httpx.Client(transport=_Bounded(context, max_bytes), timeout=timeout, follow_redirects=False)
    return client


def inflate(tree: ObjectTree, pull: Callable[[str], bytes], max_bytes: int) -> Message:
    """The request whose objects ``pull`` fetches; ``UpdateError`` if it is not one record with one bytes value."""
    message = flower.inflate(tree, pull, max_bytes)
    if not message.has_content():
        raise UpdateError("Expected a request of the coordinator, got a message that carries an error.")
    return message


class _Wait:
    """Asks the coordinator to hold a pull for messages until there is one, ``wait_s`` seconds at most."""

    def __init__(self, wait_s: float) -> None:
        self._wait = f"{wait_s:g}"

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        if context.rpc_method.endswith("/PullMessages"):
            context.request.headers["fedbank-wait"] = self._wait
        return call_next(context)


class _Bounded(httpx.BaseTransport):
    """HTTPS that reads no more of an answer than was agreed: the coordinator is not trusted with our memory."""

    def __init__(self, context: ssl.SSLContext, max_bytes: int) -> None:
        self._transport = httpx.HTTPTransport(verify=context, trust_env=False)
        self._max_bytes = max_bytes

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["accept-encoding"] = "identity"
        response = self._transport.handle_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            response.close()
            raise httpx.RemoteProtocolError("a compressed answer", request=request)
        if isinstance(response.stream, httpx.SyncByteStream):
            response.stream = _BoundedStream(response.stream, self._max_bytes)
        return response

    def close(self) -> None:
        self._transport.close()


class _BoundedStream(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, max_bytes: int) -> None:
        self._stream, self._max_bytes = stream, max_bytes

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self._stream:
            size += len(chunk)
            if size > self._max_bytes:
                raise httpx.RemoteProtocolError(f"an answer of more than {self._max_bytes} bytes")
            yield chunk

    def close(self) -> None:
        self._stream.close()
