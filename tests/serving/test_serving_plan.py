"""The planner against published sizes, the table of the design, and a model that is on disk."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from fedbank.errors import FedBankError, ModelError
from fedbank.model.folder import tiny_folder
from fedbank.serving.engines.plan import GIB, PRECISIONS, Card, Shape, what_fits

RTX4090 = Card(24 * GIB, 1008e9)
QWEN_7B = Shape(32, 4096, 32, 32, 128, 11008, 151936, 8192, tied=False, biased=True, normed=False)
QWEN25_7B = Shape(28, 3584, 28, 4, 128, 18944, 152064, 32768, tied=False, biased=True, normed=False)
QWEN3_8B = Shape(36, 4096, 32, 8, 128, 12288, 151936, 40960, tied=False, biased=False, normed=True)
QWEN25_CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "vocab_size": 152064,
}


@pytest.mark.parametrize(
    ("shape", "read_gb", "ceiling", "ceiling_w4", "kv_kib"),
    [(QWEN_7B, 14.20, 71.0, 219, 512), (QWEN25_7B, 14.14, 71.3, 225, 56), (QWEN3_8B, 15.14, 66.6, 208, 144)],
    ids=["Qwen-7B", "Qwen2.5-7B", "Qwen3-8B"],
)
def test_the_planner_says_what_the_physics_of_a_4090_says(
    shape: Shape, read_gb: float, ceiling: float, ceiling_w4: float, kv_kib: int
) -> None:
    assert shape.read_bytes("fp16") / 1e9 == pytest.approx(read_gb, abs=0.01)
    assert RTX4090.bandwidth / shape.read_bytes("fp16") == pytest.approx(ceiling, abs=0.1)
    assert RTX4090.bandwidth / shape.read_bytes("int4") == pytest.approx(ceiling_w4, abs=0.6)
    assert shape.kv_bytes("bf16") == kv_kib * 1024


@pytest.mark.parametrize(("shape", "published"), [(QWEN25_7B, 7_615_616_512), (QWEN3_8B, 8_190_735_360)])
def test_parameters_are_as_published(shape: Shape, published: int) -> None:
    assert shape.parameters == published


def test_parameters_are_those_in_the_file_on_disk() -> None:
    with (tiny_folder() / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    sizes = [one["shape"] for name, one in header.items() if name != "__metadata__"]
    stored = sum(size[0] * (size[1] if len(size) > 1 else 1) for size in sizes)
    assert Shape.read(tiny_folder()).parameters == stored


def test_a_configuration_is_read_as_it_is_published(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN25_CONFIG))
    assert Shape.read(tmp_path) == QWEN25_7B


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[" * 100_000, '{"model_type": "llama"}', json.dumps(QWEN25_CONFIG | {"vocab_size": -1})]
)
def test_a_configuration_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match="Expected a"):
        Shape.read(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Expected .*config\.json"):
        Shape.read(tmp_path)


def test_what_fits_adds_up_to_what_the_card_has() -> None:
    plan = what_fits(QWEN25_7B, "fp16", RTX4090, context=384, sequences=32, adapted_share=0.0)
    used = plan.weight_bytes + plan.adapter_bytes + plan.other_bytes + plan.cache_tokens * plan.kv_bytes_per_token
    usable = int(RTX4090.memory * RTX4090.share)
    assert usable - plan.kv_bytes_per_token < used <= usable
    assert plan.sequences == plan.cache_tokens // 384 >= 32
    assert "71.3 tokens/s in fp16" in plan.said()
    assert "sequences of 384 tokens" in plan.said()


def test_smaller_precisions_leave_more_room_and_read_less() -> None:
    rows = [
        what_fits(QWEN25_7B, name, Card(80 * GIB, 1008e9), context=1024) for name in ("fp32", "bf16", "int8", "int4")
    ]
    for larger, smaller in pairwise(rows):
        assert smaller.weight_bytes < larger.weight_bytes
        assert smaller.sequences > larger.sequences
        assert smaller.ceiling_tokens_per_s > larger.ceiling_tokens_per_s


def test_what_cannot_fit_is_refused_with_figures() -> None:
    with pytest.raises(FedBankError, match=r"fp32 take 28\.37 GiB.*Choose a smaller"):
        what_fits(QWEN25_7B, "fp32", RTX4090, context=512, adapted_share=0.0)
    with pytest.raises(FedBankError, match="a second release 12"):
        what_fits(QWEN25_7B, "fp16", RTX4090, context=512)  # two merged copies of every linear layer
    most = what_fits(QWEN25_7B, "fp16", RTX4090, context=4096, adapted_share=0.0).sequences
    with pytest.raises(FedBankError, match="the cache"):
        what_fits(QWEN25_7B, "fp16", RTX4090, context=4096, sequences=most + 1, adapted_share=0.0)


def test_more_tokens_than_the_model_was_made_for_are_refused() -> None:
    with pytest.raises(FedBankError, match="at most 32768 tokens"):
        what_fits(QWEN25_7B, "int4", RTX4090, context=32769)


@pytest.mark.parametrize("wrong", [{"context": 0}, {"sequences": 0}, {"adapted_share": 1.5}])
def test_shares_and_numbers_that_are_none_are_a_programmers_error(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares are from"):
        what_fits(QWEN3_8B, PRECISIONS[-1], RTX4090, **{"context": 8, **wrong})  # type: ignore[arg-type]
