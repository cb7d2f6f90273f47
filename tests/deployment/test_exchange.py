"""A coordinator and two banks as processes of their own, over mutual TLS."""

import time
from pathlib import Path

import pytest
from consortium import Consortium, exchange, payload_of, send, wait_for

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


def test_a_reply_is_fetched_when_the_one_before_is_done_with(consortium: Consortium) -> None:
    """A coordinator of many banks has one update in memory, not all that have arrived."""
    consortium.start_banks()
    fetched: list[int] = []
    with consortium.grid() as grid:
        wait_for(lambda: len(grid.banks()) == 2, 60, consortium.log_of("bank1"))
        fetch = grid._line.pull_object
        grid._line.pull_object = lambda object_id: _noted(fetch(object_id), fetched)
        before = _calls(consortium)
        waiting = set(send(grid, dict.fromkeys(grid.banks().values(), bytes(3_000_000))))
        wait_for(lambda: _calls(consortium) == before + 2, 60, consortium.log_of("bank1"))
        time.sleep(1)  # both answers are on their way, and soon there
        taken = 0
        while waiting:
            for reply in grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                taken += 1
                assert len(fetched) == taken


def _noted(content: bytes, fetched: list[int]) -> bytes:
    if len(content) > 1_000_000:
        fetched.append(len(content))
    return content


def _calls(consortium: Consortium) -> int:
    paths = [consortium.folder / bank / "calls" for bank in ("bank1", "bank2")]
    return sum(len(path.read_text().splitlines()) for path in paths if path.exists())


@pytest.mark.parametrize("content", [b"this is no database" * 1000, b"SQLite format 3\x00" + bytes(5000)])
@pytest.mark.fault(24)
def test_a_database_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    made = Consortium(tmp_path)
    (tmp_path / "superlink.db").write_bytes(content)
    assert made.start("serve").wait(60) == 1
    assert "Expected Flower's database in" in made.log_of("serve")()
