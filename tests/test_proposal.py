"""A campaign's proposal and a bank's acceptance: what is sent is what is read, and nothing else is accepted."""

import json
import subprocess
import sys
from typing import Any

import pytest

from fedbank.adapter.lora import AdaptedModel, LoraSettings
from fedbank.config import load_campaign
from fedbank.errors import FedBankError
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.model.loading import ModelSpec, load_base_model
from fedbank.proposal import Acceptance, Proposal

ACCEPTANCE = Acceptance("bank-a", "spring-0123456789abcdef", "d" * 64, "{}", 1200, 8.0)


def propose(*overrides: str) -> Proposal:
    return Proposal.of("alliance", base_digest(tiny_folder()), load_campaign(list(overrides)))


def test_a_proposal_is_read_as_it_was_sent() -> None:
    sent = propose("name=spring", "privacy.epsilon=3", "training.rounds=2")
    read = Proposal.from_bytes(sent.to_bytes())
    assert read == sent and read.campaign == sent.campaign and read.campaign.startswith("spring-")


@pytest.mark.parametrize("other", ["privacy.epsilon=4", "training.learning_rate=1", "adapter.rank=4", "seed=1"])
def test_other_terms_are_another_campaign(other: str) -> None:
    assert propose(other).campaign != propose().campaign


@pytest.mark.parametrize("own", ["training.micro_batch=2", "training.per_example=opacus", "patience_s=2", "attempts=9"])
def test_what_cannot_change_the_result_is_not_proposed(own: str) -> None:
    assert propose(own).campaign == propose().campaign


def test_both_sides_mean_the_same_adapter() -> None:
    proposal = propose("adapter.rank=4", "adapter.last_layers=1", "aggregation=fedavg")
    modules = tuple(proposal.terms.adapter.target_modules)
    settings = LoraSettings(4, 16.0, modules, "AB", 1)
    assert AdaptedModel(load_base_model(ModelSpec("tiny")).model, settings).spec == proposal.adapter_spec(tiny_folder())


def test_an_adapter_that_does_not_fit_is_a_plain_error() -> None:
    with pytest.raises(FedBankError, match=r"adapter\.rank of at most"):
        propose("adapter.rank=500").adapter_spec(tiny_folder())


def _edited(path: str, value: object) -> bytes:
    fields: Any = json.loads(propose().to_bytes())
    place = fields
    *sections, last = path.split(".")
    for section in sections:
        place = place[section]
    place[last] = value
    return json.dumps(fields).encode()


HOSTILE = {
    "no-json": b"propose!",
    "a-list": b"[]",
    "nested": b"[" * 10_000,
    "huge": b" " * 100_000,
    "other-format": _edited("format", "fedbank-proposal/2"),
    "extra-field": _edited("command", "rm"),
    "name-not-text": _edited("name", 7),
    "name-is-a-path": _edited("name", "../../up"),
    "name-is-long": _edited("name", "x" * 500),
    "digest-is-none": _edited("base_digest", "any"),
    "terms-not-fields": _edited("terms", []),
    "epsilon-text": _edited("terms.privacy.epsilon", "eight"),
    "epsilon-infinite": _edited("terms.privacy.epsilon", float("inf")),
    "environment": _edited("terms.privacy.unit", "${oc.env:HOME}"),
    "steps-negative": _edited("terms.training.local_steps", -1),
    "own-business": _edited("terms.training.micro_batch", 10**9),
    "modules-in-a-list": _edited("terms.adapter.target_modules", [["q_proj"]]),
    "modules-in-an-object": _edited("terms.adapter.target_modules", [{"q_proj": 1}]),
    "half-a-character": _edited("consortium", "\ud800"),
    "epsilon-of-400-digits": _edited("terms.privacy.epsilon", 10**400),
    "epsilon-beyond-all": _edited("terms.privacy.epsilon", 7.5).replace(b"7.5", b"1e400"),
    "a-name-twice": _edited("terms.seed", 0).replace(b'"seed": 0', b'"seed": 0, "seed": 0'),
    "length": _edited("terms.max_length", 10**9),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_proposal_is_a_plain_error(content: bytes) -> None:
    with pytest.raises(FedBankError, match="Expected"):
        Proposal.from_bytes(content)


def test_an_acceptance_is_read_as_it_was_sent() -> None:
    assert Acceptance.from_bytes(ACCEPTANCE.to_bytes()) == ACCEPTANCE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("declared_size", 0),
        ("declared_size", True),
        ("epsilon", "8"),
        ("epsilon", float("nan")),
        ("bank", None),
        ("loss", 0.5),
        ("plan_digest", "\ud800"),
        ("declared_size", 10**400),
    ],
)
def test_an_acceptance_with_anything_else_is_refused(field: str, value: object) -> None:
    fields = json.loads(ACCEPTANCE.to_bytes()) | {field: value}
    with pytest.raises(FedBankError, match="Expected"):
        Acceptance.from_bytes(json.dumps(fields).encode())


def test_a_coordinator_proposes_without_torch() -> None:
    code = "import sys, fedbank.proposal; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
