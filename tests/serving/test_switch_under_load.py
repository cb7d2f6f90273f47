"""Row 33: releases are changed and changed back while customers ask; nobody is lost, and nobody hears both."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fedbank.serving.engines.batching import Limits
from simulations.benchmarks.switching import NEW, OLD, Load, switch

LOAD = Load(25.0, 4, Limits(max_running=16, max_waiting=1000))
"""What a busy machine keeps up with; the benchmark asks for more."""
TIMES, PAUSE_S, LIMIT_S = 2, 1.0, 5.0


@pytest.mark.slow
@pytest.mark.fault(33)
def test_releases_that_take_turns_under_load_lose_no_request_and_mix_no_answer(
    tmp_path: Path, seen: Callable[..., None]
) -> None:
    found = switch(tmp_path, LOAD, TIMES, PAUSE_S)
    assert not found.load.errors
    assert {one.release for one in found.answers} == {OLD, NEW}
    assert not [one for one in found.answers if one.mixed]
    slowest = {kind: max(found.seconds(kind)) for kind in ("promote", "rollback")}
    assert max(slowest.values()) <= LIMIT_S
    seen(
        f"{len(found.answers)} answers at {LOAD.per_s:g}/s, {TIMES} times each: over after at most "
        f"{slowest['promote']:.1f} s, back after {slowest['rollback']:.1f} s; 0 failed, 0 mixed"
    )
