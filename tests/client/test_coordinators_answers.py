"""What a coordinator answers, and what a person reads of it: nothing that it says ends the bank's process."""

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict

sys.path.insert(0, str(Path(__file__).parents[1] / "deployment"))

from pki import Authority

from fedbank.cli import main
from fedbank.errors import UpdateError
from fedbank.sealing.keys import SigningKey
from fedbank_client import flower_hooks as flower
from fedbank_client.app import BankApp, payload_of
from fedbank_client.connection import Access, DeniedError, FleetConnection, NotOurs, UnreachableError, _refusal
from fedbank_client.egress import Refusal
from fedbank_client.home import Home, write_home
from fedbank_client.policy import POLICY, TEMPLATE
from fedbank_client.start import status_file
from fedbank_server.flower_hooks import set_identity


@pytest.fixture
def access(tmp_path: Path) -> Access:
    authority = Authority(tmp_path)
    paths = authority.bank("a")
    return Access("127.0.0.1:1", authority.ca, paths.certificate, paths.key, paths.node_key)


@pytest.fixture
def line(access: Access) -> FleetConnection:
    set_identity(1, 1)
    return FleetConnection(access)


@pytest.mark.parametrize("charset", ["zip", "bz2", "hex", "base64", "rot13", "idna", "punycode", "undefined", "\ud7ff"])
@pytest.mark.parametrize("status", [401, 403, 412, 429, 500, 404])
def test_the_encoding_that_an_error_claims_is_not_believed(access: Access, charset: str, status: int) -> None:
    """``httpx`` asks any codec of that name; some of them raise."""
    headers = [(b"content-type", b"text/plain; charset=" + charset.encode())]
    error = _refusal(httpx.Response(status, headers=headers, content=b"[/x] \x1b[2J\xff\n no"), access)
    assert "[/x] ?[2J" in str(error) and str(error).isprintable()


@pytest.mark.parametrize(
    "date",
    [
        "Mon, 02 Mar 2026 12:00:00 -0000",
        "Mon, 02 Mar 2026 12:00:00 +9999999999",
        "x",
        "Mon, 02 Mar 99999 0:0:0 GMT",
        "",
    ],
)
def test_a_date_without_a_zone_or_sense_is_no_reason_to_end(access: Access, date: str) -> None:
    assert isinstance(_refusal(httpx.Response(401, headers={"date": date}, content=b"no"), access), DeniedError)


def test_a_date_without_a_zone_is_taken_for_utc(access: Access) -> None:
    response = httpx.Response(401, headers={"date": "Mon, 02 Mar 2020 12:00:00 -0000"}, content=b"no")
    assert "s ahead of the coordinator's" in str(_refusal(response, access))


def test_an_answer_that_asks_for_parts_that_do_not_exist_is_worth_trying_again(line: FleetConnection) -> None:
    asked = Message(RecordDict({}), 5, "train")
    asked.metadata.__dict__["_message_id"] = "0" * 64
    wrong = SimpleNamespace(objects_to_push=["f" * 64], session_id="s")
    line._client = SimpleNamespace(PushMessages=lambda request: wrong)  # type: ignore[assignment]
    with pytest.raises(UnreachableError, match="ask for a part of this bank's answer"):
        line.push(Message(Error(100, "refused"), reply_to=asked), 0.1)


def _announced(**changes: Any) -> tuple[Any, Any, dict[str, bytes]]:
    message = Message(RecordDict({"fedbank": ConfigRecord({"payload": b"x"})}), 5, "train")
    header, tree, objects = flower.deflate(message)
    for name, value in changes.items():
        setattr(header.metadata, name, value)
    return header, tree, objects


@pytest.mark.parametrize("message_type", ["", "train\n", "nothing.x", "\u202e", "train.9"])
def test_a_header_that_makes_no_sense_is_noted_and_not_answered(line: FleetConnection, message_type: str) -> None:
    header, tree, objects = _announced(message_type=message_type)
    spoiled = {name: content[:-1] for name, content in objects.items()}
    announced = SimpleNamespace(messages_list=[header], message_object_trees=[tree])
    line._client = SimpleNamespace(  # type: ignore[assignment]
        PullMessages=lambda request: announced,
        PullObject=lambda request: SimpleNamespace(
            object_found=True, object_available=True, object_content=spoiled[request.object_id]
        ),
        ConfirmMessageReceived=lambda request: None,
    )
    found = line.pull()
    assert isinstance(found, NotOurs) and found.reply is None
    assert found.reason.startswith("The coordinator sent something else") and found.reason.isprintable()


def test_a_kind_of_message_that_the_app_does_not_know_is_refused() -> None:
    set_identity(1, 1)
    app = BankApp("train")
    for message_type in ("query.other", "evaluate", "train.x", "query"):
        reply = app(Message(RecordDict({}), 5, message_type), Context(1, 5, {}, RecordDict(), {}))
        assert (reply.error.code, reply.error.reason) == (100, Refusal.REQUEST.value)


@pytest.mark.parametrize(
    "records",
    [{}, {"fedbank": ConfigRecord({})}, {"fedbank": ConfigRecord({"payload": "x"})}, {"other": ConfigRecord({})}],
)
def test_a_message_without_bytes_is_not_a_request(records: dict[str, ConfigRecord]) -> None:
    set_identity(1, 1)
    with pytest.raises(UpdateError, match="Expected a message with bytes in it"):
        payload_of(Message(RecordDict(records), 5, "train"))  # type: ignore[arg-type]


def test_client_status_shows_a_coordinators_error_as_it_is(tmp_path: Path) -> None:
    key = SigningKey.derived("coordinator").public
    home = Home(tmp_path, "bank-a", "Test Consortium", ("localhost:9443",), key)
    write_home(home, tmp_path)
    (tmp_path / POLICY).write_text(TEMPLATE)
    about = {"state": "offline", "since": "[bold]", "last_poll": "", "last_error": "got 500: [/x] \x1b[2J\ud800"}
    status_file(home).write_text(json.dumps(about | {"training": None}))
    out = io.StringIO()
    with redirect_stdout(out):
        assert main(["client", "status", "--dir", str(tmp_path)]) == 0
    assert "last problem: got 500: [/x] ?[2J?\n" in out.getvalue()
