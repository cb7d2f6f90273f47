"""A real Redis for tests: its own process on a free port of this machine, its own folder, a password."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from bank_records import ANSWER, KEY, NOW, QUESTION

from fedbank.serving.sharing.redis_link import RedisAccess, RedisLink
from fedbank.serving.sharing.redis_store import RedisSessions
from fedbank.serving.sharing.sessions import Said, SessionLimits, Sessions
from fedbank.serving.store.vault import RecordsKey

PASSWORD = "correct-horse-4417"
MEMORY_AND_REDIS = ["memory", pytest.param("redis", marks=pytest.mark.slow)]
"""The parameters of a fixture that returns ``opened_in``."""
Store = TypeVar("Store")


class RedisServer:
    """One server; ``words`` are further options of its command line."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._words = [word.format(port=self.port) for word in words]
        self.url = f"redis://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Again on the same port, empty; returns when it answers."""
        options = ["--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "", "--requirepass", PASSWORD]
        options += [] if "--port" in self._words else ["--port", str(self.port)]
        log = (self.folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen([program(), *options, *self._words], stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "no answer"
            time.sleep(0.01)

    def kill(self) -> None:
        """kill -9, whatever it is doing."""
        self._process.kill()
        self._process.wait(20)

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """It takes connections (its kernel does) and answers none."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def access(self, **changed: Any) -> RedisAccess:
        """How a bank gets in."""
        return RedisAccess(**({"url": self.url, "password": PASSWORD, "patience_s": 5.0} | changed))

    @asynccontextmanager
    async def link(self, **changed: Any) -> AsyncIterator[RedisLink]:
        """A connection."""
        link = RedisLink(self.access(**changed))
        try:
            yield link
        finally:
            await link.close()

    def client(self) -> Any:
        """Redis as whoever runs it sees it: everything."""
        import redis

        return redis.Redis(port=self.port, password=PASSWORD)

    def everything(self) -> dict[bytes, Any]:
        """All that lies there, by key."""
        with self.client() as client:
            read = {
                b"hash": client.hgetall,
                b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
                b"string": client.get,
            }
            return {key: read[client.type(key)](key) for key in sorted(client.keys("*"))}

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as raw:
                if "--port" in self._words:  # TLS: whether it listens must do
                    return True
                raw.sendall(b"PING\r\n")
                return raw.recv(64).startswith(b"-NOAUTH")
        except OSError:
            return False


def program() -> str:
    """Its path; where everything has to be tested (CI is set) it and its package must be there."""
    path = shutil.which("redis-server")
    if path and importlib.util.find_spec("redis"):
        return path
    missing = "there is no redis-server or no package redis here: apt-get install redis-server; pip install redis"
    return pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)


@contextmanager
def running(folder: Path, *words: str) -> Iterator[RedisServer]:
    """A server until the block ends."""
    server = RedisServer(folder, *words)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One for all tests of a file, each of which has keys of its own or empties it first."""
    with running(tmp_path_factory.mktemp("redis")) as server:
        yield server


def opened_in(
    request: pytest.FixtureRequest,
    in_memory: Callable[[Any], Store],
    in_redis: Callable[[RedisLink, RecordsKey, Any], Store],
) -> Callable[..., AbstractAsyncContextManager[Store]]:
    """What opens an empty store with the limits it is given, in memory or in the Redis of ``redis_server``."""
    server = None if request.param == "memory" else request.getfixturevalue("redis_server")

    @asynccontextmanager
    async def opened(limits: Any = None) -> AsyncIterator[Store]:
        if server is None:
            yield in_memory(limits)
            return
        async with server.link() as link:
            yield in_redis(link, RecordsKey.generate(), limits)

    return opened


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    """Empty."""
    with redis_server.client() as client:
        client.flushall()
    return redis_server


@asynccontextmanager
async def sessions_in(
    server: RedisServer, records_key: RecordsKey = KEY, limits: SessionLimits | None = None, **access: Any
) -> AsyncIterator[RedisSessions]:
    """Sessions in the Redis ``server``; ``access``: how to get in."""
    async with server.link(**access) as link:
        yield RedisSessions(link, records_key, limits)


async def talk(sessions: Sessions, owner: str = "a" * 32) -> str:
    """A session with one exchange."""
    session_id = await sessions.start(owner, NOW)
    await sessions.add(session_id, owner, Said(QUESTION, ANSWER, 40), NOW)
    return session_id
