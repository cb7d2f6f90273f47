"""A coordinator and banks as real processes on loopback, with real TLS, for tests.

``python consortium.py serve|bank FOLDER [NAME]`` is what the processes run. The app answers with what it was sent.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from pki import Authority, Paths

TOKEN = "operator-token-of-a-test-0123456789abcdef"


class Consortium:
    """Processes that are started and stopped by the test; everything of theirs is in ``folder``."""

    program = __file__
    """What they run."""

    def __init__(self, folder: Path, banks: tuple[str, ...] = ("bank1", "bank2"), **limits: Any) -> None:
        self.folder, self.limits = folder, limits
        self.authority = Authority(folder / "pki")
        self.server = self.authority.server()
        self.banks = {bank: self.authority.bank(bank) for bank in banks}
        self.public, self.private = free_port(), free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.roster(self.banks)
        (folder / "settings.json").write_text(
            json.dumps({"public": self.public, "private": self.private, "limits": limits})
        )

    def roster(self, members: dict[str, Paths]) -> None:
        content = json.dumps({bank: [paths.node_public, paths.sha256] for bank, paths in members.items()})
        temporary = self.folder / "roster.tmp"
        temporary.write_text(content)
        temporary.replace(self.folder / "roster.json")

    def start(self, what: str, *names: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        name = names[0] if names else what
        log = (self.folder / f"{name}.log").open("ab")
        command = [sys.executable, self.program, what, str(self.folder), *names]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | (environment or {}))
        self.processes[name] = process
        return process

    def start_server(self) -> subprocess.Popen[bytes]:
        process = self.start("serve")
        wait_for(lambda: listens(self.private) and listens(self.public), 40, self.log_of("serve"))
        return process

    def start_banks(self) -> None:
        for bank in self.banks:
            self.start("bank", bank)

    def start_bank_via(self, bank: str, port: int, **settings: float) -> None:
        """The bank with another port in place of the coordinator's; ``settings`` are ``timeout`` and ``presence``."""
        environment = {f"FEDBANK_TEST_{name.upper()}": str(value) for name, value in settings.items()}
        self.start("bank", bank, environment=environment | {"FEDBANK_TEST_ADDRESS": f"127.0.0.1:{port}"})

    def log_of(self, name: str) -> Callable[[], str]:
        return lambda: (self.folder / f"{name}.log").read_text()[-3000:]

    def status(self, bank: str) -> dict[str, Any]:
        try:
            return dict(json.loads((self.folder / bank / "status.json").read_text()))
        except FileNotFoundError:
            return {"state": "none", "last_error": ""}

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self.processes[name].kill()
        self.processes[name].wait()

    def calls(self, bank: str) -> int:
        """How often the bank's app was called."""
        path = self.folder / bank / "calls"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(8)
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def grid(self, port: int | None = None, **settings: Any) -> Iterator[Any]:
        """The coordinator's grid; ``port`` in place of the private listener's own."""
        from fedbank_server.coordinator_grid import open_grid

        settings.setdefault("patience_s", 120.0)  # a test whose server is gone ends
        with open_grid(
            f"127.0.0.1:{port or self.private}", TOKEN, self.server.certificate, home=self.folder / "home", **settings
        ) as grid:
            yield grid


def wait_for(condition: Callable[[], bool], seconds: float, explain: Callable[[], str] = lambda: "") -> float:
    """Seconds until ``condition`` held."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"not within {seconds} s\n{explain()}")
        time.sleep(0.02)
    return time.monotonic() - began


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def exchange(
    grid: Any, payloads: dict[int, bytes], seconds: float = 60, message_type: str = "query.echo"
) -> dict[int, Any]:
    """Send every node its payload; the replies by node."""
    waiting = dict(zip(send(grid, payloads, message_type), payloads, strict=True))
    replies, deadline = {}, time.monotonic() + seconds
    while waiting:
        assert time.monotonic() < deadline, f"no reply from {waiting}"
        for reply in grid.pull_messages(list(waiting)):
            replies[waiting.pop(reply.metadata.reply_to_message_id)] = reply
    return replies


def send(grid: Any, payloads: dict[int, bytes], message_type: str = "query.echo") -> list[str]:
    """Send every node its payload; the messages' ids."""
    from flwr.app import ConfigRecord, Message, RecordDict

    messages = [
        Message(RecordDict({"fedbank": ConfigRecord({"payload": payload})}), node, message_type)
        for node, payload in payloads.items()
    ]
    return list(grid.push_messages(messages))


def payload_of(reply: Any) -> bytes:
    assert not reply.has_error(), reply.error
    return bytes(reply.content["fedbank"]["payload"])


def serve_coordinator(folder: Path) -> None:
    """Be the SuperLink until SIGTERM."""
    from fedbank_server.limits import Limits
    from fedbank_server.listeners import Identity
    from fedbank_server.superlink import SuperLinkSettings, serve

    settings = json.loads((folder / "settings.json").read_text())
    pki = folder / "pki"

    def note(kind: str, about: Mapping[str, Any]) -> None:
        if (folder / "no-more-events").exists():
            raise OSError("disk full")
        with (folder / "events").open("a") as events:
            events.write(json.dumps({"kind": kind, **about}) + "\n")

    serve(
        SuperLinkSettings(
            identity=Identity(pki / "server.pem", pki / "server.key.pem", pki / "ca.pem"),
            database=folder / "superlink.db",
            home=folder / "home",
            token=TOKEN,
            public_host="127.0.0.1",
            public_port=settings["public"],
            private_port=settings["private"],
            roster_interval_s=0.5,
            limits=Limits(**settings["limits"]),
        ),
        lambda: {bank: (key, sha) for bank, (key, sha) in json.loads((folder / "roster.json").read_text()).items()},
        on_event=note,
    )


def serve_bank(folder: Path, name: str, app: Callable[..., Any]) -> None:
    """Be the node of a bank that answers with ``app``, until SIGTERM."""
    from fedbank_client.connection import Access
    from fedbank_client.node import NodeSettings, run_node

    settings = json.loads((folder / "settings.json").read_text())
    pki, stop = folder / "pki", threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    access = Access(
        address=os.environ.get("FEDBANK_TEST_ADDRESS", f"127.0.0.1:{settings['public']}"),
        ca=pki / "ca.pem",
        certificate=pki / f"{name}.pem",
        key=pki / f"{name}.key.pem",
        node_key=pki / f"{name}.node",
        timeout_s=float(os.environ.get("FEDBANK_TEST_TIMEOUT", "15")),
        presence_s=float(os.environ.get("FEDBANK_TEST_PRESENCE", "60")),
    )
    status, home = folder / name / "status.json", folder / name / "home"
    run_node(NodeSettings(access, status, home, heartbeat_s=2.0, predecessor_s=2.0), app, stop)


def _echo(folder: Path, name: str) -> Callable[..., Any]:
    """An app that answers with what it was sent, and tells on disk how often it was called."""
    from flwr.app import ConfigRecord, Context, Message, RecordDict

    def app(message: Message, context: Context) -> Message:
        payload = message.content["fedbank"]["payload"]
        if message.metadata.message_type == "query.slow":
            time.sleep(float(payload))
        if message.metadata.message_type == "query.modules":
            modules = ("fedbank_client", "torch", "sitecustomize")
            found = {module: getattr(sys.modules.get(module), "__file__", None) for module in modules}
            payload = json.dumps(found).encode()
        if message.metadata.message_type == "query.fail":
            raise ValueError("the customer's name is in here")
        with (folder / name / "calls").open("a") as calls:
            calls.write(f"{message.metadata.message_type}\n")
        return Message(RecordDict({"fedbank": ConfigRecord({"payload": payload})}), reply_to=message)

    return app


def run_as(make_app: Callable[[Path, str], Callable[..., Any]]) -> None:
    """What a process of a consortium does: ``serve FOLDER`` or ``bank FOLDER NAME``, as its words say."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    folder = Path(sys.argv[2])
    if sys.argv[1] == "serve":
        serve_coordinator(folder)
    else:
        serve_bank(folder, sys.argv[3], make_app(folder, sys.argv[3]))


if __name__ == "__main__":
    run_as(_echo)
