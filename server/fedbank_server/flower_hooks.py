"""Every part of Flower that the coordinator uses and that Flower does not promise to keep (flwr 1.41).

``check_flower`` compares their signatures with what this code was written against, so that an upgrade fails at
the start with one sentence and not in the middle of a round.
"""

import hashlib
import ssl
from typing import Any

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.app import Metadata, RecordDict
from flwr.app.message import Message, make_message
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID, ErrorCode, Status
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest, StopRunRequest
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    GetNodesRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushAppMessagesRequest,
    SendTaskHeartbeatRequest,
)
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, TASK_TOKEN_HEADER, TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufClient, ProtobufRequestContext
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from flwr.superlink.routers.control.middlewares import (
    ControlEventLogMiddleware,
    ControlLicenseMiddleware,
    ControlSensitiveResponseMiddleware,
)
from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from sqlalchemy import Engine
from sqlalchemy.exc import DatabaseError as DatabaseProblem

from fedbank.errors import RunError
from fedbank.flower import Signatures, deflate, expect_flower, inflate

__all__ = [
    "BUNDLE",
    "FLEET_HTTP_PUBLIC_KEY_HEADER",
    "SUPERLINK_NODE_ID",
    "TASK_TOKEN_HEADER",
    "AcquireTaskRequest",
    "ConfirmMessageReceivedRequest",
    "ControlHttpClient",
    "DatabaseProblem",
    "DecodeError",
    "ErrorCode",
    "GetNodesRequest",
    "Headers",
    "LinkState",
    "ListRunsRequest",
    "Node",
    "ObjectTree",
    "PullAppMessagesRequest",
    "PullMessagesRequest",
    "PullObjectRequest",
    "PullTaskInputRequest",
    "PushAppMessagesRequest",
    "PushMessagesRequest",
    "PushObjectRequest",
    "RuntimeHttpClient",
    "SendTaskHeartbeatRequest",
    "StartRunRequest",
    "StopRunRequest",
    "TaskType",
    "bundle",
    "check_flower",
    "deflate",
    "engines",
    "forget_finished_runs",
    "inflate",
    "link_state",
    "make_app",
    "message_for_run",
    "node_key_bytes",
    "pinned_context",
    "register_node",
    "registered_keys",
    "set_identity",
    "unregister_node",
]
BUNDLE = """
[project]
name = "fedbank"
version = "1.0.0"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41,<1.42"]
[tool.flwr.app]
publisher = "fedbank"
[tool.flwr.app.components]
serverapp = "fedbank_server.nothing:app"
clientapp = "fedbank_client.nothing:app"
"""
"""The one file of the bundle, beside a licence: it names apps that do not exist."""
_IDLE_LAYERS: tuple[object, ...] = (
    ControlSensitiveResponseMiddleware,
    ControlLicenseMiddleware,
    ControlEventLogMiddleware,
    FleetEventLogMiddleware,
)
"""Layers around every request that do nothing without plugins and without cloud connectors, of which we have none."""
_SIGNATURES: Signatures = (
    (create_app, ("config", "superlink_lifespan_class")),
    (SuperLinkLifespan.__init__, ("self", "config", "state_factory")),
    (LinkState.get_node_id_by_public_key, ("self", "public_key")),
    (LinkState.get_node_info, ("self", "node_ids", "owner_aids", "statuses")),
    (LinkState.cleanup_run, ("self", "run_id")),
    (LinkState.delete_node, ("self", "owner_aid", "node_id")),
    (
        LinkState.create_node,
        ("self", "owner_aid", "owner_name", "public_key", "heartbeat_interval", "location", "name"),
    ),
    (
        ProtobufClient.__init__,
        ("self", "base_url", "interceptors", "verify", "timeout", "retry_invoker"),
    ),
    (RuntimeHttpClient.PushMessages, ("self", "request")),
    (RuntimeHttpClient.PullMessages, ("self", "request")),
    (RuntimeHttpClient.AcquireTask, ("self", "request")),
    (ControlHttpClient.StartRun, ("self", "request")),
)


def check_flower() -> None:
    """Raise ``RunError`` if the installed Flower is not the one that this code was written against."""
    expect_flower(_SIGNATURES)


def make_app(database: str, certificate: str, key: str, ca: str, port: int) -> Any:
    """Flower's SuperLink as an ASGI app on an SQLite ``database``; it starts no process, opens no port."""
    config = SuperLinkLifespanConfig(
        control_address="127.0.0.1:1",  # of the retired gRPC servers, which are not started
        health_server_address=None,
        host="127.0.0.1",
        port=port,
        insecure=False,
        certificates=None,
        superexec_auth_secret=None,
        authn_plugin=NoOpControlAuthnPlugin(),  # the private listener has asked for the token by then
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=ca,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        database=database,
        isolation="process",
        runtime_dependency_install=False,
    )
    app = create_app(config, SuperLinkLifespan)
    app.user_middleware[:] = [layer for layer in app.user_middleware if layer.cls not in _IDLE_LAYERS]
    return app


def link_state(app: Any) -> LinkState:
    """The database behind ``make_app``'s app."""
    state: LinkState = app.state.linkstate_factory.state()
    return state


def engines(state: LinkState) -> tuple[Engine, Engine]:
    """What connects to the database, for what is said of messages and for their objects."""
    return state._engine, state.object_store._engine  # type: ignore[attr-defined]


def node_key_bytes(openssh: str) -> bytes:
    """Flower's form of a node's public key, from its OpenSSH line; ``RunError`` unless it is on NIST P-384."""
    try:
        key = load_ssh_public_key(openssh.encode())
    except (ValueError, UnsupportedAlgorithm, NotImplementedError):  # the last: a compressed point
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise RunError(f"Expected a node key (ecdsa-sha2-nistp384 ...), got {openssh[:40]!r}. Ask the bank for it.")
    return public_key_to_bytes(key)


def register_node(state: LinkState, bank: str, key: bytes) -> None:
    """Let the holder of ``key`` activate a node; nothing happens if it may already."""
    if state.get_node_id_by_public_key(key) is None:
        state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0, name=bank)


def unregister_node(state: LinkState, key: bytes) -> None:
    """Let the holder of ``key`` do nothing any more. Flower never takes the same key again."""
    if (node_id := state.get_node_id_by_public_key(key)) is not None:
        state.delete_node(NOOP_FLWR_AID, node_id)


def registered_keys(state: LinkState) -> set[bytes]:
    """The node keys that may activate a node now."""
    return {node.public_key for node in state.get_node_info() if node.status != "unregistered"}


def forget_finished_runs(state: LinkState, forgotten: set[int]) -> None:
    """Delete what runs that are over have left in the database; adds them to ``forgotten`` and skips those in it."""
    for run in state.get_run_info(statuses=[Status.FINISHED]):
        if run.run_id not in forgotten:
            state.cleanup_run(run.run_id)
            forgotten.add(run.run_id)


def set_identity(run_id: int, task_id: int) -> None:
    """What ``flwr.app.Message`` writes into new messages of this process."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run_id, task_id, SUPERLINK_NODE_ID


def message_for_run(message: Message, run_id: int, task_id: int, created_at: float) -> Message:
    """``message`` once more, as a new one of run ``run_id``."""
    old = message.metadata
    metadata = Metadata(
        run_id=run_id,
        message_id="",
        src_node_id=SUPERLINK_NODE_ID,
        dst_node_id=old.dst_node_id,
        reply_to_message_id="",
        group_id=old.group_id,
        created_at=created_at,
        ttl=old.ttl,
        message_type=old.message_type,
        src_task_id=task_id,
        dst_task_id=old.dst_task_id,
    )
    content = message.content if message.has_content() else RecordDict()
    return make_message(metadata, content)


def bundle() -> Any:
    """An app bundle without code, which Flower wants to see before it starts a run."""
    content = build_fab_from_files({"pyproject.toml": BUNDLE.encode(), "LICENSE": b"Apache-2.0\n"})[0]
    return fab_to_proto(Fab(hashlib.sha256(content).hexdigest(), content, {}))


class Headers:
    """Adds ``values`` to the headers of every request of a client."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Flower calls this around each request."""
        context.request.headers.update(self.values)
        return call_next(context)


def pinned_context(certificate: str) -> ssl.SSLContext:
    """TLS that trusts exactly the certificate in the file ``certificate``, whatever name it is for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(cafile=certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
