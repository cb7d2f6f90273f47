"""Bad input to ``fedbank simulate``: exit code 2, one plain message with expected and got, nothing written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedbank.cli import main

Make = Callable[[Path], list[str]]


def text_file(content: str | bytes, name: str = "log.jsonl") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def rows(count: int, keys: int = 3) -> str:
    return "".join(
        json.dumps({"question": f"q{i}", "answer": f"a{i}", "customer": f"c{i}", "key": f"k{i % keys}"}) + "\n"
        for i in range(count)
    )


def jsonl(content: str | bytes, *more: str) -> Make:
    return lambda folder: ["data=jsonl", f"data.path={text_file(content)(folder)}", *more]


def model_folder(files: dict[str, bytes]) -> Make:
    def make(folder: Path) -> list[str]:
        home = folder / "model"
        home.mkdir()
        for name, content in files.items():
            (home / name).write_bytes(content)
        return ["model=path", f"model.path={home}"]

    return make


def fixed(*overrides: str) -> Make:
    return lambda folder: list(overrides)


QWEN, LLAMA = b'{"model_type": "qwen3"}', b'{"model_type": "llama"}'
WRONG_ROW = rows(2) + '{"question": "q", "answer": "a" "customer": "c"}\n'
NO_ANSWER = rows(3) + '{"question": "q", "answer": " ", "customer": "c", "key": "k"}\n'
NO_CUSTOMER = rows(3) + '{"question": "q", "answer": "a", "customer": null, "key": "k"}\n'

TABLE: dict[str, tuple[Make, list[str]]] = {
    "unknown override": (fixed("bnaks=4"), ["'bnaks'", "Did you mean 'banks'", "--help"]),
    "unknown nested override": (fixed("privacy.epsilno=4"), ["'privacy.epsilno'", "Did you mean 'privacy.epsilon'"]),
    "unknown choice": (fixed("aggregation=fedsdv"), ["fedavg|fedsvd|ffa", "got 'fedsdv'", "Did you mean 'fedsvd'"]),
    "not an override": (fixed("banks"), ["'banks'", "name=value"]),
    "mistyped value": (fixed("banks=four"), ["banks", "'four'", "Integer"]),
    "fraction of a round": (fixed("training.rounds=1.5"), ["training.rounds", "1.5"]),
    "epsilon zero": (fixed("privacy.epsilon=0"), ["privacy.epsilon", "positive", "got 0.0"]),
    "epsilon negative": (fixed("privacy.epsilon=-3"), ["privacy.epsilon", "positive", "got -3.0"]),
    "epsilon not a number": (fixed("privacy.epsilon=nan"), ["privacy.epsilon", "positive", "got nan"]),
    "epsilon out of reach": (
        fixed("privacy.epsilon=1e-6", "data.customers=400"),
        ["privacy.epsilon", "1e-06", "Raise"],
    ),
    "delta above one customer in the bank": (
        fixed("privacy.delta=0.5", "data.customers=400"),
        ["privacy.delta", "got 0.5", "number of customers"],
    ),
    "clip norm zero": (
        fixed("privacy.clip_norm=0", "data.customers=400"),
        ["privacy.clip_norm", "from 1e-6 to 1e6", "got 0.0"],
    ),
    "delta zero": (fixed("privacy.delta=0", "data.customers=400"), ["delta", "got 0.0"]),
    "no steps": (fixed("training.local_steps=0"), ["training.local_steps", "at least 1", "got 0"]),
    "unknown unit of privacy": (fixed("privacy.unit=bank"), ["privacy.unit", "customer or record", "'bank'"]),
    "several records of a record": (
        fixed("privacy.unit=record", "training.records_per_customer=2", "data.customers=400"),
        ["one record", "got 2", "training.records_per_customer=1"],
    ),
    "unknown gradient engine": (fixed("training.per_example=ghost"), ["training.per_example", "opacus", "'ghost'"]),
    "packing asked for": (fixed("+training.packing=true"), ["training.packing"]),
    "the model's own loss asked for": (fixed("+training.labels=true"), ["training.labels"]),
    "base model in fp16": (fixed("model.dtype=float16"), ["model.dtype", "bfloat16", "'float16'"]),
    "a scaler asked for": (fixed("+training.grad_scaler=true"), ["training.grad_scaler"]),
    "Opacus under checkpointing it cannot follow": (
        fixed("training.per_example=opacus", "model.gradient_checkpointing=non-reentrant", "data.customers=400"),
        ["model.gradient_checkpointing", "reentrant", "direct"],
    ),
    "dropout of everything": (fixed("adapter.dropout=1"), ["adapter.dropout", "below 1"]),
    "unknown device": (fixed("model.device=meta"), ["model.device", "cuda", "'meta'"]),
    "no name for the data file": (fixed("data=jsonl", "data.path="), ["data.path", "a path"]),
    "unknown kind of data": (fixed("data.name=foo"), ["data.name", "synthetic", "'foo'"]),
    "privacy off with epsilon": (fixed("privacy=off", "privacy.epsilon=8"), ["privacy=off", "8.0", "Leave out"]),
    "negative seed": (fixed("seed=-1"), ["seed", "0 or more", "-1"]),
    "no data path": (fixed("data=csv"), ["data.path=FILE", "data=csv"]),
    "data file missing": (fixed("data=jsonl", "data.path=nowhere.jsonl"), ["nowhere.jsonl", "Expected"]),
    "data file empty": (jsonl(""), ["log.jsonl", "holds no inquiry", "at least one row"]),
    "data file not UTF-8": (jsonl(rows(2).encode() + "客户".encode("gb18030")), ["log.jsonl", "UTF-8", "line 3"]),
    "malformed line": (jsonl(WRONG_ROW), ["log.jsonl", "line 3", "JSON"]),
    "row without answer": (jsonl(NO_ANSWER), ["log.jsonl", "line 4", "answer"]),
    "row without customer": (jsonl(NO_CUSTOMER), ["log.jsonl", "line 4", "customer"]),
    "a bank with no customers": (jsonl(rows(5), "partition=iid", "banks=8"), ["bank-", "customer", "got"]),
    "a bank with one customer": (jsonl(rows(11), "partition=iid", "banks=8"), ["hold out", "got 1", "fewer banks"]),
    "more banks than keys": (jsonl(rows(60), "partition=key", "banks=5"), ["5 banks", "3", "partition"]),
    "model path missing": (fixed("model=path"), ["model.path=DIR", "got none"]),
    "model folder missing": (fixed("model=path", "model.path=nowhere"), ["nowhere", "got nothing", "model.path"]),
    "model without config": (model_folder({"model.safetensors": b""}), ["config.json", "model.path"]),
    "model without weights": (model_folder({"config.json": QWEN}), ["*.safetensors", "got none"]),
    "another architecture": (
        model_folder({"config.json": LLAMA, "model.safetensors": b""}),
        ["Qwen2", "got 'llama'"],
    ),
    "pickled weights only": (
        model_folder({"config.json": QWEN, "pytorch_model.bin": b""}),
        ["safetensors", "pytorch_model.bin", "run code"],
    ),
    "damaged weights": (
        model_folder({"config.json": QWEN, "model.safetensors": b"xx", "tokenizer.json": b"{}"}),
        ["Expected a loadable Qwen model"],
    ),
    "model without tokenizer": (
        model_folder({"config.json": QWEN, "model.safetensors": b""}),
        ["tokenizer.json", "got none"],
    ),
    "unknown target module": (
        fixed("adapter.target_modules=[nothing]", "data.customers=400"),
        ["adapter.target_modules", "['nothing']", "q_proj"],
    ),
    "resume with overrides": (fixed("resume=somewhere", "banks=3"), ["resume", "banks=3"]),
    "resume of nothing": (fixed("resume=nowhere"), ["nowhere", "config.yaml"]),
}


@pytest.mark.parametrize(("make", "fragments"), TABLE.values(), ids=TABLE.keys())
def test_bad_input_is_refused_in_plain_words(
    make: Make,
    fragments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = make(tmp_path)
    if not any(override.startswith("resume=") for override in overrides):
        overrides.append("output=results")
    assert main(["simulate", *overrides]) == 2
    message = capsys.readouterr().err
    for fragment in fragments:
        assert fragment in message
    assert "Traceback" not in message
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("holding", ["config.yaml", "letter.txt"])
def test_an_output_folder_that_holds_something_is_left_alone(
    holding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / holding).write_text("here before")
    assert main(["simulate", f"output={tmp_path}", "data.customers=400"]) == 2
    message = capsys.readouterr().err
    assert "new or empty folder" in message
    assert ("resume=" in message) == (holding == "config.yaml")
    assert [path.name for path in tmp_path.iterdir()] == [holding]


@pytest.mark.parametrize(
    ("words", "fragments"),
    [([], ["usage: fedbank", "simulate", "report"]), (["--help"], ["usage: fedbank"]), (["--version"], ["fedbank 0."])],
)
def test_help_needs_no_command(words: list[str], fragments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert all(fragment in shown for fragment in fragments)


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 2
    assert "got 'train'" in capsys.readouterr().err
