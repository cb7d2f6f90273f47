"""How a bank fetches: what a server in the coordinator's place may do with an answer, and that none of it lasts."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from tuf.api.exceptions import DownloadError

from fedbank.certificates import Authority, new_key, save_key, to_pem
from fedbank_client import repository_client
from fedbank_client.repository_client import RepositoryFetcher

Answer = Callable[[ssl.SSLSocket], None]
HEAD = b"HTTP/1.1 200 OK\r\n"


def head_that_drips(peer: ssl.SSLSocket) -> None:
    peer.sendall(HEAD + b"x: ")
    while True:
        peer.sendall(b"a")
        time.sleep(0.05)


def heads_without_end(peer: ssl.SSLSocket) -> None:
    while True:
        peer.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        time.sleep(0.01)


def chunks_that_drip(peer: ssl.SSLSocket) -> None:
    peer.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n1;")
    while True:
        peer.sendall(b"a")
        time.sleep(0.05)


def body_that_drips(peer: ssl.SSLSocket) -> None:
    peer.sendall(HEAD + b"content-length: 100000\r\n\r\n")
    while True:
        peer.sendall(b"a")
        time.sleep(0.05)


def another_address(peer: ssl.SSLSocket) -> None:
    peer.sendall(b"HTTP/1.1 302 Found\r\nlocation: https://localhost/\r\ncontent-length: 0\r\n\r\n")


@contextmanager
def serving(answer: Answer, folder: Path) -> Iterator[tuple[ssl.SSLContext, tuple[str, ...]]]:
    """A TLS server that gives every request this ``answer``; a context that trusts it and its address."""
    authority, key = Authority.create("alliance", datetime.now(UTC)), new_key()
    save_key(folder / "key", key)
    usage = ExtendedKeyUsageOID.SERVER_AUTH
    issued = authority.issue("localhost", key.public_key(), usage, datetime.now(UTC), days=9)
    (folder / "certificate").write_bytes(to_pem(issued))
    there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    there.load_cert_chain(folder / "certificate", folder / "key")
    here = ssl.create_default_context(cadata=to_pem(authority.certificate).decode())

    def serve() -> None:
        try:
            while True:
                with there.wrap_socket(server.accept()[0], server_side=True) as peer:
                    peer.recv(4096)
                    answer(peer)
        except OSError:
            """The bank, or the test, has had enough."""

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield here, (f"localhost:{server.getsockname()[1]}",)


@pytest.mark.parametrize(
    "answer", [head_that_drips, heads_without_end, chunks_that_drip, body_that_drips, another_address]
)
def test_no_answer_holds_a_sync_up_or_leads_it_elsewhere(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository_client, "_GRACE_S", 0.5)
    with serving(answer, tmp_path) as (context, addresses):
        fetcher, began = RepositoryFetcher(context, addresses), time.monotonic()
        with pytest.raises(DownloadError):
            fetcher.download_bytes(f"{fetcher.url}/metadata/timestamp.json", 16384)
        assert time.monotonic() - began < 5
        fetcher.close()


def test_an_answer_as_the_coordinator_gives_it_arrives(tmp_path: Path) -> None:
    with serving(lambda peer: peer.sendall(HEAD + b"content-length: 3\r\n\r\nabc"), tmp_path) as (context, addresses):
        fetcher = RepositoryFetcher(context, ("localhost:1", *addresses))
        assert fetcher.download_bytes(f"{fetcher.url}/metadata/timestamp.json", 16384) == b"abc"
        fetcher.close()
