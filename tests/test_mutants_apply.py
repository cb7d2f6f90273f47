"""Every seeded defect still has its place: found once, Python when replaced, noticed by a test that exists."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "mutants"))

from run import Mutant, read_mutants  # noqa: E402

MUTANTS = read_mutants([])


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_defect_can_be_seeded(mutant: Mutant) -> None:
    source = (ROOT / mutant.file).read_text("utf-8")
    assert source.count(mutant.find) == 1
    if mutant.file.endswith(".py"):
        ast.parse(source.replace(mutant.find, mutant.replace))
    file, _, name = mutant.test.partition("::")
    assert not name or f"def {name.partition('[')[0]}(" in (ROOT / file).read_text("utf-8")


def test_names_are_used_once() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names))
