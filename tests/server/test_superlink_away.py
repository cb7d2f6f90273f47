"""A coordinator whose SuperLink is away: the campaign waits for it, and no bank pays for it."""

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message

from fedbank.adapter.update import Update
from fedbank.errors import RunError
from fedbank.membership.terms import DeadlineRule
from fedbank_server import runtime
from fedbank_server.authority import create_consortium
from fedbank_server.consortium import Files
from fedbank_server.coordinator_grid import open_grid
from fedbank_server.nodes import Timing

HOUR = 3600.0


class SwiftClock:
    """Ten minutes pass whenever somebody looks at it; after a weekend it asks to stop."""

    def __init__(self, stop: threading.Event) -> None:
        self.now, self._stop = 0.0, stop

    def monotonic(self) -> float:
        self.now += 600.0
        if self.now > 60 * HOUR:
            self._stop.set()
        return self.now


def test_a_weekend_without_its_server_ends_no_campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_consortium(tmp_path / "c", "Test", datetime.now(UTC), hosts=("127.0.0.1",), port=9443, passphrase=None)
    stop, told = threading.Event(), list[tuple[float, str]]()
    clock = SwiftClock(stop)
    stop.wait = lambda timeout=None: stop.is_set()  # type: ignore[method-assign]
    monkeypatch.setattr(runtime, "time", SimpleNamespace(monotonic=clock.monotonic))

    def say(text: str) -> None:
        told.append((clock.now, text))

    certificate = Files(tmp_path / "c").certificate
    opened = open_grid("127.0.0.1:1", "t" * 32, certificate, home=tmp_path / "home", stop=stop, say=say)
    with pytest.raises(RunError, match="was asked to stop while the SuperLink was away"), opened:
        pass
    assert "the campaign waits for it and loses nothing. Does fedbank server start run?" in told[0][1]
    moments = [moment for moment, _ in told]
    assert moments[-1] > 58 * HOUR and all(
        HOUR <= after - before <= 2 * HOUR for before, after in itertools.pairwise(moments)
    )


@pytest.mark.parametrize("ceiling_s", [1.5, 600.0], ids=["as said before", "as measured in this very round"])
def test_a_deadline_that_passed_while_the_server_was_away_costs_no_bank(
    make_consortium: Callable[..., Any], ceiling_s: float
) -> None:
    c = make_consortium(quorum=2, deadline=DeadlineRule(factor=1.0, floor_s=1.5, ceiling_s=ceiling_s), rounds=1)
    back = threading.Event()
    pull = c.grid.pull_messages

    def after_its_return(update: Update) -> Update:
        back.wait(20)
        time.sleep(0.3)
        return update

    def pull_after_a_while(message_ids: Iterable[str]) -> Iterable[Message]:
        if not back.is_set() and len(list(c.store.rounds.kept(1))) == 2:
            time.sleep(2.0)
            back.set()
        found: Iterable[Message] = pull(message_ids)
        return found

    c.banks["bank-3"].act = after_its_return
    c.grid.pull_messages = pull_after_a_while
    c.run(Timing(poll_interval_s=0.002, nodes_every_s=0.02, enrol_every_s=0.1, restart_grace_s=1.5, away_s=1.0))
    (line,) = c.store.history.lines()
    assert (line.missing, line.attempt) == ([], 1)
    assert c.banks["bank-3"].charged() == [1]
