"""The head of a ledger stands for all of it up to that line: what a bank tells, and is told again."""

from hashlib import sha256
from pathlib import Path

import pytest

from fedbank.privacy.ledger import Charge, Ledger


def _ledger(path: Path, rounds: int) -> Ledger:
    ledger = Ledger(path / "ledger.jsonl", "bank-a")
    for number in range(1, rounds + 1):
        ledger.charge(Charge("spring", number, "b" * 64, "p" * 64, 0.1, 1.0, 5, None), max_steps=1000)
    return ledger


def test_an_empty_ledger_has_no_line_and_holds_only_that(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", "bank-a")
    assert ledger.head() == (0, "")
    assert ledger.holds(0, "") and not ledger.holds(1, "ab" * 32)


@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_the_head_is_the_number_of_lines_and_the_hash_of_the_last(tmp_path: Path, rounds: int) -> None:
    ledger = _ledger(tmp_path, rounds)
    lines = (tmp_path / "ledger.jsonl").read_bytes().splitlines()
    assert (
        ledger.head()
        == (len(lines), sha256(lines[-1]).hexdigest())
        == Ledger(tmp_path / "ledger.jsonl", "bank-a").head()
    )
    for number, line in enumerate(lines, start=1):
        assert ledger.holds(number, sha256(line).hexdigest())
        assert not ledger.holds(number, sha256(line + b" ").hexdigest())
        assert not ledger.holds(number + 1, sha256(line).hexdigest())


def test_a_line_that_its_head_does_not_count_yet_is_settled_before_it_is_told(tmp_path: Path) -> None:
    """After a crash between the two: the line may not be on disk, and must be before anybody is told of it."""
    (tmp_path / "before").mkdir()
    path, kept = tmp_path / "ledger.jsonl", tmp_path / "before" / "ledger.head"
    _ledger(tmp_path, 1)
    kept.write_bytes(path.with_suffix(".head").read_bytes())
    _ledger(tmp_path, 0).charge(Charge("spring", 2, "b" * 64, "p" * 64, 0.1, 1.0, 5, None), max_steps=1000)
    path.with_suffix(".head").write_bytes(kept.read_bytes())
    ledger = Ledger(path, "bank-a")
    assert ledger.head()[0] == 3
    assert path.with_suffix(".head").read_bytes() != kept.read_bytes()
