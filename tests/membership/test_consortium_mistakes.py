"""What kills, old copies and people's mistakes do to a consortium's folder: nothing, or nothing for long."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

import fedbank_server.membership_commands as server
from fedbank.certificates import CertificateError, fingerprint, read_certificate
from fedbank.errors import ConfigError, RunError
from fedbank.sealing.keys import SigningKey
from fedbank.sealing.roster import Roster, sign_roster
from fedbank_client.enrolment import join
from fedbank_client.home import Home
from fedbank_server.authority import create_consortium, load_authority
from fedbank_server.consortium import Files, read_consortium
from fedbank_server.members import active_members, revoke

REPLACE = Path.replace


def test_what_exists_is_never_overwritten(coordinator: Path, tmp_path: Path, now: datetime) -> None:
    before = sorted(path.name for path in coordinator.iterdir())
    for folder in (coordinator, tmp_path / "file", tmp_path / "link"):
        if folder.name == "file":
            folder.touch()
        if folder.name == "link":
            folder.symlink_to(tmp_path / "nowhere")
        with pytest.raises(RunError, match="exists"):
            create_consortium(folder, "Other", now, hosts=("localhost",), port=9443, passphrase=None)
    assert sorted(path.name for path in coordinator.iterdir()) == before
    with pytest.raises(RunError, match="exists"):
        server.invite_command(["--dir", str(coordinator), "--bank", "bank-a", "-o", str(tmp_path / "file")])


@pytest.mark.parametrize("at", range(1, 11))
def test_a_crash_while_founding_leaves_nothing(
    tmp_path: Path, now: datetime, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The process ends at its n-th rename, the last one included."""
    renames = 0

    def crash(self: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames == at:
            raise KeyboardInterrupt
        REPLACE(self, target)
        return target

    monkeypatch.setattr(Path, "replace", crash)
    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        create_consortium(tmp_path / "srv", "Test", now, hosts=("localhost",), port=9443, passphrase=None)
    assert list(tmp_path.iterdir()) == []


def _found_until_killed(folder: Path, at: int) -> None:
    renames = 0

    def kill(self: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames == at:
            os.kill(os.getpid(), signal.SIGKILL)
        REPLACE(self, target)
        return target

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", kill)
        patch.setattr(Path, "rename", kill)
        create_consortium(folder, "T", datetime.now(UTC), hosts=("localhost",), port=9443, passphrase=None)


@pytest.mark.parametrize("at", [1, 5, 9, 10])
def test_a_kill_while_founding_leaves_nothing_that_looks_finished(tmp_path: Path, at: int) -> None:
    worker = multiprocessing.get_context("fork").Process(target=_found_until_killed, args=(tmp_path / "srv", at))
    worker.start()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL
    assert not (tmp_path / "srv").exists()
    assert server.init_command([str(tmp_path / "srv"), "--name", "T"]) == 0
    assert server.doctor_command(["--dir", str(tmp_path / "srv")]) == 0


def test_a_crash_during_admission_is_completed_by_the_same_command(
    coordinator: Path,
    enrol_bank: Callable[..., Home],
    admit_bank: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
    now: datetime,
) -> None:
    """Whatever write the process dies at, the same request later makes one member with one valid certificate."""
    for at in (1, 2, 3):
        home = enrol_bank(f"bank-{at}")
        writes = 0

        def crash(self: Path, target: Path, at: int = at) -> Path:
            nonlocal writes
            writes += 1
            if writes == at:
                raise KeyboardInterrupt
            REPLACE(self, target)
            return target

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", crash)
            with pytest.raises(KeyboardInterrupt):
                admit_bank(home)
        join(home, admit_bank(home), now)
        member = active_members(coordinator).active()[home.bank]
        assert member.certificate_sha256 == fingerprint(read_certificate(home.certificate))
    assert active_members(coordinator).sequence == 4


def test_a_roster_that_was_put_back_or_forged_lets_nobody_in(
    coordinator: Path, make_member: Callable[..., Home], now: datetime
) -> None:
    make_member()
    files = Files(coordinator)
    with_member = files.roster.read_bytes()
    active_members(coordinator)
    revoke(coordinator, "bank-a", now, reason="")
    active_members(coordinator)
    files.roster.write_bytes(with_member)
    with pytest.raises(Exception, match="older"):
        active_members(coordinator)
    key = SigningKey.derived("somebody")
    files.roster.write_bytes(sign_roster(Roster("Test Consortium", 9, key.public, {}), key))
    with pytest.raises(Exception, match="signature"):
        active_members(coordinator)


def test_a_bank_never_takes_an_older_or_foreign_roster(
    coordinator: Path, make_member: Callable[..., Home], now: datetime
) -> None:
    home = make_member()
    old = home.roster.read_bytes()
    revoke(coordinator, "bank-a", now, reason="")
    home.store_roster(Files(coordinator).roster.read_bytes())
    with pytest.raises(Exception, match="older"):
        home.store_roster(old)
    assert home.read_roster().active() == {}
    with pytest.raises(Exception, match=r"signature|signed"):
        home.store_roster(sign_roster(Roster("X", 9, (key := SigningKey.derived("x")).public, {}), key))


def test_a_passphrase_locks_the_authority_and_nothing_else(tmp_path: Path, now: datetime) -> None:
    folder = tmp_path / "srv"
    create_consortium(folder, "T", now, hosts=("localhost",), port=9443, passphrase=b"correct horse battery")
    files = Files(folder)
    assert b"ENCRYPTED" in files.authority_key.read_bytes()
    assert load_authority(files, b"correct horse battery").key
    for wrong, words in ((None, "passphrase"), (b"wrong", "the right passphrase")):
        with pytest.raises(CertificateError, match=words):
            load_authority(files, wrong)
    SigningKey.load(files.coordinator_key)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "x" * 64}, "name"),
        ({"hosts": ("local host",)}, "host name"),
        ({"hosts": ("localhost:9443",)}, "host name"),
        ({"hosts": ("-a",)}, "host name"),
        ({"port": 0}, "port"),
        ({"port": 65535}, "port"),
        ({"passphrase": b"short"}, "passphrase"),
    ],
)
def test_a_consortium_that_cannot_be_is_not_founded(
    tmp_path: Path, now: datetime, change: dict[str, object], words: str
) -> None:
    settings = {"name": "T", "hosts": ("localhost",), "port": 9443, "passphrase": None} | change
    with pytest.raises(ConfigError, match=words):
        create_consortium(tmp_path / "srv", now=now, **settings)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("quorum: 0", "quorum"),
        ("quorum: true", "quorum"),
        ("base_model_digest: abc", "base_model_digest"),
        ("release_threshold: 1.5", "release_threshold"),
        ("max_share: 0", "max_share"),
        ("max_share: 1.01", "max_share"),
        ("addresses: []", "addresses"),
        ("addresses: [localhost]", "addresses"),
        ("quorrum: 2", "Did you mean quorum"),
        ("deadline: {factor: .nan, floor_s: 1, ceiling_s: 2}", "factor"),
        ("deadline: {factor: 2, floor_s: 3, ceiling_s: 2}", "floor_s"),
        ("plan: {target_epsilon: -1}", "target_epsilon"),
        ("name: [a]", "name"),
    ],
)
def test_a_mistake_in_consortium_yaml_is_named(coordinator: Path, line: str, words: str) -> None:
    path = Files(coordinator).settings
    key = line.split(":")[0]
    kept, skipping = [], False
    for text in path.read_text().splitlines():
        skipping = text.startswith(f"{key}:") or (skipping and text.startswith(" "))
        kept += [] if skipping else [text]
    path.write_text("\n".join([*kept, line]) + "\n")
    with pytest.raises(ConfigError, match=words) as refused:
        read_consortium(coordinator)
    assert "consortium.yaml" in str(refused.value) or "deadline" in str(refused.value)
