"""A small consortium of numeric banks on a grid that can do them harm."""

from collections.abc import Callable
from pathlib import Path

import pytest
from grid_consortium import GridConsortium


@pytest.fixture
def make_consortium(tmp_path: Path) -> Callable[..., GridConsortium]:
    return lambda **terms: GridConsortium(tmp_path, **terms)
