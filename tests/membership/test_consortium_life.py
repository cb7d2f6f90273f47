"""A consortium from its founding to a bank's leaving, through the commands that people type."""

import io
import json
import os
import stat
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, load_ssh_private_key

import fedbank_client.membership_commands as client
import fedbank_server.membership_commands as server
from fedbank.certificates import fingerprint, read_certificate
from fedbank.errors import FedBankError, RunError
from fedbank.evidence.log import EVIDENCE
from fedbank.evidence.verify import verify_log
from fedbank.membership.documents import LeaveNotice
from fedbank.membership.terms import DeadlineRule, PlanTerms, Terms
from fedbank.privacy.ledger import LEDGER, Charge, Ledger, read_ledger
from fedbank_client.enrolment import join, leave
from fedbank_client.home import TRAINING, Home, read_home
from fedbank_server.authority import create_consortium, load_authority
from fedbank_server.consortium import Files, read_consortium
from fedbank_server.members import accept_notice, active_members, admit, member_of, renew, revoke

Command = Callable[[Sequence[str]], int]


def run(command: Command, *words: object) -> None:
    assert command([str(word) for word in words]) == 0


def test_a_consortium_lives_through_its_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(server.init_command, "srv", "--name", "Test Consortium", "--host", "localhost", "--host", "10.0.0.7")
    monkeypatch.setenv("FEDBANK_HOME", "srv")
    for bank in ("bank-a", "bank-b"):
        run(server.invite_command, "--bank", bank, "-o", f"{bank}.invitation")
        run(client.init_command, bank, "--bank", bank, "--invitation", f"{bank}.invitation")
        run(server.admit_command, f"{bank}/request.json")
        run(client.join_command, f"{bank}.package.json", "--dir", bank)
    run(server.revoke_command, "bank-a", "--reason", "key lost")
    capsys.readouterr()
    run(server.members_command, "--json")
    shown = json.loads(capsys.readouterr().out)
    assert [(row["bank"], row["state"]) for row in shown["members"]] == [("bank-a", "revoked"), ("bank-b", "active")]
    assert shown["sequence"] == 4
    run(server.members_command)
    assert "revoked" in capsys.readouterr().out
    home = read_home(Path("bank-b"))
    assert list(home.read_roster().active()) == ["bank-a", "bank-b"]
    assert home.addresses == ("localhost:9443", "10.0.0.7:9443")
    assert home.terms() == read_consortium(Path("srv")).terms
    run(client.leave_command, "--dir", "bank-b", "--yes")
    notice = LeaveNotice.read((home.folder / "leave-notice.json").read_bytes(), home.load_signing_key().public)
    assert notice.bank == "bank-b"
    assert not home.joined


def test_both_sides_can_prove_later_what_was_done(
    coordinator: Path, make_member: Callable[..., Home], admit_bank: Callable[..., bytes], now: datetime
) -> None:
    home = make_member()
    join(home, admit_bank(home), now)
    revoke(coordinator, "bank-a", now, reason="key\nlost")
    leave(home, now)
    issued = active_members(coordinator).members["bank-a"].certificate_sha256
    for folder, key, done in (
        (
            coordinator,
            Files(coordinator).public_key(),
            [("bank-invited", "bank-a"), ("certificate-issued", issued), ("member-revoked", "bank-a")],
        ),
        (home.folder, home.load_signing_key().public, [("joined", issued), ("left", "bank-a")]),
    ):
        verified = verify_log(folder / EVIDENCE, key.raw)
        assert verified.signed == verified.entries == len(done)
        kept = [json.loads(line) for line in (folder / EVIDENCE).read_text().splitlines()]
        assert [(entry["action"], entry["object"]) for entry in kept] == done


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    modules = (server, client)
    commands = [getattr(module, name) for module in modules for name in dir(module) if name.endswith("_command")]
    assert len(commands) == 14
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            command(["--help"])
        assert ended.value.code == 0
    assert "usage: fedbank" in capsys.readouterr().out


def test_secret_files_and_folders_are_their_owners_only(coordinator: Path, enrol_bank: Callable[..., Home]) -> None:
    old = os.umask(0)
    try:
        home = enrol_bank()
    finally:
        os.umask(old)
    for folder in (coordinator, Files(coordinator).certificates, home.folder, home.folder / "keys"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in (*Files(coordinator).secrets(), *home.secrets()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_node_key_is_what_flower_takes(make_member: Callable[..., Home]) -> None:
    from flwr.supercore.primitives.asymmetric import sign_message, uses_nist_ec_curve, verify_signature

    home = make_member()
    key = load_ssh_private_key(home.node_key.read_bytes(), None)  # as flower-supernode reads it
    public = home.load_node_key().public_key()
    assert uses_nist_ec_curve(public)
    assert verify_signature(public, b"now", sign_message(key, b"now"))  # type: ignore[arg-type]


def test_the_same_request_again_gives_the_same_membership(
    coordinator: Path, enrol_bank: Callable[..., Home], admit_bank: Callable[..., bytes], now: datetime
) -> None:
    home = enrol_bank()
    first = admit_bank(home)
    assert admit_bank(home, at=now + timedelta(days=3)) == first  # a lost package, after the invitation expired
    assert active_members(coordinator).sequence == 2


def test_a_revoked_bank_is_out_and_comes_back_only_with_new_keys(
    coordinator: Path, make_member: Callable[..., Home], enrol_bank: Callable[..., Home], tmp_path: Path, now: datetime
) -> None:
    home = make_member()
    presented = read_certificate(home.certificate).public_bytes(Encoding.DER)
    found = member_of(coordinator, presented)
    assert found is not None and found.bank == "bank-a"
    revoke(coordinator, "bank-a", now, reason="test")
    assert member_of(coordinator, presented) is None
    assert active_members(coordinator).active() == {}
    again = revoke(coordinator, "bank-a", now + timedelta(hours=1), reason="twice")
    assert again.revoked == active_members(coordinator).members["bank-a"].revoked
    assert active_members(coordinator).sequence == 3
    back = enrol_bank("bank-a", folder=tmp_path / "again")
    content = back.request.read_bytes()
    admit(coordinator, content, lambda: load_authority(Files(coordinator), None), now)
    assert active_members(coordinator).active()["bank-a"].signing_key == back.load_signing_key().public


def test_a_changed_roster_is_seen_at_the_next_question(coordinator: Path, make_member: Callable[..., Home]) -> None:
    assert active_members(coordinator).active() == {}
    make_member()
    assert list(active_members(coordinator).active()) == ["bank-a"]
    assert active_members(coordinator) is active_members(coordinator)


def test_a_renewed_certificate_is_for_the_same_key_and_the_old_one_ends(
    coordinator: Path, make_member: Callable[..., Home], now: datetime
) -> None:
    home = make_member()
    old = fingerprint(read_certificate(home.certificate))
    later = now + timedelta(days=300)
    package = renew(coordinator, "bank-a", lambda: load_authority(Files(coordinator), None), later)
    join(home, package, later)
    new = read_certificate(home.certificate)
    assert fingerprint(new) != old
    assert new.not_valid_after_utc > now + timedelta(days=660)
    assert active_members(coordinator).active()["bank-a"].certificate_sha256 == fingerprint(new)
    with pytest.raises(RunError, match="Expected a member"):
        renew(coordinator, "bank-z", lambda: load_authority(Files(coordinator), None), later)


def test_an_address_may_be_ipv6(tmp_path: Path, now: datetime) -> None:
    create_consortium(tmp_path / "srv", "T", now, hosts=("::1", "fedbank.example"), port=9443, passphrase=None)
    consortium = read_consortium(tmp_path / "srv")
    assert consortium.addresses == ("[::1]:9443", "fedbank.example:9443")
    assert consortium.hosts() == ("::1", "fedbank.example")
    assert consortium.public == "0.0.0.0:9443"


def test_terms_survive_being_written() -> None:
    terms = Terms(3, DeadlineRule(2.5, 60, 600), "ab" * 32, 2, PlanTerms(8.0, 1e-5, "customer"))
    assert Terms.loads(terms.dumps().encode(), "here") == terms


def test_a_share_of_its_own_reaches_the_members_and_the_usual_one_is_not_named() -> None:
    """Members whose version does not know it can still join where nobody has changed it."""
    usual, own = Terms(3, DeadlineRule()), Terms(3, DeadlineRule(), max_share=0.25)
    assert "max_share" not in usual.dumps() and usual.max_share == 0.5
    assert Terms.loads(own.dumps().encode(), "here").max_share == 0.25


def test_a_folder_is_found_or_the_way_to_make_one_is_told(
    tmp_path: Path, coordinator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEDBANK_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="fedbank server init"):
        server.members_command([])
    with pytest.raises(RunError, match="fedbank client init"):
        client.join_command(["package"])
    monkeypatch.chdir(coordinator)
    assert server.members_command([]) == 0


def test_a_leave_notice_ends_the_membership_of_whoever_signed_it_only(
    coordinator: Path, make_member: Callable[..., Home], now: datetime
) -> None:
    home, other = make_member("bank-a"), make_member("bank-b")
    content = leave(home, now).read_bytes()
    forged = LeaveNotice("Test Consortium", "bank-b", now).write(home.load_signing_key())
    elsewhere = LeaveNotice("Other", "bank-b", now).write(other.load_signing_key())
    for notice, bank, words in (
        (content, "bank-b", "signature"),
        (forged, "bank-b", "signature"),
        (elsewhere, "bank-b", "to leave Other"),
        (content, "bank-z", "Expected a member"),
    ):
        with pytest.raises(FedBankError, match=words):
            accept_notice(coordinator, notice, bank, now)
    assert list(active_members(coordinator).active()) == ["bank-a", "bank-b"]
    notice_file = str(home.folder / "leave-notice.json")
    assert server.revoke_command(["bank-a", "--dir", str(coordinator), "--notice", notice_file]) == 0
    assert list(active_members(coordinator).active()) == ["bank-b"]


def test_a_bank_that_comes_back_brings_its_ledger(
    coordinator: Path,
    make_member: Callable[..., Home],
    give_invitation: Callable[..., bytes],
    tmp_path: Path,
    now: datetime,
) -> None:
    old, other = make_member("bank-a"), make_member("bank-b")
    Ledger(old.folder / TRAINING / LEDGER, "bank-a").charge(Charge("c", 1, "b", "d", 0.1, 1.1, 5, None), max_steps=10)
    old.policy.write_text(old.policy.read_text().replace("max_epsilon_total: 8.0", "max_epsilon_total: 3.0"))
    invitation = tmp_path / "invitation"
    revoke(coordinator, "bank-a", now, reason="")
    invitation.write_bytes(give_invitation("bank-a"))
    new = tmp_path / "new"
    words = [str(new), "--bank", "bank-a", "--invitation", str(invitation), "--continue"]
    with pytest.raises(RunError, match="has left"):
        client.init_command([*words, str(old.folder)])
    leave(old, now)
    leave(other, now)
    with pytest.raises(RunError, match="Expected an earlier folder of bank-a"):
        client.init_command([*words, str(other.folder)])
    assert not new.exists()
    assert client.init_command([*words, str(old.folder)]) == 0
    assert Ledger(new / TRAINING / LEDGER, "bank-a").charges() == read_ledger(old.folder / TRAINING / LEDGER).charges
    assert "max_epsilon_total: 3.0" in read_home(new).policy.read_text()
    assert read_home(new).load_signing_key().public != old.load_signing_key().public
    words[0] = str(tmp_path / "second")
    with pytest.raises(RunError, match=r"Expected a ledger that no folder continues yet.*'new' continues"):
        client.init_command([*words, str(old.folder)])
    assert not (tmp_path / "second").exists(), "two folders that go on with one ledger would spend it twice"


def test_leaving_asks_first(
    make_member: Callable[..., Home], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_member()
    (home.folder / "ledger.jsonl").write_text("{}\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("no\n"))
    assert client.leave_command(["--dir", str(home.folder)]) == 2
    assert home.joined
    monkeypatch.setattr(sys, "stdin", io.StringIO("bank-a\n"))
    assert client.leave_command(["--dir", str(home.folder)]) == 0
    assert not home.joined and not home.node_key.exists() and not home.certificate.exists()
    assert home.signing_key.exists() and (home.folder / "ledger.jsonl").exists()
    first = (home.folder / "leave-notice.json").read_bytes()
    assert client.leave_command(["--dir", str(home.folder), "--yes"]) == 0
    assert (home.folder / "leave-notice.json").read_bytes() == first
    assert "fedbank server revoke bank-a --notice" in capsys.readouterr().out
