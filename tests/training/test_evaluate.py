"""Scores: the exact match is what greedy decoding writes, the likelihood is the bare record's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fedbank.adapter.lora import AdaptedModel
from fedbank.data.encode import EncodedUnits
from fedbank.training.evaluate import Evaluation, evaluate, score_records, summarise

CPU = torch.device("cpu")
ANSWER = 5


def _written(model: AdaptedModel, prompt: list[int]) -> list[int]:
    """What greedy decoding writes, as many tokens as an answer has (its end token is the last of them)."""
    tokens = torch.tensor([prompt])
    with torch.no_grad():
        whole = model.peft_model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=ANSWER,
            min_new_tokens=ANSWER,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return whole[0, len(prompt) :].tolist()


def _encoded(prompts: list[list[int]], answers: list[list[int]]) -> EncodedUnits:
    records = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    starts = np.concatenate([[0], np.cumsum([len(record) for record in records])]).astype(np.int64)
    return EncodedUnits(
        np.concatenate(records).astype(np.int32),
        starts,
        np.array([len(prompt) for prompt in prompts], np.int32),
        np.arange(len(records) + 1),
    )


@pytest.fixture(scope="module")
def model(make_model: Callable[..., AdaptedModel]) -> AdaptedModel:
    return make_model("qwen3")


@pytest.mark.parametrize("batch_size", [1, 3, 128])
def test_exact_match_is_what_greedy_decoding_writes(model: AdaptedModel, batch_size: int) -> None:
    """One reference as decoded, then one with each single token wrong: the first, any in between, and the end."""
    rng = np.random.default_rng(0)
    prompts, answers = [], []
    for length in (4, 9, 14):
        prompt = rng.integers(2, 61, length).tolist()
        right = _written(model, prompt)
        for wrong in (None, *range(ANSWER)):
            answer = list(right)
            if wrong is not None:
                answer[wrong] = (answer[wrong] + 1) % 61
            prompts.append(prompt)
            answers.append(answer)
    expected = [_written(model, prompt) == answer for prompt, answer in zip(prompts, answers, strict=True)]
    assert sum(expected) == 3
    _, exact = score_records(model, _encoded(prompts, answers), device=CPU, batch_size=batch_size)
    assert exact.tolist() == expected


def test_likelihood_is_that_of_each_record_alone_in_the_order_of_the_records(
    model: AdaptedModel, make_units: Callable[..., EncodedUnits]
) -> None:
    data = make_units([3, 1, 2])
    expected = []
    for record in range(6):
        tokens, first = torch.from_numpy(data.record(record).astype(np.int64)), int(data.answer_offsets[record])
        with torch.no_grad():
            logs = model.base(input_ids=tokens[None]).logits[0].log_softmax(-1)
        expected.append(-float(logs[first - 1 : -1].gather(1, tokens[first:, None]).mean()))
    for batch_size in (1, 4, 128):
        nll, _ = score_records(model, data, device=CPU, batch_size=batch_size)
        np.testing.assert_allclose(nll, expected, rtol=1e-5)
    assert evaluate(model, data, device=CPU).nll == pytest.approx(np.mean(expected), rel=1e-5)


def test_summary() -> None:
    scores: Any = np.array([1.0, 2.0, 6.0]), np.array([True, False, False])
    assert summarise(*scores) == Evaluation(3.0, 1 / 3, 3)


def test_a_reference_that_was_cut_is_never_matched(make_model: Callable[..., AdaptedModel]) -> None:
    """Predictions that agree with all that is left of a cut answer are still not the answer."""
    model = make_model()
    prompt = [5, 6, 7]
    with torch.no_grad():
        best = int(model.base(torch.tensor([prompt])).logits[0, -1].argmax())
    for end_token, matched in ((best, True), (best + 1, False), (None, True)):
        data = EncodedUnits(
            np.asarray([*prompt, best], np.int32),
            np.asarray([0, 4]),
            np.asarray([3], np.int32),
            np.asarray([0, 1]),
            end_token,
        )
        _, exact = score_records(model, data, device=torch.device("cpu"))
        assert bool(exact[0]) is matched
