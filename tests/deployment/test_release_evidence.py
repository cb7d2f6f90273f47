"""A bank and its coordinator change who signs, by the commands: evidence of both, and a key that is rotated."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedbank.evidence.files import read_entry_lines
from fedbank.evidence.log import EVIDENCE
from fedbank.membership.documents import Invitation
from fedbank.release.errors import ReleaseError
from fedbank_client.cli import client_command
from fedbank_client.enrolment import enrol, join
from fedbank_client.release_commands import say_if_made_up
from fedbank_server.authority import create_consortium, load_authority
from fedbank_server.cli import server_command
from fedbank_server.consortium import Files
from fedbank_server.invitations import invite
from fedbank_server.members import admit
from fedbank_server.release_files import ReleaseFiles


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A coordinator's folder and that of its one member."""
    coordinator, now = tmp_path / "coordinator", datetime.now(UTC)
    create_consortium(coordinator, "Alliance", now, hosts=("localhost",), port=9, passphrase=None)
    invitation = Invitation.read(invite(coordinator, "bank-a", now, valid=timedelta(hours=1))[1])
    home, _ = enrol(tmp_path / "bank-a", "bank-a", invitation, now)
    request, authority = home.request.read_bytes(), lambda: load_authority(Files(coordinator), None)
    join(home, admit(coordinator, request, authority, now)[1], now)
    return coordinator, home.folder


def _last(folder: Path) -> str:
    return read_entry_lines(folder / EVIDENCE)[-1].decode()


def test_a_signed_and_a_published_change_are_noted_whatever_the_draft_is_called(folders: tuple[Path, Path]) -> None:
    coordinator, bank = folders
    client_command(["release", "key", "--dir", str(bank)])
    server_command(["release", "keys", "--dir", str(coordinator), "--add", str(bank / "release-key.json")])
    arrived = bank.parent / "signatories 1 (copy)"
    (coordinator / "releases" / "drafts" / "signatories-1").rename(arrived)
    signature = bank.parent / "bank-a.sig"
    assert client_command(["release", "sign", str(arrived), "--dir", str(bank), "-o", str(signature)]) == 0
    assert '"action":"change-signed"' in _last(bank) and '"object":"signatories"' in _last(bank)
    arrived.rename(coordinator / "releases" / "drafts" / "signatories-1")
    words = ["release", "publish", "signatories-1", str(signature), "--dir", str(coordinator)]
    assert server_command(words) == 0
    assert '"action":"change-published"' in _last(coordinator) and "signed by bank-a" in _last(coordinator)


def test_a_bank_that_rotates_its_key_signs_with_both(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    coordinator, bank = folders
    key, old, root = bank / "keys" / "release.key", bank.parent / "old.key", bank.parent / "root.json"

    def client(*words: str) -> int:
        return client_command(["release", *words, "--dir", str(bank)])

    def server(*words: str) -> int:
        return server_command(["release", *words, "--dir", str(coordinator)])

    def draft() -> Path:
        server("keys", "--add", str(bank / "release-key.json"))
        (found,) = (coordinator / "releases" / "drafts").glob("[!.]*")
        return found

    first, signatures = client("key"), [str(bank.parent / name) for name in ("old.sig", "new.sig")]
    drafted = draft()
    assert first == 0 and client("review", str(drafted)) == 0  # without its key at hand it still knows its own
    client("sign", str(drafted), "-o", signatures[0])
    server("publish", drafted.name, signatures[0])
    root.write_bytes(ReleaseFiles(coordinator).repository.first_root() or b"")
    client("trust", str(root))
    key.rename(old)
    client("key")
    drafted = draft()
    assert client("sign", str(drafted), "-o", signatures[1]) == 0
    with pytest.raises(ReleaseError, match=r"1 who sign today \(bank-a; got none\) and 1 of the new ones .*got bank-a"):
        server("publish", drafted.name, signatures[1])
    assert client("sign", str(drafted), "--key", str(old), "-o", signatures[0]) == 0
    capsys.readouterr()
    assert server("publish", drafted.name, *signatures) == 0
    assert "Published: give bank-a another key" in capsys.readouterr().out


def test_whoever_names_no_data_is_told_that_the_customers_were_made_up(capsys: pytest.CaptureFixture[str]) -> None:
    say_if_made_up(["data.customers=400", "seed=1"])
    assert "These customers were made up. Name your own" in capsys.readouterr().err
    say_if_made_up(["data=csv", "data.path=inquiries.csv"])
    assert capsys.readouterr().err == ""
