"""A bank's store as a database: SQLite in one file by default, PostgreSQL by URL; one writer at a time on either.

It knows connections, transactions and what may go wrong with them; it sees sealed bytes only. Whatever a database says
is told in plain words without a statement and without a value.
"""

import math
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from fedbank.errors import FedBankError
from fedbank.serving.store.tables import METADATA, STORE

FORMAT = "fedbank-records/1"
_WRITER_LOCK = 0x66656462616E6B
"""PostgreSQL's advisory lock of all writers: "fedbank"."""
_FULL = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN", "53100")
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "55P03", "53300", "57P", "08")


class RecordsError(FedBankError):
    """The store cannot do it. ``retry_after_s``: when it may be worth another try; ``None``: it is not.

    Nothing of the transaction is in the store; everything that was, still is.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Database:
    """Transactions of one store; threads and processes may share it.

    Raises (every method):
        RecordsError: the database is held by another, full, damaged or not of this program.
    """

    def __init__(self, where: Path | str, *, patience_s: float = 10.0) -> None:
        """``where``: a SQLite file (made if missing, its owner's only), or a URL such as ``postgresql+psycopg://…``."""
        url = _url(where)
        self._said = url.render_as_string(hide_password=True)
        self._is_sqlite = url.get_backend_name() == "sqlite"
        if self._is_sqlite:
            _make_file(Path(str(url.database)))
        self._patience_s = patience_s
        timeout = {"timeout": patience_s} if self._is_sqlite else {"connect_timeout": math.ceil(patience_s)}
        try:
            self._engine = create_engine(url, hide_parameters=True, connect_args=timeout, pool_timeout=patience_s)
        except (NoSuchModuleError, ImportError, ArgumentError) as error:
            raise RecordsError(
                f"Expected a driver for the store {self._said}, got: {error}. Install it, or name a SQLite file."
            ) from None
        if self._is_sqlite:
            _prepare_sqlite(self._engine, patience_s)
        self._writer = self._engine.execution_options(fedbank_begin="BEGIN IMMEDIATE")
        with self.writing() as connection:
            self._check_format(connection)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that nobody else writes during; it is on disk when the block ends, or none of it is."""
        with self._in_words(), self._writer.begin() as connection:
            if not self._is_sqlite:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(1000 * self._patience_s)}")
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the store and waits for no writer."""
        with self._in_words(), self._engine.begin() as connection:
            yield connection

    def scrub(self) -> None:
        """Return when what was deleted is overwritten in the file too (SQLite; PostgreSQL's VACUUM is its keeper's).

        Raises:
            RecordsError: another process is reading what was there before; do it again later.
        """
        if not self._is_sqlite:
            return
        outside = self._engine.execution_options(fedbank_begin="")
        with self._in_words(), outside.connect() as connection:
            held = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
        if held:
            raise RecordsError(
                f"Expected to overwrite what was deleted from {self._said}, got another process that still reads it. "
                "The rows are deleted; do it again in a minute.",
                60.0,
            )

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _check_format(self, connection: Connection) -> None:
        tables = set(inspect(connection).get_table_names())
        if not tables:
            METADATA.create_all(connection)
            connection.execute(STORE.insert().values(name="format", value=FORMAT))
            return
        known = STORE.select().where(STORE.c.name == "format")
        row = connection.execute(known).one_or_none() if STORE.name in tables else None
        if row is None or row.value != FORMAT or not set(METADATA.tables) <= tables:
            got = "another program's database" if row is None else f"the format {row.value!r:.40}"
            raise RecordsError(
                f"Expected a store of the format {FORMAT} in {self._said}, got {got}. Name another, or a new file."
            )

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except PoolTimeoutError:
            raise self._busy() from None
        except SQLAlchemyError as error:
            raise self._told(error) from None

    def _told(self, error: SQLAlchemyError) -> RecordsError:
        original = error.orig if isinstance(error, DBAPIError) else None
        code = str(getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None) or "")
        if code.startswith(_BUSY):
            return self._busy()
        if code.startswith(_FULL):
            return RecordsError(
                f"Expected to write to the store {self._said}, got a disk that is full or cannot be written ({code}). "
                "Nothing that was stored is lost. Free space or mend the permissions."
            )
        if code.startswith(_DAMAGED):
            return RecordsError(
                f"Expected a whole database in {self._said}, got a damaged one or another file ({code}). Stop, keep "
                "it, and restore the store from a backup."
            )
        got = code or type(original or error).__name__
        return RecordsError(f"Expected the store {self._said} to answer, got {got}. Look at the database itself.", 5.0)

    def _busy(self) -> RecordsError:
        return RecordsError(
            f"Expected the store {self._said} to be free within a few seconds, got one that another process holds or "
            "that does not answer. Nothing was written. Try again; look who holds it if it stays so.",
            2.0,
        )


def _url(where: Path | str) -> URL:
    if isinstance(where, Path):
        return URL.create("sqlite", database=str(where))
    try:
        url = make_url(where)
        kind = url.get_backend_name()
    except ArgumentError:
        kind = "another text"
    if kind == "postgresql" or (kind == "sqlite" and url.database not in (None, "", ":memory:")):
        return url
    raise RecordsError(
        "Expected the store's URL, such as postgresql+psycopg://user@host/name, or a SQLite file, got "
        f"{kind!r:.40}. Correct it."
    )


def _make_file(path: Path) -> None:
    """An empty file of its owner's only: SQLite gives its journals the same mode.

    One that is there is not opened: closing it would end the locks that this process's connections have on it
    (fcntl(2); "How to corrupt an SQLite database file", section 2.2).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with suppress(FileExistsError):  # another process was first
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise RecordsError(
            f"Expected to open the store {path}, got: {error.strerror}. Mend the permissions or name another."
        ) from None


def _prepare_sqlite(engine: Engine, patience_s: float) -> None:
    """Journal ahead, every commit on disk, deleted bytes overwritten; transactions begin as this module says."""

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver itself begins no transaction
        _journal_ahead(connection, time.monotonic() + patience_s)
        for pragma in ("synchronous=FULL", "secure_delete=ON", "trusted_schema=OFF"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        if begin := connection.get_execution_options().get("fedbank_begin", "BEGIN"):
            connection.exec_driver_sql(begin)


def _journal_ahead(connection: Any, deadline: float) -> None:
    """SQLite waits for nobody when two make a new file a journaled one: this does."""
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)
