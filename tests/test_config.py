"""Every choice in conf/ composes, is complete, and survives being written and read again."""

from pathlib import Path

import pytest

from fedbank.config import config_dir, expand_sweep, load_simulate, parse_simulate, to_yaml

CHOICES = sorted(f"{path.parent.name}={path.stem}" for path in config_dir().glob("*/*.yaml"))
NEEDS = {"data=jsonl": ["data.path=x"], "data=csv": ["data.path=x"], "data=ask_cfpb": ["data.path=x"]}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_round_trips(choice: str) -> None:
    config = load_simulate([choice, *NEEDS.get(choice, [])])
    assert parse_simulate(to_yaml(config)) == config


@pytest.mark.parametrize("group", sorted(path.name for path in config_dir().iterdir() if path.is_dir()))
def test_all_choices_of_a_group_have_the_same_keys(group: str) -> None:
    keys = {
        path.name: {line.split(":")[0] for line in path.read_text("utf-8").splitlines() if line[:1].isalpha()}
        for path in sorted((config_dir() / group).glob("*.yaml"))
    }
    assert len({frozenset(value) for value in keys.values()}) == 1, keys


def test_models_by_identifier_are_pinned() -> None:
    for path in sorted(Path(config_dir() / "model").glob("qwen*.yaml")):
        revision = load_simulate([f"model={path.stem}"]).model.revision
        assert revision is not None and len(revision) == 40, path.name


def test_no_choice_names_code_to_call() -> None:
    for path in config_dir().rglob("*.yaml"):
        assert "_target_" not in path.read_text("utf-8"), path


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["seed=1"], [["seed=1"]]),
        (["seed=0,1", "banks=2"], [["seed=0", "banks=2"], ["seed=1", "banks=2"]]),
        (
            ["privacy.epsilon=1,8", "aggregation=ffa,fedsvd"],
            [
                ["privacy.epsilon=1", "aggregation=ffa"],
                ["privacy.epsilon=1", "aggregation=fedsvd"],
                ["privacy.epsilon=8", "aggregation=ffa"],
                ["privacy.epsilon=8", "aggregation=fedsvd"],
            ],
        ),
    ],
)
def test_a_sweep_is_the_product_of_its_values(overrides: list[str], expected: list[list[str]]) -> None:
    assert expand_sweep(overrides) == expected


@pytest.mark.parametrize("path", ["runs/a=b,c", "my runs/(1)", "it's", "D:\\new", "{x}[y]", "a#b"])
def test_paths_are_taken_as_they_stand(path: str) -> None:
    assert load_simulate([f"output={path}"]).output == path
