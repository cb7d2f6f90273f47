"""Every choice in conf/ composes, is complete, and survives being written and read again."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fedbank.config import (
    config_dir,
    expand_sweep,
    load_campaign,
    load_client,
    load_serve,
    load_simulate,
    parse_simulate,
    parse_terms,
    to_yaml,
)
from fedbank.errors import ConfigError

SERVED = ("access", "engine")
"""Groups of the service alone."""
PATHS = sorted(config_dir().glob("*/*.yaml"))
CHOICES = [f"{path.parent.name}={path.stem}" for path in PATHS if path.parent.name not in SERVED]
SERVE_CHOICES = [f"{path.parent.name}={path.stem}" for path in PATHS if path.parent.name in (*SERVED, "model")]
NEEDS = {"data=jsonl": ["data.path=x"], "data=csv": ["data.path=x"], "data=ask_cfpb": ["data.path=x"]}
NEEDS |= {"engine=openai": ["engine.url=http://127.0.0.1:8000"]}
NEEDS |= {"access=provider": ["access.issuer=https://login", "access.jwks=keys.json"]}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_round_trips(choice: str) -> None:
    config = load_simulate([choice, *NEEDS.get(choice, [])])
    assert parse_simulate(to_yaml(config)) == config


@pytest.mark.parametrize("choice", SERVE_CHOICES)
def test_every_choice_of_the_service_composes(choice: str) -> None:
    group, _, name = choice.partition("=")
    section = getattr(load_serve([choice, *NEEDS.get(choice, [])]), group)
    assert getattr(section, "name", None) or section.kind == name


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


def _terms() -> dict[str, Any]:
    config = load_campaign([])
    return {
        **{name: asdict(getattr(config, name)) for name in ("adapter", "privacy", "training", "aggregation")},
        "max_length": 64,
        "seed": 0,
    }


def test_every_command_has_settings_of_its_own() -> None:
    assert load_campaign(["name=spring", "privacy.epsilon=3"]).privacy.epsilon == 3
    assert load_client(["data=csv", "data.path=my file.csv"]).data.path == "my file.csv"
    with pytest.raises(ConfigError, match=r"Did you mean 'attempts'\? See fedbank server run --help"):
        load_campaign(["atempts=3"])


WRONG_SERVICES = {
    "host=localhost": "an address of this machine",
    "port=65536": "65535",
    "engine.precision=int2": "fp32, fp16, bf16, int8 or int4, got 'int2'",
    "engine=openai": r"Expected engine\.url=URL",
    "engine.url=http://name:word@server": "without a password",
    "access=provider": r"Expected access\.issuer",
    "access.issuer=https://login": "Expected access=provider",
    "access.role_claim=a..b": "the path of a claim",
    "tls.key=key.pem": r"tls\.certificate and tls\.key together",
    "tls.client_ca=ca.pem": r"tls\.certificate and tls\.key together",
    "limits.max_answer_tokens=4096": "grow in this order",
    "limits.answer_tokens=2000": "grow in this order",
    "records.purge_at=24:00": "a time of day",
    "rollout.shadow_share=0": "above 0",
    "cach.enabled=false": "Did you mean 'cache.enabled'",
}


@pytest.mark.parametrize(("override", "said"), WRONG_SERVICES.items())
def test_settings_of_the_service_that_cannot_be_are_told(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_serve([override])


@pytest.mark.parametrize("name", ["redis.url", "redis.key", "records.database", "records.key", "engine.key", "tls.key"])
def test_an_address_where_a_secret_file_belongs_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(ConfigError, match="to be a file, got an address") as refused:
        load_serve([f"{name}=redis://:a-password@host/0"])
    assert "a-password" not in str(refused.value)


def test_terms_that_another_party_sent_are_read_as_written() -> None:
    terms = parse_terms(_terms())
    assert (terms.privacy.epsilon, terms.training.rounds, terms.max_length) == (8.0, 12, 64)


@pytest.mark.parametrize(
    ("section", "setting", "value"),
    [
        ("adapter", "rank", "${oc.env:HOME}"),
        ("adapter", "rank", 10**9),
        ("adapter", "rank", None),
        ("privacy", "epsilon", -1.0),
        ("privacy", "epsilon", None),
        ("privacy", "epsilon", float("inf")),
        ("privacy", "unit", "nobody"),
        ("training", "learning_rate", float("nan")),
        ("training", "rounds", "many"),
        ("training", "_target_", "os.system"),
        ("aggregation", "rule", "max"),
    ],
)
def test_terms_that_hold_anything_else_are_refused(section: str, setting: str, value: object) -> None:
    terms = _terms()
    terms[section][setting] = value
    with pytest.raises(ConfigError, match="Expected"):
        parse_terms(terms)


def test_terms_cannot_ask_for_the_banks_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIT", "record")
    terms = _terms()
    terms["privacy"]["unit"] = "${oc.env:UNIT}"
    with pytest.raises(ConfigError, match="plain values"):
        parse_terms(terms)


@pytest.mark.parametrize("terms", [None, [], {}, "all", {"adapter": {}}, {**_terms(), "more": 1}])
def test_what_is_no_terms_at_all_is_refused(terms: object) -> None:
    with pytest.raises(ConfigError, match="Expected"):
        parse_terms(terms)
