"""Whichever third of the banks fails, for good and from the start: the others train to the end."""

from collections.abc import Callable
from itertools import combinations

import pytest
from grid_consortium import GridConsortium, adapter_after

from fedbank.adapter.update import Update
from fedbank.aggregation.deadline import DeadlineRule

THIRDS = [(banks, failing) for banks in (3, 7) for failing in combinations(range(1, banks + 1), banks // 3)]
SOON = DeadlineRule(factor=1.0, floor_s=1.0, ceiling_s=1.0)


def _crashes(update: Update) -> Update:
    raise ValueError("out of memory")


@pytest.mark.fault(4)
@pytest.mark.parametrize(
    ("banks", "failing"), THIRDS, ids=[f"{' and '.join(map(str, failing))} of {banks}" for banks, failing in THIRDS]
)
def test_training_completes_with_any_third_of_the_banks_failing(
    make_consortium: Callable[..., GridConsortium], banks: int, failing: tuple[int, ...]
) -> None:
    """The first of them is gone, the second crashes whenever it is asked to train."""
    c = make_consortium(banks=banks, quorum=banks - len(failing), deadline=SOON, rounds=1)
    names = [f"bank-{number}" for number in failing]
    c.grid.vanish(c.nodes[names[0]])
    for name in names[1:]:
        c.banks[name].act = _crashes
    others = [name for name in c.banks if name not in names]
    assert c.run().digest() == adapter_after(c, [others])
    assert [line.attempt for line in c.store.history.lines()] == [1]
    assert all(c.banks[name].charged() == [1] for name in others)
