"""No secret is printed, logged, put into an exception, shown in the process list, or written where others can read."""

import contextlib
import io
import json
import logging
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import fedbank_client.membership_commands as client
import fedbank_server.membership_commands as server
from fedbank.errors import FedBankError
from fedbank.membership.documents import Invitation
from fedbank_client.home import Home, read_home
from fedbank_server.consortium import Files

PASSPHRASE = "seventeen purple elephants"


def secrets_of(files: Files, homes: Sequence[Home], invitations: Sequence[Path]) -> set[str]:
    """Every secret, in the forms in which it could be shown."""
    found = {PASSPHRASE, files.operator_token.read_text().strip()}
    found |= set(files.authority_key.read_text().splitlines()[1:3])
    for path in (files.key, files.coordinator_key, *(path for home in homes for path in home.secrets())):
        content = path.read_bytes()
        if b"OPENSSH" in content:
            key = serialization.load_ssh_private_key(content, None)
        else:
            key = serialization.load_pem_private_key(content, None)
            found.add(content.decode().splitlines()[1])  # the private half; later lines are the public one
        if isinstance(key, Ed25519PrivateKey):
            raw = key.private_bytes_raw()
        else:
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            value = key.private_numbers().private_value
            raw = value.to_bytes(48, "big").lstrip(b"\0")
            found.add(str(value))
        found |= {raw.hex(), repr(raw)[2:-1]}
    for path in invitations:
        secret = json.loads(path.read_text())["body"]["secret"]
        found |= {secret, repr(bytes.fromhex(secret))[2:-1]}
    return found


class Journey:
    """Runs commands and keeps all that anybody could see of them."""

    def __init__(self) -> None:
        self.shown = io.StringIO()

    def run(self, command: Callable[[Sequence[str]], int], *words: object) -> None:
        with contextlib.redirect_stdout(self.shown), contextlib.redirect_stderr(self.shown):
            try:
                command([str(word) for word in words])
            except (FedBankError, OSError):
                traceback.print_exc(file=self.shown)


@pytest.mark.fault(38)
def test_no_secret_is_ever_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A whole life with every command, then every command again where it must fail."""
    caplog.set_level(logging.DEBUG)
    journey, srv = Journey(), tmp_path / "srv"
    words = tmp_path / "words"
    words.write_text(PASSPHRASE + "\n")
    words.chmod(0o600)
    seal = ("--passphrase-file", words)
    invitations = [tmp_path / f"bank-{letter}.invitation" for letter in "ab"]
    homes = [tmp_path / f"bank-{letter}" for letter in "ab"]
    for _ in range(2):
        journey.run(server.init_command, srv, "--name", "T", *seal)
        for invitation, home in zip(invitations, homes, strict=True):
            journey.run(server.invite_command, "--dir", srv, "--bank", home.name, "-o", invitation)
            journey.run(client.init_command, home, "--bank", home.name, "--invitation", invitation)
            journey.run(server.admit_command, home / "request.json", "--dir", srv, "-o", f"{home}.package", *seal)
            journey.run(client.join_command, f"{home}.package", "--dir", home)
    homes_read = [read_home(home) for home in homes]
    known = secrets_of(Files(srv), homes_read, invitations)
    assert len(known) >= 30
    journey.run(client.join_command, f"{homes[0]}.package", "--dir", homes[1])
    journey.run(client.init_command, tmp_path / "x", "--bank", "bank-x", "--invitation", invitations[0])
    journey.run(client.join_command, invitations[0], "--dir", homes[0])
    damaged = tmp_path / "damaged"
    damaged.touch(0o600)
    damaged.write_text(invitations[0].read_text().replace("bank-a", "bank-z"))
    journey.run(client.init_command, tmp_path / "x", "--bank", "bank-z", "--invitation", damaged)
    for command in (server.members_command, server.doctor_command):
        journey.run(command, "--dir", srv, "--json")
    journey.run(server.admit_command, homes[0] / "request.json", "--dir", srv, "-o", tmp_path / "p")
    journey.run(server.renew_command, "--dir", srv, "--bank", "bank-a", "-o", tmp_path / "again", *seal)
    journey.run(server.backup_command, tmp_path / "backup", "--dir", srv, *seal)
    journey.run(server.restore_command, tmp_path / "backup", tmp_path / "srv2", *seal)
    journey.run(client.doctor_command, "--dir", homes[0], "--offline")
    journey.run(server.revoke_command, "bank-a", "--dir", srv)
    journey.run(client.leave_command, "--dir", homes[1], "--yes")
    read = Invitation.read(invitations[0].read_bytes())
    shown = journey.shown.getvalue() + caplog.text + repr(read) + str(read) + repr(read.key) + repr(homes_read)
    assert "Traceback" in shown and "is a member" in shown
    assert [secret for secret in known if secret in shown] == []
    for path in tmp_path.rglob("*"):
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            content = path.read_bytes()
            assert [secret for secret in known if secret.encode() in content] == [], path


@pytest.mark.fault(38)
def test_the_process_list_shows_no_secret(tmp_path: Path) -> None:
    """While a command waits for its passphrase to be typed, and while it works with one from a file."""
    srv, words = tmp_path / "srv", tmp_path / "words"
    words.write_text(PASSPHRASE + "\n")
    words.chmod(0o600)
    script = (
        "import sys, time; from fedbank_server.membership_commands import init_command; "
        "init_command(sys.argv[1:]); sys.stdout.flush(); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(srv), "--name", "T", "--passphrase-file", str(words)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not srv.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            for name in ("cmdline", "environ"):
                seen = Path(f"/proc/{process.pid}/{name}").read_bytes()
                assert PASSPHRASE.encode() not in seen
                assert Files(srv).operator_token.read_bytes().strip() not in seen
        finally:
            process.kill()


@pytest.mark.fault(38)
@pytest.mark.parametrize("number", range(3))
def test_every_key_of_a_bank_is_looked_at_before_it_starts(make_member: Callable[..., Home], number: int) -> None:
    home = make_member()
    home.check_secrets()
    path = home.secrets()[number]
    path.chmod(0o640)
    with pytest.raises(FedBankError, match=r"got mode 0640\. Run: chmod 600") as refused:
        home.check_secrets()
    assert str(path) in str(refused.value)


def test_an_exception_from_a_key_does_not_carry_it(make_member: Callable[..., Home]) -> None:
    home = make_member()
    content = home.signing_key.read_text()
    home.node_key.write_text(content)
    with pytest.raises(FedBankError) as refused:
        home.load_node_key()
    assert content.splitlines()[1] not in "".join(traceback.format_exception(refused.value))
