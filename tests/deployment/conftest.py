"""A running coordinator for tests that start processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from consortium import Consortium


@pytest.fixture
def consortium(tmp_path: Path) -> Iterator[Consortium]:
    """The coordinator runs, two banks are members and not started."""
    made = Consortium(tmp_path)
    made.start_server()
    yield made
    made.stop()
