"""Where a test's ledger is."""

from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger that is not there yet."""
    return tmp_path / "ledger.jsonl"
