"""A coordinator and two banks as processes of their own, over mutual TLS."""

from pathlib import Path

import pytest
from consortium import Consortium, exchange, payload_of, wait_for

pytestmark = pytest.mark.slow


def test_every_bank_answers_with_the_bytes_it_was_sent(consortium: Consortium) -> None:
    consortium.start_banks()
    with consortium.grid() as grid:
        wait_for(lambda: len(grid.banks()) == 2, 60, consortium.log_of("bank1"))
        for size in (0, 5, 3_000_000):
            replies = exchange(grid, {node: bank.encode() * size for bank, node in grid.banks().items()})
            got = {bank: payload_of(replies[node]) for bank, node in grid.banks().items()}
            assert got == {bank: bank.encode() * size for bank in ("bank1", "bank2")}
    assert Path(consortium.folder / "bank1" / "calls").read_text().splitlines() == ["query.echo"] * 3


@pytest.mark.parametrize("content", [b"this is no database" * 1000, b"SQLite format 3\x00" + bytes(5000)])
@pytest.mark.fault(24)
def test_a_database_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    made = Consortium(tmp_path)
    (tmp_path / "superlink.db").write_bytes(content)
    assert made.start("serve").wait(60) == 1
    assert "Expected Flower's database in" in made.log_of("serve")()
