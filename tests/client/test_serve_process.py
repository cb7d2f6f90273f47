"""The real command with the real tiny model: started, asked over HTTP, followed through an adoption, stopped."""

import json
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from served_bank import tiny_bank

from fedbank.certificates import CLIENT_AUTH, SERVER_AUTH, Authority, new_key, save_key, to_pem
from fedbank.cli import main
from fedbank.evidence.verify import verify_log
from fedbank_client.home import Home
from fedbank_client.serving.folder import ServiceFolder

pytestmark = pytest.mark.slow
PATIENCE_S = 120.0


class Running:
    """``fedbank client serve`` as a process; what it says, line by line."""

    def __init__(self, home: Home, *words: str) -> None:
        command = [sys.executable, "-P", "-m", "fedbank.cli", "client", "serve", "--dir", str(home.folder), *words]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(iter(self.process.stderr.readline, ""))  # each line as it comes

    def wait_for(self, words: str) -> str:
        """The first line with ``words``."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            for line in list(self.said):
                if words in line:
                    return line
            assert self.process.poll() is None, self.said
            time.sleep(0.05)
        raise AssertionError(f"no {words!r} in {self.said}")

    @property
    def url(self) -> str:
        return self.wait_for("Chat: ").split()[1].rstrip("/")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code


@contextmanager
def running(home: Home, *words: str) -> Iterator[Running]:
    found = Running(home, *words)
    try:
        yield found
    finally:
        if found.process.poll() is None:
            for child in psutil.Process(found.process.pid).children(recursive=True):
                child.kill()
            found.process.kill()
            found.process.wait()


def asked(url: str, path: str, token: str, body: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    content = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url + path, content, headers), timeout=30, **options) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found


def token_of(home: Home, role: str, capsys: pytest.CaptureFixture[str], subject: str = "C-10023") -> str:
    assert main(["client", "token", "--dir", str(home.folder), "--role", role, "--subject", subject]) == 0
    return capsys.readouterr().out.strip()


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel's certificate, and the settings of a service that wants one."""

    settings: list[str]
    trust: ssl.SSLContext
    own: ssl.SSLContext


def mutual_tls(folder: Path) -> Channel:
    now, authority = datetime.now(UTC), Authority.create("bank1", datetime.now(UTC))
    for name, usage in (("server", SERVER_AUTH), ("channel", CLIENT_AUTH)):
        key = new_key()
        certificate = authority.issue(name, key.public_key(), usage, now, days=2, hosts=["127.0.0.1"])
        (folder / f"{name}.pem").write_bytes(to_pem(certificate))
        save_key(folder / f"{name}.key", key)
    ca = folder / "ca.pem"
    ca.write_bytes(to_pem(authority.certificate))
    trust, own = (ssl.create_default_context(cafile=ca) for _ in range(2))
    own.load_cert_chain(folder / "channel.pem", folder / "channel.key")
    files = {"certificate": folder / "server.pem", "key": folder / "server.key", "client_ca": ca}
    return Channel([f"tls.{name}={path}" for name, path in files.items()], trust, own)


def test_a_bank_starts_its_service_answers_comes_back_after_a_crash_and_stops_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, channel = tiny_bank(tmp_path)[2], mutual_tls(tmp_path)
    with running(home, "port=0", *channel.settings) as service:
        assert service.url.startswith("https://127.0.0.1:")
        token = token_of(home, "customer-channel", capsys)
        question = {"question": "信用卡丢了怎么办？", "max_length": 8}
        told = asked(service.url, "/v1/query", token, question, context=channel.own)
        assert told["release"] == "tiny-1" and told["session_id"] and told["notices"][0]["code"] == "ai-generated"
        with pytest.raises(OSError):
            asked(service.url, "/health", token, context=channel.trust)  # mutual: nobody without a certificate
        (child,) = psutil.Process(service.process.pid).children()
        service.said.clear()
        child.kill()
        service.wait_for("killed by signal 9")
        again, answers = service.url, list[dict[str, Any]]()

        def ask() -> None:
            long = {"question": "How do I open an account?", "max_length": 150}
            answers.append(asked(again, "/v1/query", token, long, context=channel.own))

        asking, operator = threading.Thread(target=ask), token_of(home, "operator", capsys)
        asking.start()
        end = time.monotonic() + PATIENCE_S
        while (status := asked(again, "/v1/operator/status", operator, context=channel.own))["engine"]["running"] == 0:
            assert time.monotonic() < end and not answers
        assert status["releases"]["stable"]["release"] == "tiny-1"
        assert service.stop() == 0
        asking.join(PATIENCE_S)
    assert answers and answers[0]["answer"]  # the one that was being written ended well
    assert "Stopping" in "".join(service.said) and "Traceback" not in "".join(service.said)
    check_what_is_left(home)


def check_what_is_left(home: Home) -> None:
    folder = home.folder / "service"
    verified = verify_log(folder / "evidence.jsonl", home.load_signing_key().public.raw, [])
    assert verified.entries == verified.signed == 3  # the release and two answers, all signed at the stop
    log = (folder / "service.log").read_text("utf-8")
    assert "POST /v1/query 200" in log and "信用卡" not in log and "C-10023" not in log
    with ServiceFolder(home).exclusive():
        pass


def test_what_may_be_back_is_worth_another_start_and_what_a_person_has_to_do_is_not(tmp_path: Path) -> None:
    home, away = tiny_bank(tmp_path)[2], tmp_path / "redis"
    away.write_text("redis://127.0.0.1:1\n")
    away.chmod(0o600)
    wanted = {f"redis.url={away}": (1, "Expected an answer of Redis"), "--passphrase": (2, "Use --passphrase-file")}
    for word, (code, said) in wanted.items():
        command = ["client", "serve", "--dir", str(home.folder), "--unsupervised", "port=0", word]
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "fedbank.cli", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            start_new_session=True,  # no terminal to ask at
        )
        assert (ended.returncode, said in ended.stderr) == (code, True), ended.stderr
        assert "Traceback" not in ended.stderr
