"""What the coordinator's processes hold on to of large messages: nothing."""

import gc
import weakref
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text

from fedbank_server.memory import forget, keep_nothing, return_large_blocks

MIB = 1 << 20
CONNECTIONS, BLOB = 8, 8 * MIB


class Circle:
    """Refers to itself, as requests of HTTP libraries do."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize(("size", "stays"), [(64 * MIB, False), (MIB, True)])
def test_a_very_large_message_that_was_dealt_with_is_forgotten_at_once(size: int, stays: bool) -> None:
    gc.collect()
    gc.disable()
    try:
        seen = weakref.ref(Circle())
        forget(size)
        assert (seen() is not None) is stays
    finally:
        gc.enable()


def test_connections_of_a_database_hold_nothing_of_what_they_stored(tmp_path: Path) -> None:
    """Eight connections store 8 MiB each: 64 MiB would stay in their prepared statements, and more in their pages."""
    url = f"sqlite:///{tmp_path / 'some.db'}"
    engine = create_engine(url, pool_size=CONNECTIONS, connect_args={"check_same_thread": False})
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE objects (content BLOB)"))
    keep_nothing(engine)
    return_large_blocks()
    before = resident()
    store(engine)
    assert resident() - before < 4 * BLOB


def store(engine: Engine) -> None:
    """One object through each connection."""
    connections = [engine.connect() for _ in range(CONNECTIONS)]
    for connection in connections:
        connection.execute(text("INSERT INTO objects VALUES (:content)"), {"content": bytes(BLOB)})
        connection.commit()
    for connection in connections:
        connection.close()


def resident() -> int:
    """Bytes of memory that this process has."""
    gc.collect()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
