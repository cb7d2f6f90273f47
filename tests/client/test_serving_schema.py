"""Whatever the service's own description gives rise to: no error of the service, and nothing that contradicts it."""

from pathlib import Path

import pytest
from schema_attack import Attack, served

pytestmark = pytest.mark.slow
EXAMPLES, SEED = 7, 20261123


def test_requests_of_every_form_and_role_find_no_error_and_nothing_that_is_not_described(tmp_path: Path) -> None:
    with served(tmp_path) as (world, url):
        attack = Attack(world, url)
        attack.run(EXAMPLES, SEED)
    found = attack.found
    assert not found.failures, "\n\n".join(f"{known}\n{example}" for known, example in found.failures.items())
    assert not [place for place in found.statuses if place[1] >= 500]
    reached = {label for label, status in found.statuses if status < 300}
    assert len({label for label, _ in found.statuses}) >= 18
    assert len(reached) >= 14, f"too many routes only refuse: {sorted(reached)}"
