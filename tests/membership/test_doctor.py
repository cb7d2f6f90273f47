"""Every fault that doctor knows, made in a healthy folder: it is named, with what to do, and the exit code is 2."""

import http.server
import json
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

import fedbank_client.membership_commands as client
import fedbank_server.membership_commands as server
from fedbank.certificates import CLIENT_AUTH, Authority, load_key, new_key, save_key, to_pem
from fedbank.membership import health
from fedbank.membership.health import FAIL, OK, WARN, Finding
from fedbank.sealing.keys import SigningKey
from fedbank_client.doctor import examine as examine_bank
from fedbank_client.home import Home
from fedbank_server.authority import load_authority, renew_server
from fedbank_server.consortium import Files
from fedbank_server.doctor import examine as examine_server
from fedbank_server.members import revoke

NOTHING, DAY = timedelta(0), timedelta(days=1)


def told(findings: Iterator[Finding], level: str) -> str:
    return "\n".join(f"{finding.subject}: {finding.message}" for finding in findings if finding.level == level)


def test_healthy_folders_are_found_healthy(
    coordinator: Path, make_member: Callable[..., Home], capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_member()
    assert server.doctor_command(["--dir", str(coordinator), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["healthy"] and {"roster", "server.pem", "bank-a", "disk", "flwr"} <= {
        finding["subject"] for finding in said["findings"]
    }
    assert client.doctor_command(["--dir", str(home.folder), "--offline"]) == 0
    shown = capsys.readouterr().out
    assert "fail" not in shown and "ok    client.pem: valid until" in shown and "ok    gpu: " in shown


def _expire(folder: Path, now: datetime) -> None:
    renew_server(folder, load_authority(Files(folder), None), now - 900 * DAY)


SERVER_FAULTS: dict[str, tuple[Callable[[Path, datetime], object], str, str]] = {
    "settings": (lambda f, _: Files(f).settings.write_text("name: x\n"), FAIL, "consortium.yaml: Expected listen"),
    "another name": (
        lambda f, _: Files(f).settings.write_text(Files(f).settings.read_text().replace("Test C", "Other C")),
        FAIL,
        "roster: Expected name in consortium.yaml to be that of the roster",
    ),
    "authority's key open": (lambda f, _: Files(f).authority_key.chmod(0o644), FAIL, "chmod 600 .*ca.key"),
    "token open": (lambda f, _: Files(f).operator_token.chmod(0o604), FAIL, "chmod 600 .*operator.token"),
    "token gone": (lambda f, _: Files(f).operator_token.unlink(), FAIL, "operator.token: Expected a file"),
    "folder open": (lambda f, _: f.chmod(0o755), FAIL, "chmod 700"),
    "server key of another": (lambda f, _: save_key(Files(f).key, new_key()), FAIL, "server.pem to be for the key"),
    "server certificate expired": (_expire, FAIL, r"server\.pem .* expired \d{4}.*fedbank server renew"),
    "server certificate soon": (
        lambda f, now: renew_server(f, load_authority(Files(f), None), now - 800 * DAY),
        WARN,
        r"server.pem: Expires \d{4}-\d\d-\d\d. Run: fedbank server renew",
    ),
    "another host": (
        lambda f, _: Files(f).settings.write_text(Files(f).settings.read_text().replace("localhost:", "elsewhere:")),
        FAIL,
        "Expected .*server.pem to be for elsewhere, got one for localhost",
    ),
    "another authority": (
        lambda f, now: Files(f).authority.write_bytes(to_pem(Authority.create("X", now).certificate)),
        FAIL,
        "server.pem to be issued by this consortium's authority",
    ),
    "damaged certificate": (lambda f, _: Files(f).certificate.write_text("?"), FAIL, "Expected a certificate"),
    "signing key of another": (
        lambda f, _: SigningKey.generate().save(Files(f).coordinator_key),
        FAIL,
        "coordinator.key and .*coordinator.pub to belong together",
    ),
    "roster damaged": (lambda f, _: Files(f).roster.write_bytes(b"?"), FAIL, "roster: Expected"),
    "roster gone": (lambda f, _: Files(f).roster.unlink(), FAIL, "roster: Expected to read a file, got: No such"),
    "invitations damaged": (lambda f, _: Files(f).invitations.write_text("[{}]"), FAIL, "invitations: Expected"),
    "member's certificate gone": (
        lambda f, _: Files(f).certificate_of("bank-a").unlink(),
        FAIL,
        "bank-a: .*fedbank server renew --bank bank-a",
    ),
}


@pytest.mark.parametrize("fault", SERVER_FAULTS)
def test_the_coordinators_doctor_names_the_fault(
    coordinator: Path,
    make_member: Callable[..., Home],
    now: datetime,
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_member()
    make, level, words = SERVER_FAULTS[fault]
    assert told(examine_server(coordinator, now), level) == ""
    make(coordinator, now)
    said = told(examine_server(coordinator, now), level)
    assert re.search(words, said), said
    assert server.doctor_command(["--dir", str(coordinator)]) == (2 if level == FAIL else 0)
    assert f"{level:<5} " in capsys.readouterr().out


def test_a_members_certificate_that_ends_is_told_in_time(
    coordinator: Path, make_member: Callable[..., Home], now: datetime
) -> None:
    home = make_member()
    for days, level in ((300, OK), (340, WARN), (366, FAIL)):
        assert "bank-a: " in told(examine_server(coordinator, now + days * DAY), level)
    assert "client.pem: Expires" in told(examine_bank(home, lambda: now + 340 * DAY, reach=False), WARN)


def _issue(
    home: Home, now: datetime, name: str = "bank-a", *, at: timedelta = timedelta(0), other: bool = False
) -> None:
    authority = load_authority(Files(home.folder.parent / "coordinator"), None)
    issuer = Authority.create("X", now - 30 * DAY) if other else authority
    made = issuer.issue(name, load_key(home.tls_key).public_key(), CLIENT_AUTH, now + at, days=5)
    home.certificate.write_bytes(to_pem(made))


def _revoked(home: Home, now: datetime) -> None:
    folder = home.folder.parent / "coordinator"
    revoke(folder, "bank-a", now, reason="")
    home.store_roster(Files(folder).roster.read_bytes())


BANK_FAULTS: dict[str, tuple[Callable[[Home, datetime], object], str]] = {
    "expired": (
        lambda h, now: _issue(h, now, at=-9 * DAY),
        r"client\.pem .* expired \d{4}-\d\d-\d\d .*--bank bank-a",
    ),
    "of tomorrow": (lambda h, now: _issue(h, now, at=DAY), r"valid only from \d{4}-\d\d-\d\d .* clock"),
    "of another authority": (lambda h, now: _issue(h, now, other=True), "issued by this consortium's authority"),
    "for another bank": (lambda h, now: _issue(h, now, "bank-b"), "to be for bank-a, got one for bank-b"),
    "for another key": (lambda h, _: save_key(h.tls_key, new_key()), "to be for the key"),
    "signing key open": (lambda h, _: h.signing_key.chmod(0o644), "chmod 600 .*signing.key"),
    "node key open": (lambda h, _: h.node_key.chmod(0o640), "chmod 600 .*node.key"),
    "node key damaged": (lambda h, _: h.node_key.write_text("?"), "P-384 key in OpenSSH format"),
    "signing key damaged": (lambda h, _: h.signing_key.write_text("?"), "signing.key: Expected"),
    "policy damaged": (lambda h, _: h.policy.write_text("unit: x\n"), "policy.yaml: Expected"),
    "roster forged": (lambda h, _: h.roster.write_bytes(b"?"), "roster: Expected"),
    "revoked": (_revoked, "bank-a to be a member.*Ask the coordinator why"),
}


@pytest.mark.parametrize("fault", BANK_FAULTS)
def test_the_banks_doctor_names_the_fault(make_member: Callable[..., Home], now: datetime, fault: str) -> None:
    home = make_member()
    make, words = BANK_FAULTS[fault]
    make(home, now)
    said = told(examine_bank(home, lambda: now, reach=False), FAIL)
    assert re.search(words, said.replace("\n", " ")), said
    assert client.doctor_command(["--dir", str(home.folder), "--offline"]) == 2


def test_a_bank_that_has_not_joined_is_told_how(enrol_bank: Callable[..., Home], now: datetime) -> None:
    assert "fedbank client join PACKAGE" in told(examine_bank(enrol_bank(), lambda: now), WARN)


@pytest.fixture
def listen(coordinator: Path) -> Iterator[Callable[[Home, timedelta | None], Home]]:
    """A server with the consortium's certificate whose clock is off by the given time (``None``: tells no time)."""
    stops: list[Callable[[], None]] = []

    def start(home: Home, off: timedelta | None) -> Home:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.wfile.write(b"HTTP/1.0 200 OK\r\n")
                if off is not None:
                    self.wfile.write(f"Date: {format_datetime(datetime.now(UTC) + off, usegmt=True)}\r\n".encode())
                self.wfile.write(b"\r\n")

            def log_message(self, *_: object) -> None:
                pass

        served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        files = Files(coordinator)
        context.load_cert_chain(files.certificate, files.key)
        context.load_verify_locations(files.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        served.socket = context.wrap_socket(served.socket, server_side=True)
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        stops.extend((served.shutdown, thread.join, served.server_close))
        return replace(home, addresses=(f"127.0.0.1:{served.server_address[1]}",))

    yield start
    for stop in stops:
        stop()


@pytest.mark.parametrize(
    ("off_s", "level", "words"),
    [
        (0, OK, "clock: "),
        (-30, FAIL, r"clock is (29|30|31) s ahead of the server's. Switch on NTP"),
        (400, FAIL, r"clock is (399|400|401) s behind the server's"),
        (100, OK, "clock: -"),
        (None, WARN, "does not tell its time"),
    ],
)
@pytest.mark.fault(19)
def test_a_clock_that_is_off_is_told(
    make_member: Callable[..., Home],
    listen: Callable[[Home, timedelta | None], Home],
    off_s: int | None,
    level: str,
    words: str,
) -> None:
    home = listen(make_member(), None if off_s is None else timedelta(seconds=off_s))
    said = told(examine_bank(home, lambda: datetime.now(UTC)), level)
    assert re.search(words, said), said


def test_a_server_that_refuses_or_is_away_is_told_apart(
    make_member: Callable[..., Home], listen: Callable[[Home, timedelta | None], Home], now: datetime
) -> None:
    home = make_member()
    assert "cannot be reached" in told(examine_bank(home, lambda: now), WARN)
    home = listen(home, timedelta(0))
    _issue(home, now, other=True)
    said = told(examine_bank(home, lambda: now), FAIL)
    assert re.search(r"server: .* to accept .*client\.pem .*(another authority issued it|it refuses this bank)", said)


def test_a_full_disk_and_a_missing_package_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, level in ((10 << 30, OK), (1 << 30, WARN), (1 << 20, FAIL)):
        usage = os.statvfs_result((4096, 4096, 0, free // 4096, free // 4096, 0, 0, 0, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda _, usage=usage: usage)
        assert health.disk(tmp_path).level == level
    assert [finding.level for finding in health.versions("fedbank", "no-such-package")] == [OK, OK, FAIL]
