"""``fedbank client serve plan``: what fits, with its figures, before anything is loaded."""

import json
import subprocess
import sys

import pytest

from fedbank.cli import main
from fedbank_client.serving.plan_command import CARDS, SHAPES

LARGE = ["client", "serve", "plan", "--card", "rtx4090"]


def planned(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, object]:
    assert main(["client", "serve", "plan", "--json", *words]) == code
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_one_plan_is_the_arithmetic_of_the_planner(capsys: pytest.CaptureFixture[str]) -> None:
    """Qwen2.5-7B in BF16 on an RTX 4090: 14.14 GB read per token, 71.3 tokens/s at best, 56 KiB of cache a token."""
    words = ["--card", "rtx4090", "model=qwen2_5_7b", "engine.precision=bf16", "--context", "384", "--sequences", "32"]
    plan = planned(capsys, *words)
    assert plan["fits"] is True and plan["model"] == "qwen2_5_7b" and plan["kv_bytes_per_token"] == 56 * 1024
    assert plan["ceiling_tokens_per_s"] == pytest.approx(71.3, abs=0.1)
    assert plan["adapter_bytes"] == 0  # vLLM keeps adapters apart
    merged = [*words[:2], "engine=transformers", *words[2:], "--adapted-share", "0.25"]
    assert planned(capsys, *merged)["adapter_bytes"] == pytest.approx(0.25 * 2 * SHAPES["qwen2_5_7b"].linear)


def test_a_person_reads_the_same_with_units(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LARGE, "model=qwen3_8b", "engine.precision=int4", "--context", "2048"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("qwen3_8b fits.\nWeights in int4: 5.68 GiB;")
    assert "sequences of 2048 tokens at once" in said and "At batch 1 at most 207.7 tokens/s in int4" in said


def test_what_cannot_fit_ends_with_2_and_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LARGE, "model=qwen2_5_7b", "engine.precision=fp32"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and "28.37 GiB" in told.err and "got 21.59 GiB (90% of 23.99 GiB)" in told.err
    nothing = planned(capsys, "--memory-gib", "0.5", "--bandwidth-gbs", "20", code=2)
    plans = nothing["plans"]
    assert isinstance(plans, list) and {plan["fits"] for plan in plans} == {False}
    assert main(["client", "serve", "plan", "--memory-gib", "0.5", "--bandwidth-gbs", "20"]) == 2
    assert "Choose a smaller model" in capsys.readouterr().out


def test_without_a_precision_there_is_a_table_of_models_and_precisions(capsys: pytest.CaptureFixture[str]) -> None:
    plans = planned(capsys, "--card", "rtx4090")["plans"]
    assert isinstance(plans, list)
    assert {(plan["model"], plan["precision"]) for plan in plans} == {
        (model, precision) for model in SHAPES for precision in ("fp32", "fp16", "bf16", "int8", "int4")
    }
    fits = {(plan["model"], plan["precision"]): plan["fits"] for plan in plans}
    assert fits["qwen2_5_7b", "bf16"] and not fits["qwen2_5_7b", "fp32"]
    assert main(LARGE) == 0
    table = capsys.readouterr().out
    assert "What fits in 24.0 GiB" in table and "too large" in table and "< 71.3" in table


def test_a_named_model_or_precision_narrows_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    plans = planned(capsys, "--card", "h100", "engine.precision=int8")["plans"]
    assert isinstance(plans, list) and [plan["model"] for plan in plans] == list(SHAPES)
    plans = planned(capsys, "--card", "l4", "model=tiny")["plans"]
    assert isinstance(plans, list) and {plan["model"] for plan in plans} == {"tiny"} and len(plans) == 5
    assert {plan["context"] for plan in plans} == {512}  # what the tiny model was made for


def test_a_card_is_named_or_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["client", "serve", "plan"]) == 2
    assert "Expected --card NAME (rtx3090, rtx4090" in capsys.readouterr().err
    slower = planned(capsys, "--card", "h100", "--bandwidth-gbs", "100", "model=qwen3_8b", "engine.precision=bf16")
    assert slower["ceiling_tokens_per_s"] == pytest.approx(1e11 / SHAPES["qwen3_8b"].read_bytes("bf16"))
    assert all(card.memory > 20 << 30 and 3e11 <= card.bandwidth <= 5e12 for card in CARDS.values())


@pytest.mark.parametrize(
    "words",
    [["--memory-gib", "0"], ["--context", "-3"], ["--sequences", "x"], ["--adapted-share", "2"], ["--card", "x"]],
)
def test_numbers_that_are_none_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*LARGE, *words])
    assert left.value.code == 2


def test_planning_needs_neither_torch_nor_a_web_framework() -> None:
    script = "import sys\nfrom fedbank.cli import main\nmain(['client', 'serve', 'plan', '--card', 'l4', '--json'])\n"
    script += "sys.exit(bool({'torch', 'transformers', 'fastapi', 'uvicorn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0
