"""Every row of the table of faults has a test that carries its number."""

import ast
from pathlib import Path

import pytest
from fault_table import FAULTS

TESTS = Path(__file__).parent
ROWS = {*range(1, 25), *range(28, 34), 35, 37, 38, 39}
"""The others are of secure aggregation, serving and the audit log."""


def numbers(path: Path) -> set[int]:
    """Rows that are written as numbers in marks of one file; a mark may get its row from elsewhere too."""
    calls = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call))
    marks = (call for call in calls if ast.unparse(call.func) == "pytest.mark.fault")
    return {arg.value for call in marks for arg in call.args if isinstance(arg, ast.Constant)}


MARKED = {path.name: numbers(path) for path in sorted(TESTS.rglob("test_*.py"))}


def test_the_table_has_these_rows_and_no_test_is_marked_with_another() -> None:
    assert FAULTS.keys() == ROWS
    assert set().union(*MARKED.values()) <= ROWS


@pytest.mark.parametrize("row", sorted(ROWS))
def test_a_row_has_a_test(row: int) -> None:
    assert [name for name, rows in MARKED.items() if row in rows], FAULTS[row]
