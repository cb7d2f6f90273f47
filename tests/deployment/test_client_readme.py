"""What client/README.md says leaves a bank is what leaves it: every kind is made by the real code and measured.

One process and no mocks: a bank joins a consortium in a folder, then its own app and its own connection answer over
real TLS to a thread that stands in the coordinator's place, hands out messages as Flower does, and keeps every request
as it came.
"""

import json
import re
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from readme_release import Asked, Released, Serving, signature_fields

from fedbank.adapter.heads import CallNote
from fedbank.adapter.state import AdapterSpec, initial_state
from fedbank.adapter.update import COORDINATOR, NONCE_BYTES, PAYLOAD, QUESTION, RECORD, REQUEST, Presence, RoundCall
from fedbank.aggregation.rounds import GlobalState
from fedbank.config import load_campaign, load_client
from fedbank.membership.documents import Invitation
from fedbank.membership.health import OK
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.proposal import Acceptance, Proposal
from fedbank.result import RESULT, Result
from fedbank.sealing.envelope import open_sealed, seal
from fedbank.sealing.keys import SigningKey
from fedbank_client.cli import COMMANDS as CLIENT_COMMANDS
from fedbank_client.connection import Access, FleetConnection
from fedbank_client.desk import Desk
from fedbank_client.doctor import examine
from fedbank_client.egress import Refusal
from fedbank_client.enrolment import enrol, join, leave
from fedbank_client.home import Home, read_home
from fedbank_client.loading import load_resources
from fedbank_client.resident import bank_app
from fedbank_server import flower_hooks as flower
from fedbank_server.authority import create_consortium, load_authority
from fedbank_server.cli import COMMANDS as SERVER_COMMANDS
from fedbank_server.consortium import Files
from fedbank_server.invitations import invite
from fedbank_server.members import active_members, admit
from fedbank_server.proposals import Invited
from fedbank_server.release_files import ReleaseFiles

README = Path(__file__).parents[2] / "client" / "README.md"
NAME, BANK = "Alliance of banks", "bank-a"
LARGEST = 2**64 - 1  # of Flower's random numbers of nodes, runs and tasks: the most bytes that one takes
SESSION = "00000000-0000-4000-8000-000000000000"  # as long as Flower's are
SETTINGS = ("name=spring", "privacy.epsilon=3", "training.rounds=3", "training.local_steps=1")
_ALMOST = 12
"""Signatures of ECDSA differ by some bytes: a size with "at most" is that or a little less."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A kind of thing that left: names of its fields, and its bytes (the most there were, of several)."""

    fields: frozenset[str]
    size: int


@dataclass
class Wire:
    """What the thread in the coordinator's place hands out, and what it got."""

    waiting: list[tuple[Any, Any]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    routes: list[tuple[str, Any, int]] = field(default_factory=list)
    headers: dict[str, int] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    certificate: bytes = b""

    def bodies(self, *routes: str) -> int:
        return sum(size for route, _, size in self.routes if route in routes)


def _activate(wire: Wire, request: Any) -> Any:
    return fleet_pb2.ActivateNodeResponse(node_id=LARGEST)


def _beat(wire: Wire, request: Any) -> Any:
    return heartbeat_pb2.SendNodeHeartbeatResponse(success=True)


def _pull(wire: Wire, request: Any) -> Any:
    header, tree = wire.waiting.pop(0) if wire.waiting else (None, None)
    return fleet_pb2.PullMessagesResponse(
        messages_list=[header] if header else [], message_object_trees=[tree] if tree else []
    )


def _pull_object(wire: Wire, request: Any) -> Any:
    content = wire.objects[request.object_id]
    return message_pb2.PullObjectResponse(object_found=True, object_available=True, object_content=content)


def _push(wire: Wire, request: Any) -> Any:
    tree, ids = request.message_object_trees[0], []
    while True:
        ids.append(tree.object_id)
        if not tree.children:
            return fleet_pb2.PushMessagesResponse(objects_to_push=ids, session_id=SESSION)
        tree = tree.children[0]


ROUTES: dict[str, tuple[Any, Any]] = {
    "activate-node": (fleet_pb2.ActivateNodeRequest, _activate),
    "send-node-heartbeat": (heartbeat_pb2.SendNodeHeartbeatRequest, _beat),
    "pull-messages": (fleet_pb2.PullMessagesRequest, _pull),
    "pull-object": (message_pb2.PullObjectRequest, _pull_object),
    "confirm-message-received": (
        message_pb2.ConfirmMessageReceivedRequest,
        lambda wire, request: message_pb2.ConfirmMessageReceivedResponse(),
    ),
    "push-messages": (fleet_pb2.PushMessagesRequest, _push),
    "push-object": (message_pb2.PushObjectRequest, lambda wire, request: message_pb2.PushObjectResponse(stored=True)),
    "deactivate-node": (fleet_pb2.DeactivateNodeRequest, lambda wire, request: fleet_pb2.DeactivateNodeResponse()),
}


class _Coordinator(Serving):
    protocol_version = "HTTP/1.1"
    wire: Wire

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers["content-length"]))
        route = self.path.removeprefix("/v1/fleet/")
        kind, answer = ROUTES[route]
        request = kind.FromString(body)
        self.wire.routes.append((route, request, len(body)))
        assert isinstance(self.connection, ssl.SSLSocket)
        self.wire.certificate = self.connection.getpeercert(binary_form=True) or b""
        for name, value in self.headers.items():
            line = len(f"{name}: {value}\r\n")
            self.wire.headers[name.lower()] = max(line, self.wire.headers.get(name.lower(), 0))
        content = answer(self.wire, request).SerializeToString()
        self.send_response(200)
        self.send_header("content-type", PROTOBUF_MEDIA_TYPE)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@dataclass
class Example:
    """A bank of a consortium with a proposal to it; ``coordinator`` signs what the bank gets."""

    home: Home
    coordinator: SigningKey
    invited: Invited
    spec: AdapterSpec
    app: ClientApp
    connection: FleetConnection
    released: Released
    wire: Wire

    def ask(self, message_type: str, content: bytes) -> tuple[Any, list[tuple[str, Any, int]]]:
        """Let the bank pull a message and answer it; the answer, and the requests in which it left."""
        flower.set_identity(LARGEST, LARGEST)
        message = Message(RecordDict({RECORD: ConfigRecord({PAYLOAD: content})}), LARGEST, message_type)
        header, tree, objects = flower.deflate(flower.message_for_run(message, LARGEST, LARGEST, time.time()))
        self.wire.waiting.append((header, tree))
        self.wire.objects.update(objects)
        pulled = self.connection.pull()
        assert isinstance(pulled, Message)
        answer = self.app(pulled, Context(LARGEST, LARGEST, {}, RecordDict(), {}))
        before = len(self.wire.routes)
        self.connection.push(answer, 1.5)
        return answer, self.wire.routes[before:]

    def opened(self, answer: Any, kind: str) -> bytes:
        content = answer.content.config_records[RECORD][PAYLOAD]
        return bytes(open_sealed(content, kind, self.invited.roster.find_key, self.invited.context, 1 << 24).payload)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    """A member that has loaded its model and its customers, and is connected."""
    root, now = tmp_path_factory.mktemp("readme"), datetime.now(UTC)
    folder = root / "consortium"
    create_consortium(folder, NAME, now, hosts=("localhost", "127.0.0.1"), port=9443, passphrase=None)
    invitation = Invitation.read(invite(folder, BANK, now, valid=timedelta(hours=24))[1])
    home, _ = enrol(root / BANK, BANK, invitation, now)
    package = admit(folder, home.request.read_bytes(), lambda: load_authority(Files(folder), None), now)[1]
    join(home, package, now)
    home, files, digest = read_home(home.folder), Files(folder), base_digest(tiny_folder())
    policy = re.sub(r"(?m)^base_model_digests:.*$", f"base_model_digests: [{digest}]", home.policy.read_text())
    home.policy.write_text(policy.replace("accept_plain_updates: false", "accept_plain_updates: true"))
    coordinator = SigningKey.load(files.coordinator_key)
    proposal = Proposal.of(NAME, digest, load_campaign(SETTINGS))
    invited = Invited(proposal, active_members(folder), files.roster.read_bytes(), coordinator)
    resources = load_resources(load_client(["data.customers=400", "threads=1"]), lambda line: None)
    desk = Desk(home, load_client(["threads=1"]), resources, lambda action, about, result: None)
    wire = Wire()
    served = {"wire": wire, "asked": wire.asked, "folder": ReleaseFiles(folder).repository.folder}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Coordinator", (_Coordinator,), served))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(files.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    thread = threading.Thread(target=partial(server.serve_forever, 0.05), daemon=True)
    thread.start()
    address = f"127.0.0.1:{server.server_address[1]}"
    bank_file = home.folder / "bank.yaml"
    bank_file.write_text(re.sub(r"(?m)^addresses:.*$", f'addresses: ["{address}"]', bank_file.read_text()))
    home = read_home(home.folder)
    connection = FleetConnection(Access(address, home.authority, home.certificate, home.tls_key, home.node_key))
    spec = proposal.adapter_spec(tiny_folder())
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HTTPS_PROXY", "http://127.0.0.1:1")  # nobody is there, and nobody may be asked
        released = Released(folder, home, address)
        yield Example(home, coordinator, invited, spec, bank_app(desk), connection, released, wire)
    connection.close()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def sent(example: Example) -> dict[str, Sent]:
    """One of each kind, in the order of a bank's life, under its name in the README."""
    found = {"request.json": _document(example.home.request)}
    _talk(example, found)
    for route in ROUTES:
        requests = [(_set_fields(request), size) for name, request, size in example.wire.routes if name == route]
        plain = [(names, size) for names, size in requests if not any("error" in name for name in names)]
        found[route] = Sent(frozenset().union(*(names for names, _ in plain)), max(size for _, size in plain))
    certificate = x509.load_der_x509_certificate(example.wire.certificate)
    names = {part.oid._name for part in certificate.subject} | {part.oid._name for part in certificate.extensions}
    found["certificate"] = Sent(frozenset(names), len(certificate.public_bytes(Encoding.DER)))
    for header, size in example.wire.headers.items():
        found[f"header {header}"] = Sent(frozenset(), size)
    found |= _asked(example.wire.asked)
    found["leave-notice.json"] = _document(leave(example.home, datetime.now(UTC)))
    return found


def _talk(example: Example, found: dict[str, Sent]) -> None:
    """A campaign from the proposal to the receipt, between reporting for duty and leaving."""
    connection, context, key = example.connection, example.invited.context, example.coordinator

    def answer(kind: str, message_type: str, content: bytes) -> bytes:
        made, requests = example.ask(message_type, content)
        payload = example.opened(made, kind)
        found[kind] = Sent(_fields_of(kind, payload), len(payload))
        found[f"{kind}: envelope"] = Sent(frozenset(), len(made.content.config_records[RECORD][PAYLOAD]))
        found[f"{kind}: bodies"] = Sent(frozenset(), sum(size for _, _, size in requests))
        return payload

    connection.activate()
    connection.heartbeat()
    assert connection.pull() is None
    refusal, requests = example.ask("query.propose", b"not signed by anybody")
    assert refusal.error.reason == Refusal.REQUEST.value
    fields = frozenset().union(*(_set_fields(request) for _, request, _ in requests))
    found["refusal"] = Sent(fields, sum(size for _, _, size in requests))
    acceptance = Acceptance.from_bytes(answer("acceptance", "query.propose", example.invited.message()))
    found["plan"] = Sent(frozenset(_names_in(json.loads(acceptance.plan))), len(acceptance.plan))
    question = seal(QUESTION, COORDINATOR, context, bytes(NONCE_BYTES), key)
    presence = Presence.from_bytes(answer("presence", "query.enrol", question))
    adapter = initial_state(example.spec, seed=0)
    notes, masks = {BANK: CallNote(acceptance.plan_digest)}, {BANK: presence.mask}
    call = RoundCall.to_all(acceptance.campaign, 1, notes, masks, adapter).to_bytes()
    found["later"] = _outside_the_hours(example, seal(REQUEST, COORDINATOR, context, call, key))
    answer("update", "train", seal(REQUEST, COORDINATOR, context, call, key))
    result = Result(acceptance.campaign, 3, adapter).to_bytes()
    answer("receipt", "query.result", seal(RESULT, COORDINATOR, context, result, key))
    connection.deactivate(LARGEST)
    example.released.all_of_it(example.invited.proposal, acceptance, GlobalState(3, adapter))
    assert {finding.level for finding in examine(example.home, lambda: datetime.now(UTC))} == {OK}
    found["release-key.json"] = _document(example.home.folder / "release-key.json")
    largest = max(example.released.signatures, key=lambda path: path.stat().st_size)
    found["BANK-DRAFT.signature.json"] = Sent(signature_fields(largest), largest.stat().st_size)


def _asked(asked: list[Asked]) -> dict[str, Sent]:
    """Every kind of GET with the bytes of its first line, and the headers of all of them."""
    lines = [(request.kind, request.size) for request in asked]
    lines += [(f"GET header {name}", len(line)) for request in asked for name, line in request.headers.items()]
    return {kind: Sent(frozenset(), max(size for name, size in lines if name == kind)) for kind, _ in lines}


def _outside_the_hours(example: Example, request: bytes) -> Sent:
    """What the bank says to a round that its policy allows in two hours."""
    opens, policy = datetime.now(UTC).replace(minute=0) + timedelta(hours=2), example.home.policy.read_text()
    hours = f'training_hours: "{opens:%H:%M}-{opens + timedelta(hours=1):%H:%M}"'
    example.home.policy.write_text(policy.replace("training_hours: any", hours))
    said, requests = example.ask("train", request)
    example.home.policy.write_text(policy)
    assert said.error.reason == f"later: not before {opens:%Y-%m-%dT%H:%MZ}"
    fields = frozenset().union(*(_set_fields(request) for _, request, _ in requests))
    return Sent(fields, sum(size for _, _, size in requests))


def _document(path: Path) -> Sent:
    """A signed document: what its body names."""
    content = path.read_bytes()
    return Sent(frozenset(json.loads(content)["body"]), len(content))


def _fields_of(kind: str, payload: bytes) -> frozenset[str]:
    if kind == "receipt":
        return frozenset()
    if kind != "update":
        return frozenset(json.loads(payload)) - {"format"}
    header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
    return frozenset(json.loads(header["__metadata__"]["fedbank"])) - {"kind"}


def _names_in(values: dict[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        yield from _names_in(value) if isinstance(value, dict) else (name,)


def _set_fields(message: Any) -> frozenset[str]:
    """Dotted names of the fields that a protobuf message really carries; a tree's children as one."""
    found = set()
    for descriptor, value in message.ListFields():
        inner = list(value) if descriptor.is_repeated else [value]
        if descriptor.message_type is None or descriptor.name == "children":
            found.add(descriptor.name)
        else:
            found |= {f"{descriptor.name}.{name}" for part in inner for name in _set_fields(part)}
    return frozenset(found)


def documented() -> dict[str, tuple[frozenset[str], str]]:
    """Rows of the README's tables: the name in the first cell, names in the second one, the last one."""
    rows = {}
    for line in README.read_text("utf-8").split("## Exactly what leaves")[1].splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `"):
            (name, *_) = re.findall(r"`([^`]+)`", cells[0])
            rows[name] = frozenset(re.findall(r"`([^`]+)`", cells[1])), cells[-1]
    return rows


def test_every_kind_that_leaves_is_in_the_readme_and_nothing_else_is(sent: dict[str, Sent]) -> None:
    assert documented().keys() == sent.keys()


def test_every_kind_has_the_fields_that_the_readme_names(sent: dict[str, Sent]) -> None:
    assert {name: fields for name, (fields, _) in documented().items()} == {
        name: kind.fields for name, kind in sent.items()
    }


def test_every_kind_has_the_size_that_the_readme_names(sent: dict[str, Sent]) -> None:
    wrong = {}
    for name, (_, words) in documented().items():
        (text,) = re.findall(r"[\d,]+", words)
        size, got = int(text.replace(",", "")), sent[name].size
        if not size - (_ALMOST if words.startswith("at most") else 0) <= got <= size:
            wrong[name] = f"{words}, is {got}"
    assert not wrong


def test_the_texts_of_refusals_are_those_in_the_readme() -> None:
    section = README.read_text("utf-8").split("## Exactly what leaves")[1]
    assert set(re.findall(r"`(refused: [^`]+)`", section)) == {reason.value for reason in Refusal}


def test_an_update_is_as_large_as_the_readme_says_for_any_adapter(example: Example, sent: dict[str, Sent]) -> None:
    """Four bytes a parameter, whatever the data."""
    parameters = sum(rows * columns for rows, columns in example.spec.trainable_shapes().values())
    text = README.read_text("utf-8")
    assert f"{parameters:,} parameters" in text
    assert f"{4 * parameters:,} bytes of numbers" in text
    assert f"{sent['update'].size - 4 * parameters:,} bytes of header" in text


@pytest.mark.parametrize("side", ["client", "server"])
def test_the_readmes_of_both_sides_name_commands_and_files_that_exist(side: str) -> None:
    path = README.parents[1] / side / "README.md"
    text = path.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (path.parent / target).exists(), target
    known = {"client": CLIENT_COMMANDS.keys(), "server": SERVER_COMMANDS.keys(), "evidence": {"verify", "show"}}
    named = re.findall(r"\bfedbank (client|server|evidence) ([a-z]+)", text)
    assert [words for words in named if words[1] not in known[words[0]]] == []
    assert {command for side_named, command in named if side_named == side} == set(known[side])
