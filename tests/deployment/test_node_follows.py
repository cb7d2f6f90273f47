"""A resident node follows what changes around it without a restart, and tells how far it is with its work."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from consortium import Consortium, exchange, free_port, payload_of, wait_for
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedbank_client.connection import Access
from fedbank_client.node import NodeSettings, run_node

pytestmark = pytest.mark.slow
App = Callable[[Message, Context], Message]


def echo(message: Message, context: Context) -> Message:
    payload = message.content["fedbank"]["payload"]
    return Message(RecordDict({"fedbank": ConfigRecord({"payload": payload})}), reply_to=message)


def access_of(consortium: Consortium, bank: str = "bank1") -> Access:
    paths = consortium.banks[bank]
    address = f"127.0.0.1:{consortium.public}"
    return Access(address, consortium.authority.ca, paths.certificate, paths.key, paths.node_key)


@contextmanager
def node(consortium: Consortium, access: Access, app: App = echo, **settings: Any) -> Iterator[None]:
    """A node in this process, so that a restart cannot be what helped."""
    stop, status = threading.Event(), consortium.folder / "bank1" / "status.json"
    chosen = NodeSettings(access, status, consortium.folder / "bank1" / "home", denied_retry_s=0.5, **settings)
    thread = threading.Thread(target=run_node, args=(chosen, app, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


def wait_state(consortium: Consortium, state: str) -> None:
    wait_for(lambda: consortium.status("bank1")["state"] == state, 60, lambda: str(consortium.status("bank1")))


def replace_files(source: Path, target: Path) -> None:
    temporary = target.with_suffix(".new")
    temporary.write_bytes(source.read_bytes())
    temporary.chmod(0o600)
    temporary.replace(target)


def test_a_further_address_is_tried_when_the_first_does_not_answer(consortium: Consortium) -> None:
    real = access_of(consortium)
    dead = f"127.0.0.1:{free_port()}"
    with node(consortium, replace(real, address=dead, others=(real.address,)), heartbeat_s=0.2):
        wait_state(consortium, "online")
        assert dead in consortium.status("bank1")["last_error"]
        with consortium.grid() as grid:
            wait_for(lambda: "bank1" in grid.banks(), 60)
            (reply,) = exchange(grid, {grid.banks()["bank1"]: b"hello"}).values()
            assert payload_of(reply) == b"hello"


def test_every_address_has_its_turn() -> None:
    access = Access("a:1", *[Path("x")] * 4, others=("b:2", "c:3"))
    seen = [access.address]
    for _ in range(3):
        access = access.next()
        seen.append(access.address)
    assert seen == ["a:1", "b:2", "c:3", "a:1"]
    alone = Access("a:1", *[Path("x")] * 4)
    assert alone.next() == alone


def test_a_renewed_certificate_is_taken_up_without_a_restart(consortium: Consortium) -> None:
    bank, renewed = consortium.banks["bank1"], consortium.authority.bank("renewed")
    with node(consortium, access_of(consortium), heartbeat_s=0.2):
        wait_state(consortium, "online")
        (consortium.folder / "roster.json").write_text(json.dumps({"bank1": [bank.node_public, renewed.sha256]}))
        wait_state(consortium, "denied")
        replace_files(renewed.certificate, bank.certificate)  # the new certificate with the old key
        wait_for(lambda: "Expected a CA in" in consortium.status("bank1")["last_error"], 60)
        replace_files(renewed.key, bank.key)
        wait_state(consortium, "online")
        with consortium.grid() as grid:
            wait_for(lambda: "bank1" in grid.banks(), 60)
            (reply,) = exchange(grid, {grid.banks()["bank1"]: b"hello"}).values()
            assert payload_of(reply) == b"hello"


def test_while_the_app_works_the_status_file_tells_how_far_it_is(consortium: Consortium) -> None:
    go_on, steps = threading.Event(), list[int]()

    def work(message: Message, context: Context) -> Message:
        while not go_on.wait(0.05):
            steps.append(1)
        return echo(message, context)

    def progress() -> dict[str, object] | None:
        return {"step": len(steps)} if steps and not go_on.is_set() else None

    def told() -> dict[str, Any] | None:
        found: dict[str, Any] | None = consortium.status("bank1").get("training")
        return found

    with node(consortium, access_of(consortium), work, progress=progress), consortium.grid() as grid:
        wait_for(lambda: "bank1" in grid.banks(), 60)
        waiting = threading.Thread(target=exchange, args=(grid, {grid.banks()["bank1"]: b"x"}), daemon=True)
        waiting.start()
        wait_for(lambda: told() is not None, 60)
        first = told()
        assert first is not None
        wait_for(lambda: (told() or {"step": 0})["step"] > first["step"], 60)
        assert consortium.status("bank1")["state"] == "working"
        go_on.set()
        waiting.join(60)
        wait_for(lambda: told() is None, 60)
