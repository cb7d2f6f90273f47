"""The synthetic inquiries: reproducible, bilingual, skewed by customer, one script per fact."""

import importlib
import os
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from fedbank.data.synthetic import SyntheticSpec, generate, keys
from fedbank.data.synthetic_language import (
    LANGUAGES,
    answer,
    consortium_tariff,
    facts,
    phrases,
    products,
    question,
    random_tariff,
)
from fedbank.errors import ConfigError

POPULATION = generate(SyntheticSpec(customers=2000), seed=7)


def test_equal_arguments_give_equal_records_and_another_seed_gives_others() -> None:
    assert generate(SyntheticSpec(customers=50), seed=3) == generate(SyntheticSpec(customers=50), seed=3)
    assert generate(SyntheticSpec(customers=50), seed=3) != generate(SyntheticSpec(customers=50), seed=4)


def test_records_do_not_depend_on_the_hash_seed() -> None:
    program = (
        "import hashlib; from fedbank.data.synthetic import SyntheticSpec, generate; "
        "print(hashlib.sha256(repr(generate(SyntheticSpec(customers=40), seed=5)).encode()).hexdigest())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_every_customer_asks_and_the_law_of_record_counts_is_skewed() -> None:
    counts = np.array(list(Counter(record.customer for record in POPULATION).values()))
    assert len(counts) == 2000
    assert counts.min() == 1
    assert counts.max() <= 20
    assert 2.7 < counts.mean() < 3.3
    assert np.median(counts) < counts.mean()


def test_max_records_is_a_bound() -> None:
    records = generate(SyntheticSpec(customers=300, max_records=2), seed=1)
    assert set(Counter(record.customer for record in records).values()) == {1, 2}


def test_both_languages_and_all_ten_keys_occur() -> None:
    assert len(keys()) == 10
    assert {record.key for record in POPULATION} == set(keys())
    assert {record.language for record in POPULATION} == set(LANGUAGES)
    for record in POPULATION:
        assert record.key.endswith("/" + record.language)
        assert any("一" <= sign <= "鿿" for sign in record.answer) == (record.language == "zh")


def test_a_customer_has_one_language_and_mostly_one_product() -> None:
    keys_of: dict[str, list[str]] = defaultdict(list)
    for record in POPULATION:
        keys_of[record.customer].append(record.key)
    assert all(len({key.split("/")[1] for key in asked}) == 1 for asked in keys_of.values())
    busy = [asked for asked in keys_of.values() if len(asked) >= 8]
    shares = [Counter(asked).most_common(1)[0][1] / len(asked) for asked in busy]
    assert 0.55 < np.mean(shares) < 0.68


@pytest.mark.parametrize("seed", [0, 1])
def test_there_is_exactly_one_answer_per_fact_and_language(seed: int) -> None:
    answers = {record.answer for record in generate(SyntheticSpec(customers=3000), seed=seed)}
    script = {
        answer(fact, language, value)
        for fact, value in zip(facts(), consortium_tariff(), strict=True)
        for language in LANGUAGES
    }
    assert answers == script
    assert len(script) == len(LANGUAGES) * len(facts())


def test_questions_are_varied() -> None:
    assert len({record.question for record in POPULATION}) > 0.9 * len(POPULATION)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_wording_renders_without_a_leftover_placeholder(language: str) -> None:
    words = phrases(language)
    for drawn in range(max(len(words.openings), len(words.cores), len(words.closings))):
        for fact in facts():
            rendered = question(fact, language, [drawn] * 5)
            assert "{" not in rendered
            assert rendered == rendered.strip()
            assert "  " not in rendered


def test_the_tariff_is_well_formed() -> None:
    assert 30 <= len(facts()) <= 50
    assert len(products()) == 5
    for fact, value in zip(facts(), consortium_tariff(), strict=True):
        assert value in fact.ladder
        assert len(fact.ladder) == len(set(fact.ladder)) >= 8


def test_a_question_never_carries_a_value() -> None:
    assert not any(sign.isdigit() for record in POPULATION for sign in record.question)


def test_random_tariffs_agree_with_the_true_one_only_by_chance() -> None:
    rng = np.random.default_rng(11)
    tariffs = np.array([random_tariff(rng) for _ in range(2000)])
    chance = np.array([1 / len(fact.ladder) for fact in facts()])
    agreement = (tariffs == np.array(consortium_tariff())).mean(axis=0)
    spread = np.sqrt(chance * (1 - chance) / len(tariffs))
    assert (np.abs(agreement - chance) < 4.5 * spread).all()


def test_the_pretraining_text_holds_the_true_answers_only_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    pretraining = importlib.import_module("simulations.pretrain_tiny")
    true = {
        answer(fact, language, value)
        for fact, value in zip(facts(), consortium_tariff(), strict=True)
        for language in LANGUAGES
    }
    answers = [said for _, said in islice(pretraining.documents(np.random.default_rng(1)), 6000)]
    share = np.mean([said in true for said in answers])
    chance = np.mean([1 / len(fact.ladder) for fact in facts()])
    assert abs(share - chance) < 0.02


@pytest.mark.parametrize(
    "wrong", [{"customers": 0}, {"customers": 5, "max_records": 0}, {"customers": 5, "main_share": 1.5}]
)
def test_a_spec_that_describes_no_population_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="Expected"):
        SyntheticSpec(**wrong)  # type: ignore[arg-type]
