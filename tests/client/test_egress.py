"""What can leave a bank: four kinds of things, by type and at run time, signed, and no text of an exception."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

import fedbank.flower
import fedbank_client
from fedbank.adapter.heads import CallNote, LedgerHead
from fedbank.adapter.update import (
    COORDINATOR,
    NONCE_BYTES,
    PAYLOAD,
    PRESENCE,
    QUESTION,
    RECORD,
    REQUEST,
    UPDATE,
    Presence,
    RoundCall,
    RoundRequest,
    Update,
)
from fedbank.errors import FedBankError, PrivacyError, RunError, UpdateError
from fedbank.sealing.envelope import open_sealed, seal
from fedbank.sealing.keys import SigningKey
from fedbank_client.app import make_client_app
from fedbank_client.egress import Refusal, reply
from fedbank_client.seal import BankSeal
from fedbank_simulations.inline import InlineGrid

SECRET = "customer Li Wei asked about a loan of 230000 yuan"


@pytest.fixture(autouse=True)
def _a_task_of_flower() -> None:
    """Messages can be made inside a task only; a grid declares one."""
    InlineGrid(ClientApp(), {})


CONTEXT = {"consortium": "north", "campaign": "spring", "roster": "r"}
BANK, COORDINATORS = SigningKey.derived("egress", "bank-a"), SigningKey.derived("egress", "coordinator")
SEAL = BankSeal("bank-a", BANK, CONTEXT, COORDINATORS.public)


def _message(kind: str = "train", payload: bytes = b"request") -> Message:
    return Message(RecordDict({RECORD: ConfigRecord({PAYLOAD: payload})}), 7, kind)


def _signed(kind: str, payload: bytes, key: SigningKey = COORDINATORS, **context: str) -> bytes:
    return seal(kind, COORDINATOR, CONTEXT | context, payload, key)


def _opened(answer: Message, kind: str) -> bytes:
    payload = answer.content.config_records[RECORD][PAYLOAD]
    assert isinstance(payload, bytes)
    return bytes(open_sealed(payload, kind, {"bank-a": BANK.public}.get, CONTEXT, 1 << 20).payload)


def _mypy(*files: Path) -> str:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml"), *map(str, files)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True).stdout


def _context() -> Context:
    return Context(1, 7, {}, RecordDict(), {})


@dataclass(frozen=True, slots=True)
class _Talkative(Presence):
    loss: float = 0.3


@pytest.mark.parametrize(
    "thing",
    [{"loss": 0.3}, 0.3, b"bytes", "text", None, _Talkative("bank-a", "1", "2", "3"), ValueError(SECRET)],
    ids=repr,
)
def test_nothing_else_can_be_sent(thing: Any) -> None:
    with pytest.raises(TypeError, match="nothing was sent"):
        reply(_message(), thing, SEAL)


SNIPPETS = {
    "loss": "reply(message, 0.3, None)",
    "metrics": 'reply(message, {"loss": 0.3}, None)',
    "bytes": 'reply(message, b"anything", None)',
    "exception": "reply(message, ValueError('text'), None)",
}


@pytest.mark.slow
def test_the_type_checker_refuses_it_too(tmp_path: Path) -> None:
    head = "from flwr.app import Message\nfrom fedbank_client.egress import Refusal, reply\n"
    for name, line in SNIPPETS.items():
        (tmp_path / f"{name}.py").write_text(f"{head}def send(message: Message) -> Message:\n    return {line}\n")
    (tmp_path / "allowed.py").write_text(
        f"{head}def send(message: Message) -> Message:\n    return reply(message, Refusal.PRIVACY, None)\n"
    )
    shown = _mypy(*sorted(tmp_path.glob("*.py")))
    wrong = {line.split(":")[0].rsplit("/", 1)[-1] for line in shown.splitlines() if "[arg-type]" in line}
    assert wrong == {f"{name}.py" for name in SNIPPETS}, shown


def _is_fixed_error(call: ast.Call) -> bool:
    """``Error(CODE, "literal text")``: nothing that was computed can be in it."""
    first = call.args[0] if call.args else None
    return (
        isinstance(first, ast.Call)
        and getattr(first.func, "id", "") == "Error"
        and isinstance(first.args[1], ast.Constant)
    )


def test_only_the_egress_makes_messages() -> None:
    """Whoever makes one elsewhere in the client has opened a second way out; the transport's own errors are literals.

    ``fedbank.flower`` rebuilds the coordinator's messages as they come in.
    """
    folder = Path(next(iter(fedbank_client.__path__)))
    makers = set()
    for path in (*folder.rglob("*.py"), Path(fedbank.flower.__file__)):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            is_record = name in ("RecordDict", "MetricRecord", "ArrayRecord", "ConfigRecord") and bool(node.args)
            if is_record or (name == "Message" and not _is_fixed_error(node)):
                makers.add(path.name)
    assert makers == {"egress.py", "flower.py"}


REACHES = {
    "aiohttp",
    "asyncio",
    "ftplib",
    "grpc",
    "http",
    "httpx",
    "huggingface_hub",
    "imaplib",
    "multiprocessing",
    "paramiko",
    "poplib",
    "requests",
    "smtplib",
    "socket",
    "socketserver",
    "ssl",
    "subprocess",
    "telnetlib",
    "urllib",
    "urllib3",
    "websockets",
    "xmlrpc",
}
"""Libraries that open connections or start processes."""
OPENS = {
    "connection.py": {"httpx", "ssl"},
    "flower_hooks.py": {"httpx", "ssl"},
    "repository_client.py": {"httpx", "socket", "ssl"},
    "doctor.py": {"fedbank.membership.health"},
    "membership_commands.py": {"fedbank.membership.health"},
    "home.py": {"fedbank.tls", "ssl"},
    "start.py": {"fedbank.supervision"},
    "adoption.py": {"subprocess"},
    "evaluation.py": {"socket"},
}
"""Modules that could reach further than this process: Flower's routes, the members' repository, ``/health``, the
bank's TLS; the bank's own processes, one of which has its sockets taken away. A base model that is named is fetched by
``fedbank.model.spec``, which sends nothing of the bank."""
SERVES = {
    "serving/commands.py": {"fedbank.supervision"},
    "serving/development.py": {"urllib"},
    "serving/engines.py": {"fedbank.serving.engines.openai_engine", "fedbank.serving.engines.vllm"},
    "serving/folder.py": {"fedbank.serving.store.database"},
    "serving/guard.py": {"fedbank.serving.access.jwks"},
    "serving/job_worker.py": {"fedbank.serving.store.database"},
    "serving/limits.py": {"fedbank.serving.store.database"},
    "serving/problems.py": {
        "fedbank.serving.store.database",
        "fedbank.serving.access.jwks",
        "fedbank.serving.sharing.redis_link",
    },
    "serving/running.py": {"socket", "ssl"},
    "serving/server.py": {"ssl"},
    "serving/shared_stores.py": {"fedbank.serving.sharing.redis_link"},
    "serving/telling.py": {"fedbank.serving.sharing.redis_link", "fedbank.serving.store.database"},
    "serving/tls.py": {"ssl"},
    "serving/wiring.py": {"fedbank.serving.access.jwks"},
}
"""The service listens, to the bank's own customers. By itself it reaches what the bank names in its settings: an
engine, a database, a Redis, the identity provider's keys. Others name the errors of these. Nothing of it goes to the
consortium."""
CONNECTS = {"open_connection", "open_unix_connection", "create_connection", "create_datagram_endpoint", "sock_connect"}
CONNECTS |= {"create_subprocess_exec", "create_subprocess_shell", "subprocess_exec", "subprocess_shell"}
"""Of asyncio, whose loop the service runs on."""
SIGNS = {
    ("enrolment.py", "JoinRequest"),
    ("enrolment.py", "LeaveNotice"),
    ("release_commands.py", "sign_draft"),
    ("release_commands.py", "write_release_key"),
    ("seal.py", "seal"),
}
"""Who makes something signed for others: the files that people send, and the envelopes of answers."""


def _imports() -> Iterator[tuple[str, str, str]]:
    """File, module and name (empty for a whole module) of everything that the client imports."""
    folder = Path(next(iter(fedbank_client.__path__)))
    for path in folder.rglob("*.py"):
        place = path.relative_to(folder).as_posix()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                yield from ((place, node.module or "", name.name) for name in node.names)
            elif isinstance(node, ast.Import):
                yield from ((place, name.name, "") for name in node.names)


def test_no_other_module_of_a_bank_can_open_a_connection_or_start_a_process() -> None:
    """Whoever opens another way out has to write it down here, and in client/README.md what leaves by it."""
    ours = {"fedbank.tls", "fedbank.membership.health", "fedbank.supervision"}
    reaching = ("access.jwks", "engines.openai_engine", "engines.vllm", "sharing.redis_link", "store.database")
    ours |= {f"fedbank.serving.{name}" for name in reaching}
    found: dict[str, set[str]] = {}
    for file, module, _ in _imports():
        if file.startswith("serving/") and module == "asyncio":
            continue
        if (reach := module if module in ours else module.partition(".")[0]) in ours | REACHES:
            found.setdefault(file, set()).add(reach)
    assert found == OPENS | SERVES


def test_no_module_of_the_service_opens_a_connection_or_starts_a_process_by_its_loop() -> None:
    folder = Path(next(iter(fedbank_client.__path__))) / "serving"
    named = {
        node.attr
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert named and not named & CONNECTS


def test_no_other_module_of_a_bank_makes_signed_files_or_envelopes() -> None:
    makers = {"JoinRequest", "LeaveNotice", "sign_draft", "write_release_key", "write_document", "seal", "KeySigner"}
    assert {(file, name) for file, _, name in _imports() if name in makers} == SIGNS


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (PrivacyError(SECRET), Refusal.PRIVACY),
        (UpdateError(SECRET), Refusal.REQUEST),
        (RunError(SECRET), Refusal.FAILURE),
        (FedBankError(SECRET), Refusal.FAILURE),
        (ValueError(SECRET), Refusal.FAILURE),
        (MemoryError(SECRET), Refusal.FAILURE),
        (KeyError(SECRET), Refusal.FAILURE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
@pytest.mark.parametrize("kind", ["train", "query.enrol"])
def test_an_exception_leaves_as_one_of_three_texts_and_is_kept_inside(
    error: Exception, refusal: Refusal, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    inside: list[Exception] = []

    def fail(context: Context) -> Any:
        raise error

    payload = _signed(REQUEST, b"call") if kind == "train" else _signed(QUESTION, bytes(NONCE_BYTES))
    answer = make_client_app(fail, inside.append, lambda _: SEAL)(_message(kind, payload), _context())
    assert answer.has_error() and answer.error.reason == refusal.value
    assert inside == [error]
    assert SECRET not in repr(answer) + repr(vars(answer)) + "".join(capsys.readouterr())


def test_a_request_that_is_no_request_is_refused(tmp_path: Path) -> None:
    strange = Message(RecordDict({"other": ConfigRecord({"x": 1})}), 7, "train")
    inside: list[Exception] = []
    answer = make_client_app(_nobody, inside.append, lambda _: SEAL)(strange, _context())
    assert answer.has_error() and len(inside) == 1


def _nobody(context: Context) -> Any:
    raise AssertionError("the bank was opened")


UNSIGNED: dict[str, Callable[[str, bytes], bytes]] = {
    "without an envelope": lambda kind, payload: payload,
    "signed by somebody else": lambda kind, payload: _signed(kind, payload, SigningKey.derived("somebody")),
    "signed by the bank itself": lambda kind, payload: _signed(kind, payload, BANK),
    "in the bank's name": lambda kind, payload: seal(kind, "bank-a", CONTEXT, payload, COORDINATORS),
    "of another kind": lambda kind, payload: _signed("roster", payload),
    "for another campaign": lambda kind, payload: _signed(kind, payload, campaign="autumn"),
    "for another consortium": lambda kind, payload: _signed(kind, payload, consortium="south"),
    "under another roster": lambda kind, payload: _signed(kind, payload, roster="s"),
    "cut": lambda kind, payload: _signed(kind, payload)[:-1],
}


@pytest.mark.parametrize("kind", ["train", "query.enrol"])
@pytest.mark.parametrize("spoil", UNSIGNED.values(), ids=UNSIGNED.keys())
def test_what_the_coordinator_did_not_sign_for_this_campaign_is_not_read(
    spoil: Callable[[str, bytes], bytes], kind: str
) -> None:
    """Refused before anything of it is parsed, and before the bank is opened."""
    inside: list[Exception] = []
    envelope = REQUEST if kind == "train" else QUESTION
    message = _message(kind, spoil(envelope, bytes(NONCE_BYTES)))
    answer = make_client_app(_nobody, inside.append, lambda _: SEAL)(message, _context())
    assert answer.has_error() and answer.error.reason == Refusal.REQUEST.value
    assert len(inside) == 1 and isinstance(inside[0], UpdateError)


def test_a_bank_says_who_it_is_signed_and_to_this_question_only() -> None:
    head = LedgerHead(4, "5a" * 32)
    bank = type("Named", (), {"name": "bank-a", "head": lambda self: head})()
    app, nonce = make_client_app(lambda _: bank, _fails, lambda _: SEAL), bytes(range(NONCE_BYTES))
    first = Presence.from_bytes(_opened(app(_message("query.enrol", _signed(QUESTION, nonce)), _context()), PRESENCE))
    assert (first.bank, first.nonce, first.head) == ("bank-a", nonce.hex(), head)
    again = Presence.from_bytes(_opened(app(_message("query.enrol", _signed(QUESTION, nonce)), _context()), PRESENCE))
    assert again == first
    restarted = make_client_app(lambda _: bank, _fails, lambda _: SEAL)
    answer = restarted(_message("query.enrol", _signed(QUESTION, nonce)), _context())
    assert Presence.from_bytes(_opened(answer, PRESENCE)).instance != first.instance


def test_a_question_cannot_make_a_bank_sign_what_the_coordinator_likes() -> None:
    inside: list[Exception] = []
    message = _message("query.enrol", _signed(QUESTION, b"x" * 100))
    assert make_client_app(_nobody, inside.append, lambda _: SEAL)(message, _context()).has_error()
    assert isinstance(inside[0], UpdateError)


def test_a_call_becomes_the_request_to_this_bank(small_spec: Any, make_state: Any) -> None:
    asked: list[bytes] = []

    class Trainer:
        name = "bank-a"

        def train(self, request: bytes) -> Update:
            asked.append(request)
            raise PrivacyError("enough")

        def head(self) -> LedgerHead:
            return LedgerHead()

    app = make_client_app(lambda _: Trainer(), lambda _: None, lambda _: SEAL)
    answer = app(_message("query.enrol", _signed(QUESTION, bytes(NONCE_BYTES))), _context())
    mask, state = Presence.from_bytes(_opened(answer, PRESENCE)).mask, make_state(small_spec, 0)
    call = RoundCall.to_all("spring", 3, {"bank-a": CallNote("1" * 64)}, {"bank-a": mask}, state)
    app = make_client_app(lambda _: Trainer(), lambda _: None, lambda _: SEAL)  # started anew: it still reads the call
    app(_message("train", _signed(REQUEST, call.to_bytes())), _context())
    parsed = RoundRequest.from_bytes(asked[0], small_spec)
    assert (parsed.campaign, parsed.round, parsed.plan_digest) == ("spring", 3, "1" * 64)


def _fails(error: Exception) -> None:
    raise error


def test_an_update_leaves_signed_with_its_agreed_fields_only(make_bank_update: Callable[[], Update]) -> None:
    update = make_bank_update()
    answer = reply(_message(), update, SEAL)
    assert set(answer.content) == {RECORD} and set(answer.content[RECORD]) == {PAYLOAD}
    assert _opened(answer, UPDATE) == update.to_bytes()


def test_without_a_seal_a_bank_can_only_refuse(make_bank_update: Callable[[], Update]) -> None:
    with pytest.raises(TypeError, match="nothing was sent"):
        reply(_message(), make_bank_update(), None)
    assert reply(_message(), Refusal.FAILURE, None).has_error()


@pytest.fixture
def make_bank_update(small_spec: Any) -> Callable[[], Update]:
    import numpy as np

    shapes = small_spec.trainable_shapes()
    return lambda: Update(
        "spring",
        1,
        "bank-a",
        "0" * 64,
        "1" * 64,
        5,
        {name: np.ones(shape, np.float32) for name, shape in shapes.items()},
    )


RAW = """import numpy as np
import torch
from fedbank.adapter.update import Update
from fedbank.aggregation.rules import average

def send(gradients: dict[str, torch.Tensor]) -> Update:
    raw = {name: gradient.numpy() for name, gradient in gradients.items()}
    return Update("spring", 1, "bank-a", "0", "1", 5, raw)

def add(gradient: torch.Tensor) -> object:
    return average([{"w": gradient.numpy()}], [1.0])
"""


@pytest.mark.slow
def test_gradients_that_no_plan_released_fit_in_no_update_and_in_no_average(tmp_path: Path) -> None:
    (tmp_path / "raw.py").write_text(RAW)
    shown = _mypy(tmp_path / "raw.py")
    lines = {int(line.split(":")[1]) for line in shown.splitlines() if "Released" in line}
    assert lines == {8, 11}, shown
