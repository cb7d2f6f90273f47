"""A bank with real keys beside a coordinator over real TLS; what others see of one command, in a record.

The process that would load a model says figures that follow from the customers' file: better, worse, or it crashes.
"""

import json
import os
import re
import shutil
import ssl
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from release_world import World

from fedbank.membership.documents import Invitation
from fedbank_client.cli import client_command
from fedbank_client.enrolment import enrol, join
from fedbank_client.home import Home, read_home
from fedbank_client.own_customers import PRIVATE
from fedbank_client.release_home import ReleaseHome
from fedbank_server.authority import create_consortium, load_authority
from fedbank_server.consortium import Files
from fedbank_server.invitations import invite
from fedbank_server.members import admit

BANK = "bank1"
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT[\d:.]+\+00:00")
_SAYS = """
import json, os, sys
from pathlib import Path
words = sys.orig_argv
if "evaluate" in words:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    is_open = any(row[3] == "01" and row[2].endswith({port!r}) for row in rows)  # established, to the coordinator
    Path({began!r}).open("a").write(("connected" if is_open else "alone") + "\\n")
    own = not {{"--made-up", "--suite"}} & set(words)
    file = next((word[10:] for word in words if word.startswith("data.path=")), "")
    customers = Path(file).read_text() if own else ""
    if "crash" in customers:
        os.write(2, b"\\xff\\xed\\xa0\\x80 caf\\xc3\\xa9\\n")
        os._exit(7)
    after = 3.0 if "carol" in customers else 1.5
    scores = dict(suite="", records=len(customers.split()), base=dict(nll=2.0), adapter=dict(nll=after))
    os.write(1, json.dumps(scores).encode())
    os._exit(0)
"""


@dataclass(frozen=True, slots=True)
class Outside:
    """What is seen of one command by others than the bank: requests, files that may be handed over, the exit code."""

    asked: tuple[str, ...]
    files: dict[str, bytes]
    code: int


class Watched:
    """One bank as it is before a command; every command begins with a copy of it."""

    def __init__(self, folder: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.asked, self.runs = folder, list[str](), 0
        self._home, files = _member(folder, world)
        self._server = _Serving.start(self, files, folder / "repository")
        bank_file = self._home.folder / "bank.yaml"
        address = f'addresses: ["127.0.0.1:{self._server.server_address[1]}"]'
        bank_file.write_text(re.sub(r"(?m)^addresses:.*$", address, bank_file.read_text()))
        said = {"began": str(folder / "began"), "port": f":{self._server.server_address[1]:04X}"}
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(_SAYS.format(**said), "utf-8")
        monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def scored(self) -> list[str]:
        """For every process that scored, in order: whether the bank was connected to the coordinator then."""
        path = self.folder / "began"
        return path.read_text().splitlines() if path.exists() else []

    def command(self, customers: str, *words: str) -> tuple[Outside, str]:
        """A command of the bank whose held-out customers are these; and what is in its private file then."""
        self.runs += 1
        self.asked.clear()
        place = self.folder / f"run-{self.runs}"
        home = place / "bank"
        shutil.copytree(self._home.folder, home)
        data = self.folder / "customers.txt"
        data.write_text(customers, "utf-8")
        signature = place / "signature"
        more = ("-o", str(signature)) if "sign" in words else ()
        code = client_command([*words, "--dir", str(home), "data=csv", f"data.path={data}", *more])
        files = {str(path.relative_to(place)): _without_times(path) for path in place.rglob("*") if path.is_file()}
        private = files.pop(f"bank/{PRIVATE}", b"").decode()
        return Outside(tuple(self.asked), files, code), private


class _Serving(BaseHTTPRequestHandler):
    watched: Watched
    folder: Path

    def do_GET(self) -> None:
        self.watched.asked.append("\n".join([self.requestline, *map(": ".join, self.headers.items())]))
        path = self.folder / self.path.removeprefix("/v1/releases/")
        content = path.read_bytes() if path.is_file() else b""
        self.send_response(200 if content else 404)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *words: object) -> None:
        """Not into the test's output."""

    @classmethod
    def start(cls, watched: Watched, files: Files, folder: Path) -> ThreadingHTTPServer:
        handler = type("Serving", (cls,), {"watched": watched, "folder": folder, "protocol_version": "HTTP/1.1"})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        context.load_verify_locations(files.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.daemon_threads = True
        threading.Thread(target=partial(server.serve_forever, 0.05), daemon=True).start()
        return server


def _member(folder: Path, world: World) -> tuple[Home, Files]:
    """A bank of the consortium whose releases ``world`` has, with its release key and the first root."""
    coordinator, now = folder / "coordinator", datetime.now(UTC)
    create_consortium(coordinator, "alliance", now, hosts=("localhost", "127.0.0.1"), port=9, passphrase=None)
    invitation = Invitation.read(invite(coordinator, BANK, now, valid=timedelta(hours=1))[1])
    home, _ = enrol(folder / "bank", BANK, invitation, now)
    package = admit(coordinator, home.request.read_bytes(), lambda: load_authority(Files(coordinator), None), now)[1]
    join(home, package, now)
    home = read_home(home.folder)
    policy = re.sub(r"(?m)^base_model_digests:.*$", "base_model_digests: any", home.policy.read_text())
    home.policy.write_text(policy)
    world.keys[BANK].save(home.release_key, None)
    releases = ReleaseHome(home)
    with releases.exclusive():
        releases.pin(world.pinned)
    return home, Files(coordinator)


def _without_times(path: Path) -> bytes:
    """A file's bytes but for the times in it; of signed checkpoints, which hash the times, how long they are."""
    content = path.read_bytes()
    if path.name == "evidence.checkpoints":
        return json.dumps([len(line) for line in content.splitlines()]).encode()
    return _TIME.sub(b"TIME", content)
