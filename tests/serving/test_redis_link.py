"""The way into a bank's Redis: addresses, passwords, certificates and rights; what it says when it does not let in."""

import asyncio
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bank_records import ANSWER, KEY, NOW
from redis_server import PASSWORD, RedisServer, redis_server, running, server, sessions_in, talk

from fedbank.certificates import CLIENT_AUTH, SERVER_AUTH, Authority, new_key, save_key, to_pem
from fedbank.serving.sharing.cache import CachedAnswer
from fedbank.serving.sharing.redis_link import RedisAccess, RedisLink, SharedStoreError
from fedbank.serving.sharing.redis_store import RedisCache, RedisSessions
from fedbank.serving.sharing.sessions import SessionLimits

__all__ = ["redis_server", "server"]
ME, OTHER = "a" * 32, "b" * 32
CACHED = CachedAnswer(ANSWER, 31, 12)
DOCUMENTED = Path(__file__).parents[2] / "docs" / "formats" / "records.md"


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(SharedStoreError, match=r"pip install 'fedbank\[redis\]'"):
        RedisLink(RedisAccess("redis://localhost"))


@pytest.mark.slow
@pytest.mark.parametrize("password", ["wrong-battery-1", None, ""])
def test_a_wrong_password_is_said_and_never_shown(server: RedisServer, password: str | None) -> None:
    async def run(access: RedisAccess) -> None:
        link = RedisLink(access)
        for call in (link.check(), RedisSessions(link, KEY).start(ME, NOW)):
            with pytest.raises(SharedStoreError, match=r"got a refusal\. Correct the user, the password") as refused:
                await call
            assert refused.value.retry_after_s is None
            shown = f"{refused.value!r} {refused.value} {link!r} {access!r} {refused.value.__context__!r}"
            assert "wrong-battery-1" not in shown and PASSWORD not in shown
        await link.close()

    asyncio.run(run(server.access(password=password)))
    if password:
        asyncio.run(run(RedisAccess(server.url.replace("//", f"//:{password}@"))))


@pytest.mark.slow
def test_user_and_password_may_be_in_the_url(server: RedisServer) -> None:
    odd = "p@ss/w%rd"

    async def run() -> None:
        access = RedisAccess(server.url.replace("//", "//bank:p%40ss%2Fw%25rd@") + "/1")
        link = RedisLink(access)
        await link.check()
        assert repr(link) == f"RedisLink({server.url}/1)" and odd not in repr(access)
        await link.close()

    with server.client() as client:
        client.acl_setuser("bank", enabled=True, passwords=[f"+{odd}"], commands=["+ping", "+select"])
        try:
            asyncio.run(run())
        finally:
            client.acl_deluser("bank")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis.bank-a.test:6379",
        "http://redis.bank-a.test",
        "redis://",
        "redis://:pw-4417@",
        "redis://:pw-4417@host:port",
        "redis://:pw-4417@host:99999",
        "redis://:pw-4417@host/zero",
        "rediss://:pw-4417@host?ssl_cert_reqs=none",
        "rediss://:pw-4417@host/0?socket_timeout=1000",
        "rediss://host#1",
        "unix://host/tmp/redis",
        "unix:",
        "redis://[host",
    ],
)
def test_an_url_that_is_none_or_would_weaken_the_link_is_refused(url: str) -> None:
    with pytest.raises(SharedStoreError, match="Expected the URL of Redis, such as rediss://") as refused:
        RedisLink(RedisAccess(url))
    assert "pw-4417" not in str(refused.value) + repr(RedisAccess(url)) and refused.value.retry_after_s is None


@pytest.mark.slow
def test_a_full_redis_is_said_to_be_full_and_still_erases(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(client: Any) -> None:
        async with sessions_in(server) as sessions, server.link() as link:
            cache = RedisCache(link, KEY)
            session_id = await talk(sessions)
            await cache.put("k", CACHED, ME, NOW)
            client.config_set("maxmemory", "1")
            with pytest.raises(SharedStoreError, match=r"one that is full\. Raise its maxmemory") as full:
                await talk(sessions)
            assert full.value.retry_after_s
            await cache.put("k2", CACHED, ME, NOW)
            assert "Raise its maxmemory" in caplog.text
            assert len(await sessions.context(session_id, ME, NOW)) == 2
            assert await sessions.forget(ME) == 1

    with server.client() as client:
        try:
            asyncio.run(run(client))
        finally:
            client.config_set("maxmemory", "0")


@pytest.mark.slow
def test_the_rights_that_the_document_gives_the_service_are_enough(server: RedisServer) -> None:
    line = next(line for line in DOCUMENTED.read_text("utf-8").splitlines() if line.startswith("ACL SETUSER fedbank "))
    words = line.split()[3:]

    async def run() -> None:
        async with server.link(url=server.url.replace("//", "//fedbank@"), password="only-ours") as link:
            await link.check()
            sessions, cache = RedisSessions(link, KEY, SessionLimits(max_sessions=1)), RedisCache(link, KEY)
            await sessions.start(OTHER, NOW)
            assert await sessions.context(await talk(sessions), ME, NOW)
            await cache.put("k", CACHED, ME, NOW)
            assert await cache.get("k", NOW) == CACHED
            assert (await sessions.forget(ME), await cache.forget(ME, NOW)) == (1, 1)
            with pytest.raises(SharedStoreError, match="got a refusal"):
                await link.call("return redis.call('GET', 'of-another-program')", [], [])
            with pytest.raises(SharedStoreError, match="got a refusal"):
                await link.call("return redis.call('KEYS', '*')", [], [])

    with server.client() as client:
        client.script_flush()
        client.execute_command("ACL", "SETUSER", "fedbank", *(word.replace("PASSWORD", "only-ours") for word in words))
        try:
            asyncio.run(run())
        finally:
            client.acl_deluser("fedbank")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One that speaks TLS only, and only with whom its authority knows."""
    folder, now = tmp_path_factory.mktemp("redis-tls"), datetime.now(UTC)
    authority, other = Authority.create("bank-a", now), Authority.create("somebody", now)
    (folder / "authority.pem").write_bytes(to_pem(authority.certificate))
    (folder / "other.pem").write_bytes(to_pem(other.certificate))
    for name, usage, hosts in (("server", SERVER_AUTH, ["127.0.0.1"]), ("service", CLIENT_AUTH, [])):
        key = new_key()
        save_key(folder / f"{name}.key", key)
        made = authority.issue(name, key.public_key(), usage, now, days=2, hosts=hosts)
        (folder / f"{name}.pem").write_bytes(to_pem(made))
    files = {"cert-file": "server.pem", "key-file": "server.key", "ca-cert-file": "authority.pem"}
    words = [word for name, file in files.items() for word in (f"--tls-{name}", str(folder / file))]
    with running(folder, *words, "--tls-auth-clients", "yes", "--port", "0", "--tls-port", "{port}") as server:
        yield server


@pytest.mark.slow
def test_tls_with_certificates_of_both_sides(secured: RedisServer) -> None:
    folder = secured.folder
    good: dict[str, Any] = {
        "url": secured.url.replace("redis:", "rediss:"),
        "authority": folder / "authority.pem",
        "certificate": folder / "service.pem",
        "key": folder / "service.key",
    }
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"authority": folder / "other.pem"}, "no TLS that both sides accept"),
        ({"authority": None}, "no TLS that both sides accept"),
        ({"url": good["url"].replace("127.0.0.1", "localhost")}, "no TLS that both sides accept"),
        ({"certificate": None, "key": None}, "Expected an answer of Redis"),
        ({"url": secured.url}, "Expected an answer of Redis"),
        ({"authority": folder / "none.pem"}, "Expected CA certificates in .*none.pem"),
        ({"key": folder / "server.key"}, "this service's own in .*service.pem with its key"),
    ]

    async def run() -> None:
        async with sessions_in(secured, **good) as sessions:
            assert len(await sessions.context(await talk(sessions), ME, NOW)) == 2
        for changed, said in wrong:
            with pytest.raises(SharedStoreError, match=said):
                async with secured.link(**good | changed) as link:
                    await link.check()

    asyncio.run(run())
