import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedbank.evidence.command import evidence_command
from fedbank.evidence.errors import EvidenceError
from fedbank.evidence.log import EvidenceLog
from fedbank.sealing.keys import SigningKey

KEY = SigningKey.derived("log")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "160")
    log = EvidenceLog(tmp_path / "evidence.jsonl", "nordic.example/coordinator", KEY, sync=False, clock=lambda: NOON)
    for number in range(30):
        log.append("update.refused", "ab" * 32, f"[red]norm {number}[/red]", "bank-a")
    (tmp_path / "note").write_text(log.checkpoint(), "utf-8")
    log.append("roster.signed", "roster-7", "3 members", "coordinator")
    return tmp_path


def test_verify_tells_what_was_checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evidence_command(["verify", str(folder), "--key", KEY.public.hex()]) == 0
    shown = capsys.readouterr().out
    assert "is intact: 31 entries, of which 30 are signed by 1 checkpoints; signatures checked" in shown
    assert shown.endswith((folder / "note").read_text("utf-8"))


def test_verify_says_so_when_it_had_no_key(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evidence_command(["verify", str(folder / "evidence.jsonl")]) == 0
    assert "signatures NOT checked (give --key)" in capsys.readouterr().out


def test_verify_prints_one_object_for_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["verify", str(folder), "--key", KEY.public.hex(), "--seen", str(folder / "note"), "--json"]
    assert evidence_command(words) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown.keys() == {"entries", "checkpoints", "root", "signed", "note", "signatures_checked", "seen"}
    assert (shown["entries"], shown["signed"], shown["signatures_checked"], shown["seen"]) == (31, 30, True, 1)


def test_verify_refuses_a_log_that_does_not_go_on_from_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "evidence.jsonl"
    with EvidenceLog(other, "nordic.example/coordinator", KEY) as log:
        log.append("roster.signed", "roster-7", "3 members", "coordinator")
    with pytest.raises(EvidenceError, match="at least 30 entries"):
        evidence_command(["verify", str(other), "--key", KEY.public.hex(), "--seen", str(folder / "note")])


@pytest.mark.parametrize("command", ["verify", "show"])
def test_verify_with_the_key_of_another_fails(folder: Path, command: str) -> None:
    with pytest.raises(EvidenceError, match=r"checkpoint 0 .*got none"):
        evidence_command([command, str(folder), "--key", SigningKey.derived("other").public.hex()])


def test_show_is_a_table_of_the_last_entries(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evidence_command(["show", str(folder), "--last", "2", "--key", KEY.public.hex()]) == 0
    shown = capsys.readouterr().out
    for fragment in ("2026-03-01T12:00:00", "bank-a", "update.refused", "abababababab…", "[red]norm 29[/red]"):
        assert fragment in shown
    assert "roster-7" in shown and "norm 28" not in shown and "Intact: 31 entries" in shown


def test_show_prints_one_object_for_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evidence_command(["show", str(folder), "--last", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "entries": [
            {
                "seq": 30,
                "utc": "2026-03-01T12:00:00.000+00:00",
                "actor": "coordinator",
                "action": "roster.signed",
                "object": "roster-7",
                "result": "3 members",
            }
        ],
        "intact": True,
        "damage": None,
        "first_bad": None,
    }


def test_show_of_a_damaged_log_shows_it_and_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "evidence.jsonl"
    lines = path.read_bytes().splitlines()
    lines[29] = b"\x1b[2Jgone"
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(EvidenceError, match="Expected entry 29"):
        evidence_command(["show", str(folder), "--last", "3"])
    shown = capsys.readouterr().out
    assert "norm 28" in shown and "not an entry: b'\\x1b[2Jgone'" in shown and "roster-7" in shown
    assert "\x1b[2J" not in shown and "Intact" not in shown
    with pytest.raises(EvidenceError):
        evidence_command(["show", str(folder), "--last", "3", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["intact"], found["first_bad"], found["entries"][1]) == (False, 29, None)


@pytest.mark.parametrize("key", ["", "abc", "zz" * 32, "ab" * 31, "ab" * 33])
def test_a_key_that_is_none_is_refused(folder: Path, key: str) -> None:
    with pytest.raises(EvidenceError, match="64 hexadecimal digits"):
        evidence_command(["verify", str(folder), "--key", key])


@pytest.mark.parametrize("count", ["0", "-1", "x", "1.5", "9" * 20])
def test_a_count_that_is_none_is_refused(folder: Path, count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        evidence_command(["show", str(folder), "--last", count])
    assert ended.value.code == 2 and "expected" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["verify", "show"])
def test_a_folder_without_a_log_is_an_error(tmp_path: Path, command: str) -> None:
    with pytest.raises(EvidenceError, match=r"evidence\.jsonl, got: No such file"):
        evidence_command([command, str(tmp_path)])


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_seen_checkpoint_that_cannot_be_read_is_an_error(folder: Path, content: bytes | None) -> None:
    if content is not None:
        (folder / "bad").write_bytes(content)
    with pytest.raises(EvidenceError, match=str(folder / "bad")):
        evidence_command(["verify", str(folder), "--seen", str(folder / "bad")])


@pytest.mark.parametrize(("words", "code"), [([], 0), (["--help"], 0), (["help"], 0), (["destroy", "x"], 2)])
def test_help_and_unknown_commands(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert evidence_command(words) == code
    shown = capsys.readouterr()
    assert "verify" in shown.out + shown.err


@pytest.mark.parametrize("command", ["verify", "show"])
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        evidence_command([command, "--help"])
    assert ended.value.code == 0 and "--key" in capsys.readouterr().out
