"""A coordinator's folder survives in one file, and no made-up file can do anything but be refused."""

import hashlib
import io
import json
import os
import sqlite3
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

import fedbank_server.membership_commands as server
from fedbank.errors import FedBankError, RunError
from fedbank.evidence.log import EVIDENCE
from fedbank.evidence.verify import verify_log
from fedbank_client.home import Home
from fedbank_server.backup import MANIFEST, back_up, restore
from fedbank_server.consortium import Files
from fedbank_server.members import active_members
from fedbank_server.sealed_stream import CHUNK, MAGIC, SealedWriter, read_sealed

SECRET = b"correct horse battery staple"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize("passphrase", [None, SECRET])
def test_a_folder_comes_back_as_it_was(
    coordinator: Path, make_member: Callable[..., Home], tmp_path: Path, passphrase: bytes | None
) -> None:
    """All bytes but the roster, which banks must take: its sequence number is one that nobody has seen."""
    home = make_member()
    (coordinator / "campaigns" / "spring").mkdir(parents=True)
    (coordinator / "campaigns" / "spring" / "state").write_bytes(os.urandom(3 * CHUNK + 17))
    (coordinator / "empty").touch()
    made = back_up(coordinator, tmp_path / "backup", passphrase)
    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o600
    assert restore(tmp_path / "backup", tmp_path / "again", passphrase) == made
    before, after = contents(coordinator), contents(tmp_path / "again")
    assert before.pop("roster") != after.pop("roster")
    for name, number in ((EVIDENCE, 3), ("evidence.checkpoints", 3)):
        kept, grown = before.pop(name), after.pop(name)
        assert grown.startswith(kept) and grown.count(b"\n") == number
    assert after == before
    assert verify_log(tmp_path / "again" / EVIDENCE, home.coordinator_key.raw).signed == 3
    roster = active_members(tmp_path / "again")
    assert list(roster.active()) == ["bank-a"] and roster.sequence > active_members(coordinator).sequence + 100
    home.store_roster(Files(tmp_path / "again").roster.read_bytes())
    for path in set((tmp_path / "again").rglob("*")) - {tmp_path / "again" / "roster"}:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_a_plain_backup_is_a_tar_that_other_programs_read(coordinator: Path, tmp_path: Path) -> None:
    back_up(coordinator, tmp_path / "backup", None)
    with tarfile.open(tmp_path / "backup") as archive:
        names = archive.getnames()
        file = archive.extractfile("ca.pem")
        assert file is not None and file.read() == Files(coordinator).authority.read_bytes()
    assert names[-1] == MANIFEST and ".lock" not in names


def test_a_sealed_backup_shows_nothing(coordinator: Path, tmp_path: Path) -> None:
    back_up(coordinator, tmp_path / "backup", SECRET)
    content = (tmp_path / "backup").read_bytes()
    for path in Files(coordinator).secrets():
        assert path.read_bytes()[30:60] not in content
    assert b"BEGIN" not in content and b"consortium" not in content


def test_a_database_in_use_is_copied_whole(coordinator: Path, tmp_path: Path) -> None:
    with sqlite3.connect(coordinator / "state.db", isolation_level=None) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE rounds (number INTEGER)")
        database.execute("INSERT INTO rounds VALUES (7)")  # in the side file only, so far
        back_up(coordinator, tmp_path / "backup", None)
    restore(tmp_path / "backup", tmp_path / "again", None)
    with sqlite3.connect(tmp_path / "again" / "state.db") as restored:
        assert restored.execute("SELECT number FROM rounds").fetchall() == [(7,)]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_links_are_left_out_and_named(coordinator: Path, tmp_path: Path) -> None:
    (coordinator / "link").symlink_to("/etc/passwd")
    os.mkfifo(coordinator / "pipe")
    assert back_up(coordinator, tmp_path / "backup", None).left_out == ("link", "pipe")
    restore(tmp_path / "backup", tmp_path / "again", None)
    assert not os.path.lexists(tmp_path / "again" / "link")


def test_nothing_that_exists_is_overwritten(coordinator: Path, tmp_path: Path) -> None:
    back_up(coordinator, tmp_path / "backup", None)
    with pytest.raises(RunError, match="Expected a new file"):
        back_up(coordinator, tmp_path / "backup", None)
    with pytest.raises(RunError, match="Expected a new file outside"):
        back_up(coordinator, coordinator / "backup", None)
    before = contents(coordinator)
    with pytest.raises(RunError, match="exists"):
        restore(tmp_path / "backup", coordinator, None)
    assert contents(coordinator) == before
    with pytest.raises(RunError, match="got none"):
        restore(tmp_path / "nowhere", tmp_path / "again", None)


@pytest.mark.parametrize(
    ("sealed", "passphrase", "words"),
    [
        (SECRET, b"another passphrase", "another passphrase"),
        (SECRET, None, "Expected a passphrase"),
        (None, SECRET, "Expected a sealed backup"),
    ],
)
def test_the_passphrase_must_fit(
    coordinator: Path, tmp_path: Path, sealed: bytes | None, passphrase: bytes | None, words: str
) -> None:
    back_up(coordinator, tmp_path / "backup", sealed)
    with pytest.raises(RunError, match=words):
        restore(tmp_path / "backup", tmp_path / "again", passphrase)
    assert [path.name for path in tmp_path.iterdir() if "again" in path.name] == []


@pytest.mark.parametrize("passphrase", [None, SECRET])
@pytest.mark.parametrize("damage", ["cut at the end", "cut in the middle", "one bit", "empty", "more at the end"])
def test_a_damaged_backup_makes_no_folder(
    coordinator: Path, tmp_path: Path, passphrase: bytes | None, damage: str
) -> None:
    path = tmp_path / "backup"
    back_up(coordinator, path, passphrase)
    content = bytearray(path.read_bytes())
    if damage == "cut at the end":
        del content[-1100:]
    elif damage == "cut in the middle":
        del content[len(content) // 2 :]
    elif damage == "one bit":
        content[content.find(b"-----BEGIN") + 40 if passphrase is None else 900] ^= 1
    elif damage == "empty":
        content.clear()
    else:
        content += b"more"
    path.write_bytes(content)
    with pytest.raises(RunError):
        restore(path, tmp_path / "again", passphrase)
    assert [path.name for path in tmp_path.iterdir() if "again" in path.name] == []


def entry(name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    made = tarfile.TarInfo(name)
    made.size, made.type, made.linkname = len(content), kind, link
    return made.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


def manifest(names: dict[str, bytes]) -> bytes:
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in names.items()}
    return entry(MANIFEST, json.dumps({"files": sums}).encode())


HOSTILE: dict[str, tuple[bytes, str]] = {
    "a name outside": (entry("../evil") + manifest({"../evil": b"x"}), "names inside"),
    "a name far outside": (entry("a/../../evil") + manifest({}), "names inside"),
    "an absolute name": (entry("/tmp/evil") + manifest({}), "names inside"),
    "a link": (entry("link", b"", tarfile.SYMTYPE, "/etc") + entry("link/evil") + manifest({}), "regular files"),
    "a hard link": (entry("link", b"", tarfile.LNKTYPE, "/etc/passwd") + manifest({}), "regular files"),
    "a device": (entry("device", b"", tarfile.CHRTYPE) + manifest({}), "regular files"),
    "a pipe": (entry("pipe", b"", tarfile.FIFOTYPE) + manifest({}), "regular files"),
    "a long-name header": (entry("x", b"y" * 600, tarfile.GNUTYPE_LONGNAME) + manifest({}), "regular files"),
    "a pax header": (entry("x", b"13 path=evil\n", tarfile.XHDTYPE) + manifest({}), "regular files"),
    "a file twice": (entry("a") + entry("a") + manifest({"a": b"x"}), "every file once"),
    "a file in no folder": (entry("a/b") + manifest({"a/b": b"x"}), "folders before"),
    "a file as folder": (entry("a") + entry("a/b") + manifest({}), "folders before"),
    "a folder over a file": (entry("a") + entry("a", b"", tarfile.DIRTYPE) + manifest({}), "every folder once"),
    "another checksum": (entry("consortium.yaml", b"y") + manifest({"consortium.yaml": b"x"}), "checksums"),
    "a file that the manifest lacks": (entry("consortium.yaml") + manifest({}), "checksums"),
    "a file that only the manifest has": (manifest({"consortium.yaml": b"x"}), "checksums"),
    "no consortium": (entry("a") + manifest({"a": b"x"}), "checksums"),
    "no manifest": (entry("a"), "whole headers"),
    "a manifest that is none": (entry(MANIFEST, b"[1]"), "a manifest"),
    "a manifest of lies": (entry(MANIFEST, b"[" * 200_000), "a manifest"),
    "noise": (b"noise" * 1000, "whole headers"),
    "zeros": (bytes(10_000), "whole headers"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_made_up_archive_writes_nothing_anywhere(tmp_path: Path, name: str) -> None:
    content, words = HOSTILE[name]
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "backup"
    path.write_bytes(content + bytes(1024))
    with pytest.raises(RunError, match=words):
        restore(path, tmp_path / "in" / "again", None)
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "backup"]


def test_a_size_that_is_a_lie_costs_no_memory(tmp_path: Path) -> None:
    made = tarfile.TarInfo("a")
    made.size = 8 << 40
    path = tmp_path / "backup"
    path.write_bytes(made.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(RunError):
        restore(path, tmp_path / "again", None)
    made.name = MANIFEST
    path.write_bytes(made.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(RunError, match="a manifest"):
        restore(path, tmp_path / "again", None)


@pytest.mark.parametrize("length", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_a_sealed_stream_gives_back_what_went_in(length: int) -> None:
    plain, sealed = os.urandom(length), io.BytesIO()
    writer = SealedWriter(sealed, SECRET)
    for start in range(0, length, 300_000):
        writer.write(plain[start : start + 300_000])
    writer.close()
    sealed.seek(len(MAGIC))
    assert b"".join(read_sealed(sealed, SECRET)) == plain


@pytest.mark.parametrize("case", ["last left out", "first left out", "exchanged", "doubled", "of another stream"])
def test_chunks_keep_their_places(case: str) -> None:
    def sealed() -> tuple[bytes, list[bytes]]:
        target = io.BytesIO()
        writer = SealedWriter(target, SECRET)
        writer.write(bytes(3 * CHUNK))
        writer.close()
        content, start = target.getvalue(), len(MAGIC) + 23
        return content[len(MAGIC) : start], [
            content[at : at + CHUNK + 16] for at in range(start, len(content), CHUNK + 16)
        ]

    head, chunks = sealed()
    changed = {
        "last left out": chunks[:2],
        "first left out": chunks[1:],
        "exchanged": [chunks[1], chunks[0], chunks[2]],
        "doubled": [chunks[0], chunks[0], *chunks[1:]],
        "of another stream": [chunks[0], sealed()[1][1], chunks[2]],
    }[case]
    assert len(b"".join(read_sealed(io.BytesIO(head + b"".join(chunks)), SECRET))) == 3 * CHUNK
    with pytest.raises(RunError, match="damaged"):
        list(read_sealed(io.BytesIO(head + b"".join(changed)), SECRET))


def test_the_commands_make_and_use_a_backup(
    coordinator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = tmp_path / "words"
    words.write_bytes(SECRET + b"\nsecond line\n")
    words.chmod(0o600)
    seal = ["--passphrase-file", str(words)]
    assert server.backup_command([str(tmp_path / "b"), "--dir", str(coordinator), *seal]) == 0
    assert server.restore_command([str(tmp_path / "b"), str(tmp_path / "again"), *seal]) == 0
    assert "revoke again" in capsys.readouterr().out
    words.chmod(0o644)
    with pytest.raises(FedBankError, match="chmod 600"):
        server.restore_command([str(tmp_path / "b"), str(tmp_path / "more"), *seal])
    typed = iter(["one passphrase", "another passphrase", SECRET.decode()])
    monkeypatch.setattr("getpass.getpass", lambda _: next(typed))
    with pytest.raises(FedBankError, match="twice"):
        server.backup_command([str(tmp_path / "c"), "--dir", str(coordinator), "--passphrase"])
    assert server.restore_command([str(tmp_path / "b"), str(tmp_path / "more"), "--passphrase"]) == 0
