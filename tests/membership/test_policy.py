"""What a bank agrees to, what it refuses, and that no value from outside can loosen it."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import pytest

import fedbank_client.membership_commands as client
from fedbank.errors import ConfigError, FedBankError, PrivacyError, UpdateError
from fedbank_client.home import Home
from fedbank_client.policy import ANY, TEMPLATE, CampaignOffer, Policy, PolicyError, read_policy

NOON = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
MODEL = "ab" * 32
OFFER = CampaignOffer("spring", 4.0, 1e-5, "customer", 16, MODEL, 100, "plain")
POLICY = Policy(
    max_epsilon_per_campaign=4.0,
    max_epsilon_total=8.0,
    delta=1e-5,
    unit="customer",
    max_adapter_rank=16,
    max_steps_per_round=100,
    base_model_digests=(MODEL,),
    hours=None,
    zone="UTC",
    accept_plain_updates=True,
)


def test_an_offer_at_every_limit_is_accepted() -> None:
    POLICY.check(OFFER, NOON)
    POLICY.check(replace(OFFER, mode="secure", epsilon=0.1, rank=1), NOON)


NUMBERS = (math.nan, math.inf, -math.inf, -1.0, 0, 0.0, -0.0, True, "1", None, [1], 10**400)
WRONG: list[tuple[str, object]] = [
    *[(name, value) for name in ("epsilon", "delta", "rank", "steps_per_round") for value in NUMBERS],
    ("epsilon", 4.0001),
    ("delta", 1.1e-5),
    ("unit", "record"),
    ("unit", "Customer"),
    ("unit", None),
    ("unit", ["customer"]),
    ("rank", 17),
    ("rank", 8.0),
    ("steps_per_round", 101),
    ("steps_per_round", 1.0),
    ("base_model_digest", "cd" * 32),
    ("base_model_digest", MODEL.upper()),
    ("base_model_digest", None),
    ("base_model_digest", (MODEL,)),
    ("mode", "open"),
    ("mode", None),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda value: repr(value)[:20])
def test_no_value_loosens_the_policy(name: str, value: object) -> None:
    changed: dict[str, Any] = {name: value}
    with pytest.raises(PolicyError, match="nothing was sent") as refused:
        POLICY.check(replace(OFFER, **changed), NOON)
    said = str(refused.value)
    assert said.count(". ") == 0 and said.endswith("sent.") and "\n" not in said
    assert isinstance(refused.value, PrivacyError)


@pytest.mark.parametrize(
    ("change", "offer", "words"),
    [
        ({"max_epsilon_total": 3.0}, {}, "at most 3"),
        ({"accept_plain_updates": False}, {}, "secure aggregation"),
        ({"base_model_digests": ()}, {}, "none at all"),
        ({"base_model_digests": ANY}, {"base_model_digest": "anything"}, "SHA-256 of a base model"),
        ({"hours": (time(22), time(6))}, {}, "a time from 22:00 to 06:00 UTC, .* got '12:00'"),
    ],
)
def test_a_refusal_says_expected_and_got(change: dict[str, Any], offer: dict[str, Any], words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        replace(POLICY, **change).check(replace(OFFER, **offer), NOON)


def test_what_a_bank_opens_is_open() -> None:
    replace(POLICY, unit="record").check(replace(OFFER, unit="record"), NOON)
    replace(POLICY, unit="record").check(OFFER, NOON)
    replace(POLICY, base_model_digests=ANY).check(replace(OFFER, base_model_digest="cd" * 32), NOON)
    replace(POLICY, accept_plain_updates=False).check(replace(OFFER, mode="secure"), NOON)


@pytest.mark.parametrize(
    ("hours", "zone", "at", "is_open"),
    [
        ((22, 6), "UTC", "2026-06-01T22:00:00+00:00", True),
        ((22, 6), "UTC", "2026-06-01T21:59:59+00:00", False),
        ((22, 6), "UTC", "2026-06-01T05:59:59+00:00", True),
        ((22, 6), "UTC", "2026-06-01T06:00:00+00:00", False),
        ((8, 18), "UTC", "2026-06-01T08:00:00+00:00", True),
        ((8, 18), "UTC", "2026-06-01T18:00:00+00:00", False),
        ((22, 6), "Asia/Shanghai", "2026-06-01T15:00:00+00:00", True),
        ((22, 6), "Asia/Shanghai", "2026-06-01T03:00:00+00:00", False),
        ((22, 6), "Europe/Berlin", "2026-06-01T20:30:00+00:00", True),  # summer time
        ((22, 6), "Europe/Berlin", "2026-12-01T20:30:00+00:00", False),
        ((22, 6), "Europe/Berlin", "2026-06-01T22:30:00+02:00", True),
    ],
)
def test_training_hours_are_the_banks_own(hours: tuple[int, int], zone: str, at: str, is_open: bool) -> None:
    policy = replace(POLICY, hours=(time(hours[0]), time(hours[1])), zone=zone)
    assert policy.is_open(datetime.fromisoformat(at)) is is_open


def test_a_time_without_a_zone_is_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="time zone"):
        replace(POLICY, hours=(time(22), time(6))).is_open(datetime(2026, 1, 1))


def test_the_ledger_gets_the_policys_limits() -> None:
    budget = POLICY.budget()
    assert (budget.max_epsilon_total, budget.max_epsilon_per_campaign, budget.delta) == (8.0, 4.0, 1e-5)


def test_a_new_banks_policy_refuses_until_the_bank_decides(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(TEMPLATE)
    policy = read_policy(path)
    for mode in ("plain", "secure"):
        with pytest.raises(PolicyError, match=r"none at all"):
            policy.check(replace(OFFER, mode=mode), NOON)
    assert len(policy.warnings()) == 2


def edit(path: Path, line: str) -> Policy:
    key = line.split(":")[0]
    kept = [text for text in TEMPLATE.splitlines() if not text.startswith(f"{key}:")]
    path.write_text("\n".join([*kept, line]) + "\n")
    return read_policy(path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("max_epsilon_total: 0", "above 0"),
        ("max_epsilon_total: -3", "above 0"),
        ("max_epsilon_total: .inf", "above 0"),
        ("max_epsilon_per_campaign: .nan", "above 0"),
        ("max_epsilon_per_campaign: true", "above 0"),
        ("max_epsilon_per_campaign: '4'", "above 0"),
        ("max_epsilon_per_campaign:", "nothing"),
        ("delta: 1", "between 0 and 1"),
        ("delta: 9.9e-15", "at least 1e-14"),
        ("unit: person", "customer or record"),
        ("unit: [customer]", "customer or record"),
        ("max_adapter_rank: 0", "whole number from 1"),
        ("max_adapter_rank: 8.5", "whole number"),
        ("max_steps_per_round: true", "whole number"),
        ("base_model_digests: [abc]", "64 hex digits"),
        ("base_model_digests: abc", "64 hex digits"),
        ("base_model_digests: [any]", "64 hex digits"),
        (f"base_model_digests: [{'a' * 64}, 3]", "64 hex digits"),
        ("training_hours: 22-6", "22:00-06:00"),
        ("training_hours: 25:00-06:00", "22:00-06:00"),
        ("training_hours: 06:00-06:00", "different times"),
        ("training_hours: 22:00", "22:00-06:00"),
        ("time_zone: Mars/Olympus", "time zone"),
        ("time_zone: ../../etc/passwd", "time zone"),
        ("time_zone: /etc/localtime", "time zone"),
        ("accept_plain_updates: 'yes please'", "true or false"),
        ("accept_plain_updates: 1", "true or false"),
        ("max_epsilon: 8", "Did you mean max_epsilon_total|Did you mean max_epsilon_per_campaign"),
    ],
)
def test_a_mistake_in_policy_yaml_is_named(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        edit(tmp_path / "policy.yaml", line)
    said = str(refused.value)
    assert "policy.yaml" in said and line.split(":")[0] in said


@pytest.mark.parametrize("key", [line.split(":")[0] for line in TEMPLATE.splitlines() if line[:1].isalpha()])
def test_every_line_of_a_policy_is_needed(tmp_path: Path, key: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("\n".join(line for line in TEMPLATE.splitlines() if not line.startswith(f"{key}:")))
    with pytest.raises(ConfigError, match=f"Expected {key} in"):
        read_policy(path)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("delta: 1e-6", "delta", 1e-6),  # text to YAML 1.1, a number to whoever writes it
        ("max_epsilon_total: 3", "max_epsilon_total", 3.0),
        ("base_model_digests: any", "base_model_digests", ANY),
        (f"base_model_digests: ['{MODEL}']", "base_model_digests", (MODEL,)),
        ("training_hours: 22:00-06:30", "hours", (time(22), time(6, 30))),
    ],
)
def test_a_policy_means_what_it_says(tmp_path: Path, line: str, name: str, value: object) -> None:
    policy = edit(tmp_path / "policy.yaml", line)
    assert getattr(policy, name) == value
    assert set(policy.to_dict()) == {text.split(":")[0] for text in TEMPLATE.splitlines() if text[:1].isalpha()}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "name: value"),
        (b"- a\n- b\n", "name: value"),
        (b"a: &x 1\nb: *x\n", "alias"),
        (b"unit: customer\nunit: record\n", "a name twice"),
        (b"? [a, b]\n: 1\n", "no text"),
        (b"unit: !!python/object/apply:os.system [id]\n", "line 1"),
        (b"unit: 'a\n", "line"),
        (b"\xff\xfe\x00", "readable"),
        (b"[" * 5000, "readable"),
        (b"unit: " + b"9" * 6000, "readable"),
        (b"#" * 70_000, "at most"),
        (b"unit: 2026-13-45\n", "readable"),
    ],
)
def test_a_file_that_is_no_plain_yaml_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        read_policy(path)
    with pytest.raises(ConfigError, match="got none"):
        read_policy(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"campaign":"x"}',
        b" " * 70_000,
        b"\xff",
        b'{"epsilon":' + b"9" * 5000 + b"}",
    ],
)
def test_a_file_that_is_no_offer_is_refused(content: bytes) -> None:
    with pytest.raises(UpdateError, match="Expected an offer"):
        CampaignOffer.from_json(content)


def test_the_policy_command_shows_and_checks(
    enrol_bank: Callable[..., Home], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = enrol_bank()
    where = ["--dir", str(home.folder)]
    names = CampaignOffer.__slots__
    offer = tmp_path / "offer.json"
    offer.write_text(json.dumps({name: getattr(OFFER, name) for name in names}))
    assert client.policy_command(["show", *where]) == 0
    assert "max_epsilon_total: 8.0" in capsys.readouterr().out
    assert client.policy_command(["check", *where, "--offer", str(offer)]) == 2
    assert "fail  Expected of campaign 'spring'" in capsys.readouterr().out
    text = home.policy.read_text().replace("accept_plain_updates: false", "accept_plain_updates: true")
    home.policy.write_text(text.replace("base_model_digests: []", "base_model_digests: any"))
    assert client.policy_command(["check", *where, "--offer", str(offer), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["refusal"] is None and len(said["warnings"]) == 1 and "any" in said["warnings"][0]
    assert client.policy_command(["check", *where]) == 0
    assert "is understood" in capsys.readouterr().out
    offer.write_text("{")
    with pytest.raises(FedBankError):
        client.policy_command(["check", *where, "--offer", str(offer)])
