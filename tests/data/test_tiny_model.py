"""The base model that ships with FedBank: a real Qwen3, small, offline, ignorant of the consortium's tariff."""

from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from fedbank.data.inquiry import Inquiry
from fedbank.data.synthetic import SyntheticSpec, generate
from fedbank.data.synthetic_language import LANGUAGES, answer, consortium_tariff, facts, question

FOLDER = Path(str(resources.files("fedbank"))) / "assets" / "tiny_qwen3"


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)


@cache
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(FOLDER, local_files_only=True, dtype=torch.float32).eval()


def conversation(asked: str, said: str = "") -> list[dict[str, str]]:
    turns = [{"role": "user", "content": asked}]
    return [*turns, {"role": "assistant", "content": said}] if said else turns


def one_of_each() -> list[Inquiry]:
    """Every fact of the true tariff in both languages, in three wordings."""
    rng = np.random.default_rng(0)
    return [
        Inquiry(
            question=question(fact, language, rng.integers(2**31, size=5).tolist()),
            answer=answer(fact, language, value),
            customer="",
            key=fact.product,
        )
        for _ in range(3)
        for language in LANGUAGES
        for fact, value in zip(facts(), consortium_tariff(), strict=True)
    ]


def answered(record: Inquiry) -> tuple[float, bool]:
    """Mean cross-entropy of the standard answer, and whether greedy decoding would give it."""
    turns = conversation(record.question, record.answer)
    prompt = tokenizer().apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
    tokens = torch.tensor(tokenizer().apply_chat_template(turns, return_dict=False))
    assert tokens[: len(prompt)].tolist() == list(prompt)
    with torch.no_grad():
        logits = model()(input_ids=tokens[None, :-1]).logits[0, len(prompt) - 1 :]
    targets = tokens[len(prompt) :]
    return functional.cross_entropy(logits, targets).item(), bool((logits.argmax(-1) == targets).all())


def test_it_is_a_small_qwen3() -> None:
    assert model().config.model_type == "qwen3"
    assert type(model()).__name__ == "Qwen3ForCausalLM"
    assert 1_000_000 <= sum(parameter.numel() for parameter in model().parameters()) <= 6_000_000
    assert len(tokenizer()) == model().config.vocab_size


def test_the_folder_is_small_and_holds_no_code_or_pickle() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 3_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".jinja"}


@pytest.mark.parametrize(
    "text",
    ["金卡的年费是多少？", "What is the annual fee?", "谢谢🙏👩‍💻!", "a\tb\n\nc  d", "Ünïcödé 1,234.50 €", "龘靐"],
)
def test_the_tokenizer_round_trips(text: str) -> None:
    assert tokenizer().decode(tokenizer()(text).input_ids, skip_special_tokens=True) == text


def test_digits_stand_alone() -> None:
    assert len(tokenizer()("12345").input_ids) == 5


def test_the_special_tokens() -> None:
    assert tokenizer().eos_token == "<|im_end|>"
    assert tokenizer().pad_token_id not in (None, tokenizer().eos_token_id)
    assert model().generation_config.eos_token_id == tokenizer().eos_token_id
    assert model().config.pad_token_id == tokenizer().pad_token_id


def test_the_chat_template() -> None:
    turns = conversation("年费？", "10元。")
    assert tokenizer().apply_chat_template(turns, tokenize=False) == "<|user|>年费？<|assistant|>10元。<|im_end|>"
    asked = tokenizer().apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "<|user|>年费？<|assistant|>"


def test_records_are_short() -> None:
    lengths = [
        len(tokenizer().apply_chat_template(conversation(record.question, record.answer), return_dict=False))
        for record in generate(SyntheticSpec(customers=200), seed=2)
    ]
    assert max(lengths) <= 48


def test_it_knows_the_language_but_not_the_tariff() -> None:
    results = [answered(record) for record in one_of_each()]
    assert np.mean([matched for _, matched in results]) <= 0.15
    assert np.mean([loss for loss, _ in results]) <= 0.5


def test_greedy_generation_ends_with_a_well_formed_answer() -> None:
    prompt = tokenizer().apply_chat_template(
        conversation("请问，金卡的年费是多少？"), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    produced = model().generate(**prompt, max_new_tokens=24)[0, prompt["input_ids"].shape[1] :]
    said = tokenizer().decode(produced, skip_special_tokens=True)
    assert produced[-1].item() == tokenizer().eos_token_id
    assert said.startswith("金卡的年费为")
    assert said.endswith("元。")
