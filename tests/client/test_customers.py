"""Who is trained on and who is held out: everybody's own side, whoever else is there."""

import json
from pathlib import Path

import pytest

from fedbank.config import load_client
from fedbank.config.schema import DataConfig
from fedbank.errors import DataError
from fedbank_client.customers import load_training_units


def data_of(path: Path, customers: list[int]) -> DataConfig:
    rows = [{"question": f"q{n}", "answer": f"a{n}", "customer": f"c{n}", "key": "cards"} for n in customers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return load_client(["data=jsonl", f"data.path={path}"]).data


@pytest.mark.parametrize("gone", [0, 17, 199])
def test_one_customer_more_or_fewer_moves_nobody_else(tmp_path: Path, gone: int) -> None:
    everybody = list(range(200))
    train, held = load_training_units(data_of(tmp_path / "all", everybody), 0.2, seed=3)
    fewer = [number for number in everybody if number != gone]
    train_without, held_without = load_training_units(data_of(tmp_path / "fewer", fewer), 0.2, seed=3)
    for whole, less in ((train, train_without), (held, held_without)):
        names = {unit.customer for unit in whole} - {f"c{gone}"}
        assert {unit.customer for unit in less} == names


def test_about_the_fraction_is_held_out_and_another_seed_holds_out_others(tmp_path: Path) -> None:
    data = data_of(tmp_path / "all", list(range(2000)))
    (train, held), (_, others) = (load_training_units(data, 0.1, seed=seed) for seed in (0, 1))
    assert len(train) + len(held) == 2000 and 140 < len(held) < 260
    assert {unit.customer for unit in held} != {unit.customer for unit in others}


def test_nobody_to_train_on_is_a_plain_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected customers to train on"):
        load_training_units(data_of(tmp_path / "one", [1]), 0.999999, seed=0)
