"""What the documents say is so: links lead somewhere, commands exist, the tree is the tree."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from fedbank.cli import COMMANDS
from fedbank.config import load_simulate
from fedbank_simulations.cli import simulate_command

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("simulations/**/*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_readme_opens_with_the_two_commands() -> None:
    block = (ROOT / "README.md").read_text("utf-8").split("```")[1]
    assert [line.split("#")[0].strip() for line in block.strip().splitlines()] == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert "\ndemo:" in makefile and "\ntest:" in makefile


def test_the_readme_tree_names_every_folder() -> None:
    tree = (ROOT / "README.md").read_text("utf-8").split("## The tree")[1].split("```")[1]
    named = set(re.findall(r"^(\w+)/", tree, re.MULTILINE))
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {line.split("/")[0] for line in tracked.splitlines() if "/" in line and not line.startswith(".")}
    assert named == folders


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_fedbank_command_in_the_documents_is_valid(path: Path) -> None:
    for line in re.findall(r"^fedbank (.+)$", path.read_text("utf-8"), re.MULTILINE):
        words = line.split("#")[0].split(">")[0].split()
        assert words[0] in COMMANDS, line
        if words[0] == "simulate" and "-m" not in words:
            load_simulate([word for word in words[1:] if "=" in word])


def test_help_lists_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        simulate_command(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for fragment in ("aggregation=fedavg|fedsvd|ffa", "privacy=customer|off", "held_out:", "--json", "--multirun"):
        assert fragment in shown


def test_the_lock_file_pins_every_dependency_but_torch() -> None:
    """PyTorch's build depends on the machine: deploy/install_torch.py chooses it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[^\w.-]", line)[0].lower() for line in wanted} - {"torch"}
    pinned = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines())
    assert names <= {name.replace("_", "-") for name in pinned}


def test_every_pitfall_names_the_mutants_and_tests_that_prove_it() -> None:
    """The table and the seeded defects say the same."""
    listed: dict[str, tuple[set[str], set[str]]] = {}
    for line in (ROOT / "docs" / "pitfalls.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if re.match(r"\| \d+ \|", line):
            listed[cells[0]] = (set(re.findall(r"`([^`]+)`", cells[4])), set(re.findall(r"`([^`]+)`", cells[5])))
    seeded: dict[str, tuple[set[str], set[str]]] = {str(number): (set(), set()) for number in range(1, 32)}
    for file in sorted((ROOT / "tests" / "mutants").glob("*.toml")):
        for mutant in tomllib.loads(file.read_text("utf-8"))["mutant"]:
            if mutant["pitfall"] in seeded:
                tests, names = seeded[mutant["pitfall"]]
                tests.add(mutant["test"].removeprefix("tests/").split("[")[0])
                names.add(mutant["name"])
    assert listed == seeded


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs" / "adr").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_dependency_has_its_reason() -> None:
    reasons = (ROOT / "docs" / "adr" / "0002-dependencies.md").read_text("utf-8")
    declared = (ROOT / "pyproject.toml").read_text("utf-8").split("dependencies = [")[1].split("]\n")[0]
    for name in re.findall(r'"([a-z][a-z0-9-]*)', declared):
        assert f"`{name}`" in reasons, name
