"""Where the keys come from that tokens are verified with: a file or an HTTPS address, seldom and never for long."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from identity_provider import NOW, POLICY, key_of, key_set, public, token

from fedbank.certificates import SERVER_AUTH, Authority, new_key, save_key, to_pem
from fedbank.serving.access.jwks import Freshness, KeySetError, KeySource, keys_from_file, keys_from_url, read_keys
from fedbank.serving.access.rights import UnauthorizedError
from fedbank.serving.access.tokens import TokenVerifier

SECRET = {"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr0", "kid": "shared"}
REFUSED = {
    "not JSON": (b"<html>", "Key Set"),
    "a list": (b"[]", "Key Set"),
    "no keys in it": (b"{}", "Key Set"),
    "keys that are words": (b'{"keys": ["a"]}', "Key Set"),
    "a name there twice": (b'{"keys": [], "keys": []}', "Key Set"),
    "empty": (key_set(), "none of a kind that is allowed"),
    "a private key": (json.dumps({"keys": [{**key_of("ed").as_dict(private=True), "kid": "ed"}]}).encode(), "private"),
    "a shared secret": (key_set(public("ed"), SECRET), "shared"),
    "a kid there twice": (key_set(public("ed"), public("ec", kid="ed")), "one twice"),
    "no kid": (key_set(public("ed", kid=None)), "one without"),
    "a kid that is a number": (key_set(public("ed", kid=7)), "none of a kind"),
    "operations that are a number": (key_set(public("ed", key_ops=7)), "none of a kind"),
    "an algorithm that is a list": (key_set(public("ed", alg=["EdDSA"])), "none of a kind"),
    "only for encryption": (key_set(public("rsa", use="enc")), "none of a kind"),
    "only for signing": (key_set(public("ed", use=None, key_ops=["sign"])), "none of a kind"),
    "RSA of 1024 bits": (key_set(public("rsa-short")), "none of a kind"),
    "a curve that is not pinned": (key_set(public("ec-384")), "none of a kind"),
    "a point that is not on its curve": (key_set(public("ec", x="AA", y="AA")), "none of a kind"),
    "another kind": (key_set({"kty": "AKP", "kid": "pq", "pub": "AA"}), "none of a kind"),
    "for an algorithm that is not pinned": (key_set(public("rsa", alg="RS512")), "none of a kind"),
    "of a development issuer": (key_set(public("ed", kid="development-1")), "development issuer"),
    "very many": (key_set(*(public("ed", kid=str(number)) for number in range(65))), "at most 64"),
}


@pytest.mark.filterwarnings("ignore:Key size should be")
@pytest.mark.parametrize("name", REFUSED)
def test_a_key_set_that_cannot_be_trusted_is_refused_in_words(name: str) -> None:
    content, words = REFUSED[name]
    with pytest.raises(KeySetError, match=words):
        read_keys(content, "the test")


def test_keys_of_other_kinds_beside_are_passed_over() -> None:
    content = key_set(public("ed"), public("rsa", use="enc", kid=None), {"kty": "AKP"}, public("ec", alg="ES256"))
    assert set(read_keys(content, "the test")) == {"ed", "ec"}


def test_an_rsa_key_that_says_its_algorithm_verifies_no_other() -> None:
    source = KeySource(lambda: key_set(public("rsa", alg="PS256")), "the test")
    assert TokenVerifier(POLICY, source).principal(token("rsa", "PS256"), NOW)
    with pytest.raises(UnauthorizedError, match="algorithm"):
        TokenVerifier(POLICY, source).principal(token("rsa", "RS256"), NOW)


class Provider:
    """Counts how often it is asked; may be down."""

    def __init__(self, *kinds: str) -> None:
        self.kinds, self.asked, self.down = list(kinds), 0, False

    def fetch(self) -> bytes:
        self.asked += 1
        if self.down:
            raise KeySetError("Expected the key set at the test, got: down.")
        return key_set(*map(public, self.kinds))


def _after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_keys_are_fetched_once_and_again_after_a_while() -> None:
    provider = Provider("ed")
    source = KeySource(provider.fetch, "the test")
    for seconds in (0, 1, 299, 300):
        assert source.key("ed", _after(seconds))
    assert provider.asked == 1
    provider.kinds = ["ec"]
    assert source.key("ed", _after(301)) is None, "a key that was taken back is not used any more"
    assert source.key("ec", _after(301)) and provider.asked == 2


def test_a_new_key_is_found_at_once_but_invented_ones_do_not_cause_a_storm() -> None:
    provider = Provider("ed")
    source = KeySource(provider.fetch, "the test")
    assert source.key("ed", NOW)
    provider.kinds.append("ec")
    assert source.key("ec", _after(10)), "the identity provider changed its key"
    for number in range(1000):
        assert source.key(f"invented-{number}", _after(10 + number / 100)) is None
    assert provider.asked == 2
    assert source.key("invented", _after(20.1)) is None and provider.asked == 3


def test_while_the_provider_is_down_the_keys_that_are_there_serve_for_a_day() -> None:
    provider = Provider("ed")
    source = KeySource(provider.fetch, "the test", Freshness(refresh=300, pause=10, stale=3600))
    assert source.key("ed", NOW)
    provider.down = True
    assert source.key("ed", _after(3600))
    with pytest.raises(KeySetError, match="down"):
        source.key("ed", _after(3601))
    provider.down = False
    assert source.key("ed", _after(3620))


def test_without_any_keys_no_token_is_judged() -> None:
    provider = Provider("ed")
    provider.down = True
    verifier = TokenVerifier(POLICY, KeySource(provider.fetch, "the test"))
    for _ in range(5):
        with pytest.raises(KeySetError, match="down"):
            verifier.principal(token(), NOW)
    assert provider.asked == 1


def test_many_threads_at_once_fetch_once() -> None:
    provider, start = Provider("ed"), threading.Barrier(8)
    source = KeySource(provider.fetch, "the test")
    found: list[bool] = []

    def ask() -> None:
        start.wait()
        found.append(source.key("ed", NOW) is not None)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8 and provider.asked == 1


def test_keys_from_a_file_follow_the_file(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    source = keys_from_file(path, Freshness(refresh=60, pause=0))
    with pytest.raises(KeySetError, match="No such file"):
        source.key("ed", NOW)
    path.write_bytes(key_set(public("ed")))
    assert source.key("ed", NOW)
    path.write_bytes(key_set(public("ec")))
    assert source.key("ec", _after(1)) and source.key("ed", _after(1)) is None
    path.write_bytes(b" " * (1 << 19))
    with pytest.raises(KeySetError, match="at most 262144 bytes"):
        keys_from_file(path).key("ed", NOW)


@pytest.mark.parametrize(
    "url", ["http://login.test/jwks", "ftp://login.test", "login.test", "https://", "https://u:secret@login.test/jwks"]
)
def test_keys_come_over_https_only(url: str) -> None:
    with pytest.raises(KeySetError, match="https://") as refused:
        keys_from_url(url)
    assert "secret" not in str(refused.value)


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def _serving(folder: Path, answer: Answer) -> Iterator[tuple[str, Path]]:
    """An HTTPS server; its URL and the authority's certificate."""
    authority = Authority.create("test", datetime.now(UTC))
    key = new_key()
    now, hosts = datetime.now(UTC), ["127.0.0.1"]
    certificate = authority.issue("localhost", key.public_key(), SERVER_AUTH, now, days=1, hosts=hosts)
    save_key(folder / "key.pem", key)
    (folder / "cert.pem").write_bytes(to_pem(certificate))
    (folder / "ca.pem").write_bytes(to_pem(authority.certificate))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}/jwks", folder / "ca.pem"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _says(status: int, body: bytes, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def test_keys_from_an_https_address_verify_tokens(tmp_path: Path) -> None:
    with _serving(tmp_path, _says(200, key_set(public("ed")))) as (url, authority):
        verifier = TokenVerifier(POLICY, keys_from_url(url, authority=authority))
        assert verifier.principal(token(), NOW).subject == "zhang.wei"
        with pytest.raises(KeySetError, match="ConnectError"):
            keys_from_url(url).key("ed", NOW)  # the system's authorities do not know this server


def _trickles(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    pause = threading.Event()
    with suppress(OSError):
        for _ in range(100):  # two seconds
            request.wfile.write(b" ")
            pause.wait(0.02)


ANSWERS: dict[str, tuple[Answer, str]] = {
    "an error": (_says(500, key_set(public("ed"))), "status 200"),
    "a redirect": (_says(302, b"", Location="https://127.0.0.1:1/jwks"), "status 200"),
    "a page": (_says(200, b"<html>"), "Key Set"),
    "an endless answer": (_says(200, b" " * (1 << 19)), "at most 262144 bytes"),
    "a trickle": (_trickles, "slower"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_address_that_answers_wrongly_gives_no_keys(name: str, tmp_path: Path) -> None:
    answer, words = ANSWERS[name]
    with _serving(tmp_path, answer) as (url, authority), pytest.raises(KeySetError, match=words):
        keys_from_url(url, authority=authority, timeout_s=0.3 if name == "a trickle" else 5.0).key("ed", NOW)
