"""A consortium in a folder, and banks at every stage of joining it: real files, real keys."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedbank.membership.documents import Invitation
from fedbank_client.enrolment import enrol, join
from fedbank_client.home import Home, read_home
from fedbank_server.authority import create_consortium, load_authority
from fedbank_server.consortium import Files
from fedbank_server.invitations import invite
from fedbank_server.members import admit

NAME = "Test Consortium"


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def coordinator(tmp_path: Path, now: datetime) -> Path:
    """The folder of a new consortium without members; no passphrase."""
    folder = tmp_path / "coordinator"
    create_consortium(folder, NAME, now, hosts=("localhost", "127.0.0.1"), port=9443, passphrase=None)
    return folder


@pytest.fixture
def give_invitation(coordinator: Path, now: datetime) -> Callable[..., bytes]:
    """The file of an invitation for a bank."""

    def give(bank: str = "bank-a", *, at: datetime | None = None, folder: Path = coordinator) -> bytes:
        return invite(folder, bank, at or now, valid=timedelta(hours=24))[1]

    return give


@pytest.fixture
def enrol_bank(tmp_path: Path, give_invitation: Callable[..., bytes], now: datetime) -> Callable[..., Home]:
    """A bank with its keys and request, not admitted yet."""

    def make(bank: str = "bank-a", *, folder: Path | None = None) -> Home:
        invitation = Invitation.read(give_invitation(bank))
        return enrol(folder or tmp_path / bank, bank, invitation, now)[0]

    return make


@pytest.fixture
def admit_bank(coordinator: Path, now: datetime) -> Callable[..., bytes]:
    """The join package for a bank's request."""

    def make(home: Home, *, at: datetime | None = None) -> bytes:
        content = home.request.read_bytes()
        return admit(coordinator, content, lambda: load_authority(Files(coordinator), None), at or now)[1]

    return make


@pytest.fixture
def make_member(
    enrol_bank: Callable[..., Home], admit_bank: Callable[..., bytes], now: datetime
) -> Callable[..., Home]:
    """A bank that has joined."""

    def make(bank: str = "bank-a", *, at: datetime | None = None) -> Home:
        home = enrol_bank(bank)
        join(home, admit_bank(home, at=at), at or now)
        return read_home(home.folder)

    return make
