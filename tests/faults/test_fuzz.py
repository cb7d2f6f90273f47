"""Nothing that arrives can end a process: the fuzz of both sides, in short with every change and at length at night."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fuzz import fuzz
from fuzz_wire import fuzz_wire

SHORT, LONG = 1500, 20_000
KINDS = {
    "coordinator": {"objects", "presence", "update", "error", "record", "acceptance to a proposal"},
    "bank": {"objects", "proposal", "question", "call", "result", "record", "type"},
}


def check(folder: Path, messages: int, seen: Callable[..., None]) -> None:
    found = fuzz(folder, messages, seed=14)
    for side, outcomes in found.items():
        counts = {kind: sum(count for (of, _), count in outcomes.items() if of == kind) for kind, _ in outcomes}
        assert counts.keys() >= KINDS[side] and all(counts[kind] > 9 for kind in KINDS[side])
        assert outcomes.total() >= messages // 2
    seen(", ".join(f"{outcomes.total()} lies to the {side}" for side, outcomes in found.items()) + ": no traceback")


def test_objects_of_flower_that_lie_about_themselves_are_refused() -> None:
    outcomes: Counter[tuple[str, str]] = Counter()
    fuzz_wire(3000, 14, outcomes)
    assert outcomes.total() == 3000 and outcomes["objects", "refused"] > 2000


@pytest.mark.slow
@pytest.mark.fault(39)
def test_nothing_that_arrives_ends_a_process(tmp_path: Path, seen: Callable[..., None]) -> None:
    check(tmp_path, SHORT, seen)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.fault(39)
def test_twenty_thousand_lies_end_no_process(tmp_path: Path, seen: Callable[..., None]) -> None:
    check(tmp_path, LONG, seen)
