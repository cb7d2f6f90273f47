"""A campaign that finds another server certificate than the one on disk says what to do about it."""

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pki import Authority

from fedbank.errors import RunError
from fedbank_server.runtime import RuntimeLine


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A listener with the certificate that was the server's before."""
    before = Authority(tmp_path / "before").server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(before.certificate, before.key)
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)

        def accept() -> None:
            while not ended.is_set():
                try:
                    connection, _ = listener.accept()
                    context.wrap_socket(connection, server_side=True).close()
                except (TimeoutError, OSError):
                    continue

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        thread.join(10)


def test_a_renewed_server_that_was_not_restarted_is_told_apart_from_an_absent_one(tmp_path: Path, address: str) -> None:
    now, told, stop = Authority(tmp_path / "now").server(), list[str](), threading.Event()

    def say(text: str) -> None:
        told.append(text)
        stop.set()

    line = RuntimeLine(address, now.certificate, "t" * 32, patience_s=60.0, stop=stop, say=say)
    with pytest.raises(RunError, match="asked to stop"):
        line.nodes()
    assert "another certificate than server.pem, which was renewed: fedbank server stop" in told[0]
