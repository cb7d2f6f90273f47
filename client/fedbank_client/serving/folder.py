"""What the service keeps in the bank's folder, in ``service/``: its owner's only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedbank.config.schema import RecordsConfig
from fedbank.durable import open_locked
from fedbank.errors import RunError
from fedbank.evidence.log import EVIDENCE, EvidenceLog
from fedbank.evidence.origin import origin
from fedbank.serving.store.database import Database, RecordsError
from fedbank.serving.store.records import Records
from fedbank.serving.store.vault import RecordsKey
from fedbank_client.home import Home
from fedbank_client.serving.secret_files import DATABASE_VARIABLE, read_secret

_ON_ITS_OWN = "service"
PURGED = "purge-records"
"""The action of a purge in the log."""


@dataclass(frozen=True, slots=True)
class ServiceFolder:
    """Paths of the service in the bank's ``home``."""

    home: Home

    @property
    def path(self) -> Path:
        """All of it."""
        return self.home.folder / _ON_ITS_OWN

    @property
    def lock(self) -> Path:
        """Held by the service that runs here."""
        return self.path / "lock"

    @property
    def records_key(self) -> Path:
        """What all records are sealed under, unless the settings name another file."""
        return self.path / "records.key"

    @property
    def records(self) -> Path:
        """The store, unless the settings name a database."""
        return self.path / "records.sqlite"

    @property
    def evidence(self) -> Path:
        """The log of answers, apart from the bank's own: it grows with every question."""
        return self.path / EVIDENCE

    @property
    def rollout(self) -> Path:
        """Which release answers."""
        return self.path / "rollout.json"

    @property
    def log(self) -> Path:
        """What the service says of itself."""
        return self.path / "service.log"

    @property
    def engine_log(self) -> Path:
        """What an engine that is a child says."""
        return self.path / "engine.log"

    def make(self) -> None:
        """The folder, its owner's only."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        self.path.chmod(0o700)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One service in one folder.

        Raises:
            RunError: another one runs.
        """
        self.make()
        try:
            with open_locked(self.lock, write=True, patience_s=0.0):
                yield
        except TimeoutError:
            raise RunError(
                f"Expected no service that runs from {self.home.folder}, got one. Stop it first: two would answer with "
                "different releases."
            ) from None

    def open_evidence(self) -> EvidenceLog:
        """The log of answers, signed with the bank's key under a name of its own."""
        self.make()
        name = origin(self.home.consortium, f"{self.home.bank}/{_ON_ITS_OWN}")
        return EvidenceLog(self.evidence, name, self.home.load_signing_key())

    def open_records(
        self, settings: RecordsConfig, passphrase: bytes | None, *, make: bool = True
    ) -> tuple[Records, RecordsKey]:
        """The store and its key, both made at the first start unless ``make`` is false.

        Raises:
            RecordsError: it cannot be opened, belongs to another key, or its key is gone.
            CertificateError, VaultError: the key cannot be read.
        """
        self.make()
        url = read_secret(settings.database, DATABASE_VARIABLE)
        database: Path | str = url or self.records
        path = Path(settings.key) if settings.key is not None else self.records_key
        is_new = not os.path.lexists(path)
        if not make and url is None and not self.records.exists():
            raise RecordsError(
                f"Expected the records of a service in {self.records}, got none. If the service keeps them in a "
                "database, name it as there: records.database=FILE"
            )
        if is_new and (not make or (url is None and self.records.exists())):
            raise RecordsError(
                f"Expected the key {path} of the records in {(url and 'the database') or self.records}, got none. "
                "Restore it from a backup: without it nobody can read them."
            )
        if is_new:
            RecordsKey.generate().save(path, passphrase)
        key = RecordsKey.load(path, passphrase)
        try:
            return Records(Database(database), key), key
        except RecordsError:
            if is_new:  # the store has another key, or cannot be reached: this one sealed nothing
                path.unlink()
            raise
