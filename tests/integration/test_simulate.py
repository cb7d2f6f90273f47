"""Whole runs of ``fedbank simulate`` in processes of their own, with the real apps, model and data."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file

from fedbank.cli import main
from fedbank.durable import read_lines
from fedbank.model.loading import ModelSpec, load_base_model

pytestmark = pytest.mark.slow

SMALL = [
    "banks=3",
    "data.customers=900",
    "training.rounds=4",
    "training.local_steps=2",
    "training.expected_batch=24",
    "held_out.max_records=120",
    "held_out.monitored_records=60",
    "simulation.threads=1",
]
ALONE = ["comparisons.local_only=false", "comparisons.federated_nonprivate=false", "comparisons.centralized=false"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "fedbank.cli", "simulate", *words]


def run(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), env=ENVIRONMENT, capture_output=True, text=True, check=check, timeout=600)


def adapter(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def charges(folder: Path) -> dict[str, list[int]]:
    """Rounds charged, by bank, in the order of the ledger."""
    return {
        path.parent.name: [json.loads(line)["round"] for line in read_lines(path)[1:]]  # the first line is a heading
        for path in sorted(folder.glob("banks/*/ledger.jsonl"))
    }


def wait_for_round(folder: Path, number: int, process: subprocess.Popen[str]) -> None:
    """Return as soon as a bank has been charged for round ``number``: that round is then going on."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if any(number in rounds for rounds in charges(folder).values()):
            return
        time.sleep(0.005)
    raise AssertionError(f"round {number} was not seen; exit code {process.poll()}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One complete run with all comparisons."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(*SMALL, f"output={folder}", "--json")


def test_json_is_results_json_and_nothing_else(whole: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, process = whole
    printed = json.loads(process.stdout)
    assert printed == json.loads((folder / "results.json").read_text("utf-8"))
    assert "round 4/4" in process.stderr


def test_results_are_complete(whole: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = whole
    results = json.loads((folder / "results.json").read_text("utf-8"))
    for name in ("base", "local_only", "federated", "federated_nonprivate", "centralized"):
        assert set(results["evaluation"][name]) == {"nll", "exact_match", "n"}
        assert results["evaluation"][name]["n"] > 50
    assert results["rounds"] == 4
    for section in ("banks", "privacy", "per_bank"):
        assert set(results[section]) == {"bank-1", "bank-2", "bank-3"}
    for spent in results["privacy"].values():
        assert {"epsilon", "delta", "unit", "noise_multiplier", "sampling_prob", "steps"} <= set(spent)
        assert 7.5 < spent["epsilon"] <= 8.0
        assert spent["steps"] == 8 and spent["unit"] == "customer"
    assert all(results[key] > 0 for key in ("bytes_up", "bytes_down", "seconds", "peak_rss_bytes"))


def test_one_line_a_round_and_a_page(whole: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = whole
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2, 3, 4]
    spent = [line["epsilon"]["bank-1"] for line in lines]
    assert spent == sorted(spent) and spent[0] == 0 and spent[-1] <= 8.0
    assert (folder / "config.yaml").exists()
    assert "<svg" in (folder / "report.html").read_text("utf-8")
    for name in ("federated_nonprivate", "centralized", "local_only/bank-2"):
        assert len((folder / "comparisons" / name / "rounds.jsonl").read_text().splitlines()) == 5


def test_peft_loads_the_adapter_and_it_changes_the_logits(whole: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = whole
    base = load_base_model(ModelSpec("tiny", device="cpu")).model
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = base(tokens).logits
        adapted = PeftModel.from_pretrained(base, str(folder / "adapter"))
        after = adapted(tokens).logits
    assert float((after - before).abs().max()) > 1e-3
    card = (folder / "adapter" / "README.md").read_text("utf-8")
    assert "epsilon = " in card and "fedbank/tiny-qwen3" in card and "is not covered" in card


def test_every_bank_was_charged_once_a_round(whole: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = whole
    assert charges(folder) == {f"bank-{number}": [1, 2, 3, 4] for number in (1, 2, 3)}


def test_an_output_that_holds_this_run_is_refused_and_resuming_it_does_nothing(
    whole: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, first = whole
    again = run(*SMALL, f"output={folder}", check=False)
    assert again.returncode == 2 and f"resume={folder}" in again.stderr
    resumed = run(f"resume={folder}", "--json")
    assert json.loads(resumed.stdout) == json.loads(first.stdout)


@pytest.mark.parametrize("at_once", [1, 3], ids=["one after the other", "side by side"])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_an_interrupted_run_continues_to_the_same_adapter_and_is_charged_once(
    sent: signal.Signals, at_once: int, whole: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(*SMALL, *ALONE, f"output={folder}", f"simulation.banks_at_once={at_once}"),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_round(folder, 3, process)
    process.send_signal(sent)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if sent == signal.SIGKILL else 130)
    if sent == signal.SIGINT:
        assert "Traceback" not in printed
        assert re.search(r"resume=\S+", printed)
    assert not (folder / "results.json").exists()
    run(f"resume={folder}")
    uninterrupted, _ = whole
    for name, tensor in adapter(uninterrupted).items():
        np.testing.assert_array_equal(adapter(folder)[name], tensor, err_msg=name)
    assert charges(folder) == charges(uninterrupted)
    rounds = [json.loads(line)["round"] for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert rounds == [0, 1, 2, 3, 4]


TAMPERED = {
    "rounds.jsonl cut in half": (lambda folder: cut(folder / "rounds.jsonl"), ["rounds.jsonl", "0 to 4", "backup"]),
    "rounds.jsonl with a strange line": (
        lambda folder: (folder / "rounds.jsonl").open("a").write("garbage\n"),
        ["line 6", "rounds.jsonl"],
    ),
    "state.safetensors lost": (lambda folder: (folder / "state.safetensors").unlink(), ["rounds.jsonl", "0 to 0"]),
    "state.safetensors damaged": (lambda folder: flip(folder / "state.safetensors"), ["damaged", "state.safetensors"]),
    "a ledger lost": (
        lambda folder: (folder / "banks/bank-2/ledger.jsonl").unlink(),
        ["ledger of bank-2", "got 0", "older copy"],
    ),
    "a ledger edited": (
        lambda folder: (folder / "banks/bank-2/ledger.jsonl").write_text("{}\n"),
        ["line 1", "ledger", "must not be edited"],
    ),
    "config.yaml emptied": (lambda folder: (folder / "config.yaml").write_text(""), ["config.yaml", "Restore"]),
    "config.yaml nonsense": (lambda folder: (folder / "config.yaml").write_text("a: [{"), ["config.yaml", "Restore"]),
    "config.yaml with another plan": (
        lambda folder: (folder / "config.yaml").write_text(
            (folder / "config.yaml").read_text().replace("rounds: 4", "rounds: 6")
        ),
        ["another plan"],
    ),
}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(("tamper", "fragments"), TAMPERED.values(), ids=TAMPERED.keys())
def test_a_run_whose_files_were_lost_or_edited_is_not_continued(
    tamper: Callable[[Path], object],
    fragments: list[str],
    whole: tuple[Path, subprocess.CompletedProcess[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The run's own books must agree before anything is trained or reported on top of them."""
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    (folder / "results.json").unlink()
    tamper(folder)
    assert main(["simulate", f"resume={folder}"]) == 2
    message = capsys.readouterr().err
    for fragment in fragments:
        assert fragment in message
    assert not (folder / "results.json").exists()


def test_a_crash_before_the_report_loses_nothing(
    whole: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """A round that was committed but not recorded is recorded on resuming, with what it cost."""
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    (folder / "results.json").unlink()
    lines = (folder / "rounds.jsonl").read_text().splitlines(keepends=True)
    (folder / "rounds.jsonl").write_text("".join(lines[:-1]))
    assert main(["simulate", f"resume={folder}"]) == 0
    again = (folder / "rounds.jsonl").read_text().splitlines()
    assert json.loads(again[-1]) == json.loads(lines[-1])
    first, second = (json.loads((path / "results.json").read_text("utf-8")) for path in (whole[0], folder))
    for key in ("evaluation", "privacy", "bytes_up", "bytes_down", "adapter_sha256", "examples"):
        assert first[key] == second[key], key


def test_an_empty_sample_without_privacy_is_a_round_like_any_other(tmp_path: Path) -> None:
    run(
        *SMALL,
        *ALONE,
        "privacy=off",
        "training.expected_batch=1",
        "training.local_steps=1",
        f"output={tmp_path / 'run'}",
    )


def test_a_diverged_run_still_writes_strict_json(tmp_path: Path) -> None:
    process = run(*SMALL, *ALONE, "training.learning_rate=1e37", f"output={tmp_path / 'run'}", "--json", check=False)
    if process.returncode == 2:
        assert "diverged" in process.stderr
    else:
        json.loads(process.stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_ray_and_inline_agree(whole: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(*SMALL, *ALONE, f"output={folder}", "simulation.backend=ray")
    inline, _ = whole
    for name, tensor in adapter(inline).items():
        np.testing.assert_allclose(adapter(folder)[name], tensor, rtol=0, atol=1e-5, err_msg=name)
    assert charges(folder) == charges(inline)


def test_privacy_off_says_what_it_means(tmp_path: Path) -> None:
    process = run(*SMALL, *ALONE, "privacy=off", "training.rounds=1", f"output={tmp_path / 'run'}")
    assert "PRIVACY IS OFF" in process.stdout
    assert "NONE: trained without differential privacy" in process.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text("utf-8"))
    assert results["private"] is False
    assert all(spent["epsilon"] is None for spent in results["privacy"].values())
    assert "No privacy." in (tmp_path / "run" / "adapter" / "README.md").read_text("utf-8")
    assert charges(tmp_path / "run") == {}


def test_a_sweep_and_its_report(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    settings = [word for word in SMALL if not word.startswith("training.rounds")]
    words = ["-m", *settings, *ALONE, "training.rounds=1", "privacy.epsilon=2,8", "aggregation=ffa,fedsvd"]
    words.append(f"output={folder}")
    process = run(*words)
    assert "4 runs" in process.stdout
    runs = sorted(path for path in folder.iterdir() if path.is_dir())
    assert len(runs) == 4 and runs[0].name.startswith("000_")
    (runs[2] / "results.json").unlink()
    again = run(*words)
    assert again.stdout.count("finished; nothing to do") == 3
    assert (runs[2] / "results.json").exists()
    subprocess.run([sys.executable, "-m", "fedbank.cli", "report", str(folder)], env=ENVIRONMENT, check=True)
    page = (folder / "sweep.html").read_text("utf-8")
    assert "<svg" in page and "fedsvd" in page and "ffa" in page
