"""Real TLS 1.3 between two sockets: who gets in, who does not, and what the person at the bank reads."""

import socket
import ssl
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from uvicorn.config import create_ssl_context

from fedbank.certificates import (
    CLIENT_AUTH,
    SERVER_AUTH,
    Authority,
    CertificateError,
    check_certificate,
    has_key,
    load_key,
    names_of,
    new_key,
    read_certificate,
    save_key,
    to_pem,
)
from fedbank.tls import client_context, explain_tls
from fedbank_client.home import Home
from fedbank_server.authority import load_authority, renew_server
from fedbank_server.consortium import Files
from fedbank_server.members import member_of, revoke

ADDRESS = "localhost:9443"


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, folder: Path, host: str = "localhost") -> bytes:
    """What the bank reads from a server that asks the roster, as a listener does; raises what its side raises."""

    def serve() -> None:
        with patient(listener.accept()[0]) as raw:
            try:
                with server.wrap_socket(raw, server_side=True) as tls:
                    der = tls.getpeercert(binary_form=True)
                    member = member_of(folder, der or b"")
                    tls.sendall(b"refused" if member is None else member.bank.encode())
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=10) as raw,
                client.wrap_socket(raw, server_hostname=host) as tls,
            ):
                return tls.recv(64)
        finally:
            thread.join(10)


def patient(raw: socket.socket) -> socket.socket:
    raw.settimeout(10)
    return raw


def server_context(folder: Path) -> ssl.SSLContext:
    """As uvicorn makes it from its settings."""
    files = Files(folder)
    context = create_ssl_context(
        certfile=files.certificate,
        keyfile=files.key,
        password=None,
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
        cert_reqs=ssl.CERT_REQUIRED,
        ca_certs=files.authority,
        ciphers=None,
    )
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def issue_server(folder: Path, authority: Authority, at: datetime, hosts: tuple[str, ...], days: int = 30) -> None:
    key = new_key()
    save_key(Files(folder).key, key)
    made = authority.issue(hosts[0], key.public_key(), SERVER_AUTH, at, days=days, hosts=hosts)
    Files(folder).certificate.write_bytes(to_pem(made))


def issue_bank(home: Home, authority: Authority, at: datetime, days: int = 30) -> None:
    key = load_key(home.tls_key).public_key()
    made = authority.issue(home.bank, key, CLIENT_AUTH, at, days=days)
    home.certificate.write_bytes(to_pem(made))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_member_gets_in_by_name_and_by_address(
    coordinator: Path, make_member: Callable[..., Home], host: str
) -> None:
    context = make_member().tls_context()
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    assert shake_hands(server_context(coordinator), context, coordinator, host) == b"bank-a"


def test_a_revoked_member_gets_no_further_than_the_roster(
    coordinator: Path, make_member: Callable[..., Home], now: datetime
) -> None:
    home, other = make_member("bank-a"), make_member("bank-b")
    server = server_context(coordinator)
    revoke(coordinator, "bank-a", now, reason="")
    assert shake_hands(server, home.tls_context(), coordinator) == b"refused"
    assert shake_hands(server, other.tls_context(), coordinator) == b"bank-b"


def test_a_certificate_of_the_authority_that_is_not_in_the_roster_is_refused(
    coordinator: Path, make_member: Callable[..., Home], now: datetime
) -> None:
    home = make_member()
    issue_bank(home, load_authority(Files(coordinator), None), now)
    assert shake_hands(server_context(coordinator), home.tls_context(), coordinator) == b"refused"


def test_nobody_gets_in_without_a_certificate(coordinator: Path, make_member: Callable[..., Home]) -> None:
    home = make_member()
    context = ssl.create_default_context(cafile=home.authority)
    with pytest.raises(ssl.SSLError) as refused:
        shake_hands(server_context(coordinator), context, coordinator)
    assert "fedbank client doctor" in explain_tls(refused.value, ADDRESS, home.certificate)


def test_an_older_tls_is_refused(coordinator: Path, make_member: Callable[..., Home]) -> None:
    server = server_context(coordinator)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    home = make_member()
    with pytest.raises(ssl.SSLError) as refused:
        shake_hands(server, home.tls_context(), coordinator)
    assert "TLS 1.3" in explain_tls(refused.value, ADDRESS, home.certificate)


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("expired", "got one that has expired. Let the coordinator run: fedbank server renew"),
        ("of tomorrow", "not valid yet. Set this machine's clock"),
        ("of another authority", "of this consortium's authority, got one of another"),
        ("for another name", "for that name, got one for another"),
        ("of a bank", "for a server, got one for something else"),
    ],
)
@pytest.mark.fault(18)
def test_a_bank_refuses_a_server_whose_certificate_is_wrong(
    coordinator: Path, make_member: Callable[..., Home], now: datetime, case: str, says: str
) -> None:
    home, authority = make_member(), load_authority(Files(coordinator), None)
    server_now = server_context(coordinator)
    if case == "expired":
        issue_server(coordinator, authority, now - timedelta(days=9), ("localhost",), days=1)
    elif case == "of tomorrow":
        issue_server(coordinator, authority, now + timedelta(days=1), ("localhost",))
    elif case == "of another authority":
        issue_server(coordinator, Authority.create("Test Consortium", now), now, ("localhost",))
    elif case == "for another name":
        issue_server(coordinator, authority, now, ("fedbank.example",))
    else:
        Files(coordinator).certificate.write_bytes(home.certificate.read_bytes())
        Files(coordinator).key.write_bytes(home.tls_key.read_bytes())
    context = server_context(coordinator)
    with pytest.raises(ssl.SSLError) as refused:
        shake_hands(context, home.tls_context(), coordinator)
    said = explain_tls(refused.value, ADDRESS, home.certificate)
    assert says in said and ADDRESS in said
    assert shake_hands(server_now, home.tls_context(), coordinator) == b"bank-a"


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("expired", "Ask the coordinator for a new one"),
        ("of tomorrow", "Compare the clocks"),
        ("of another authority", "Check that the address is that of this consortium"),
    ],
)
@pytest.mark.fault(18)
def test_a_server_refuses_a_bank_whose_certificate_is_wrong(
    coordinator: Path, make_member: Callable[..., Home], now: datetime, case: str, says: str
) -> None:
    home, authority = make_member(), load_authority(Files(coordinator), None)
    began = now - timedelta(days=9)
    if case == "expired":
        issue_bank(home, authority, began, days=1)
    elif case == "of tomorrow":
        issue_bank(home, authority, now + timedelta(days=1))
    else:
        issue_bank(home, Authority.create("Test Consortium", now), now)
    with pytest.raises(ssl.SSLError) as refused:
        shake_hands(server_context(coordinator), home.tls_context(), coordinator)
    said = explain_tls(refused.value, ADDRESS, home.certificate)
    assert says in said and str(home.certificate) in said
    if case == "expired":
        assert f"to {began + timedelta(days=1):%Y-%m-%d}" in said


def test_a_servers_certificate_is_no_ticket_for_a_bank(coordinator: Path, make_member: Callable[..., Home]) -> None:
    home, files = make_member(), Files(coordinator)
    context = client_context(home.authority, files.certificate, files.key)
    with pytest.raises(ssl.SSLError):
        shake_hands(server_context(coordinator), context, coordinator)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("right", ""),
        ("expired", r"bank\.pem to be valid now .*, got one that expired \d{4}-\d\d-\d\d"),
        ("of tomorrow", r"bank\.pem .* valid only from \d{4}-\d\d-\d\d .* clock"),
        ("of another authority", "bank.pem to be issued by this consortium's authority"),
        ("of a member as authority", "bank.pem to be issued by"),
        ("for another name", "to be for bank-a, got one for bank-b"),
        ("for a server", "to be for a bank"),
    ],
)
@pytest.mark.fault(18)
def test_a_wrong_certificate_is_named_with_its_date(now: datetime, case: str, words: str) -> None:
    authority, key = Authority.create("T", now - timedelta(days=30)), new_key()
    issuer = Authority.create("T", now) if case == "of another authority" else authority
    at = {"expired": now - timedelta(days=9), "of tomorrow": now + timedelta(days=1)}.get(case, now)
    name, usage = ("bank-b" if "name" in case else "bank-a"), (SERVER_AUTH if "server" in case else CLIENT_AUTH)
    if case == "of a member as authority":
        issuer = Authority(authority.issue("bank-b", key.public_key(), CLIENT_AUTH, now, days=5), key)
    made = issuer.issue(name, key.public_key(), usage, at, days=1 if case == "expired" else 30)
    if not words:
        check_certificate(made, "bank.pem", authority=authority.certificate, usage=CLIENT_AUTH, name="bank-a", now=now)
        return
    with pytest.raises(CertificateError, match=words):
        check_certificate(made, "bank.pem", authority=authority.certificate, usage=CLIENT_AUTH, name="bank-a", now=now)


def test_a_member_cannot_issue_certificates(coordinator: Path, make_member: Callable[..., Home], now: datetime) -> None:
    """Path length and key usage say so, and OpenSSL obeys."""
    home = make_member()
    thief = Authority(read_certificate(home.certificate), load_key(home.tls_key))
    key = new_key()
    made = thief.issue("bank-b", key.public_key(), CLIENT_AUTH, now, days=5)
    chain, own = home.folder / "chain.pem", home.folder / "own.key"
    chain.write_bytes(to_pem(made) + home.certificate.read_bytes())
    save_key(own, key)
    with pytest.raises(ssl.SSLError):
        shake_hands(server_context(coordinator), client_context(home.authority, chain, own), coordinator)


def test_no_certificate_outlives_its_authority(now: datetime) -> None:
    authority = Authority.create("T", now, days=10)
    made = authority.issue("bank-a", new_key().public_key(), CLIENT_AUTH, now, days=365)
    assert made.not_valid_after_utc <= authority.certificate.not_valid_after_utc


def test_a_renewed_server_certificate_is_for_the_hosts_of_consortium_yaml(
    coordinator: Path, make_member: Callable[..., Home], now: datetime
) -> None:
    files, home = Files(coordinator), make_member()
    old = files.certificate.read_bytes()
    files.settings.write_text(files.settings.read_text().replace('"localhost:9443"', '"fedbank.example:9443"'))
    assert renew_server(coordinator, load_authority(files, None), now) == ("fedbank.example", "127.0.0.1")
    assert files.certificate.read_bytes() != old
    assert names_of(read_certificate(files.certificate)) == ["fedbank.example", "127.0.0.1"]
    assert has_key(read_certificate(files.certificate), load_key(files.key))
    assert shake_hands(server_context(coordinator), home.tls_context(), coordinator, "fedbank.example") == b"bank-a"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "PEM"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "PEM"),
        (b"x" * 70_000, "at most"),
    ],
)
def test_a_damaged_key_file_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "tls.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(CertificateError, match=words) as refused:
        load_key(path)
    assert str(path) in str(refused.value)
    with pytest.raises(CertificateError, match="got none"):
        load_key(tmp_path / "nowhere")
    with pytest.raises(CertificateError, match="got none"):
        read_certificate(tmp_path / "nowhere")
