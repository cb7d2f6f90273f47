"""Of how many customers a bank has, what leaves tells two digits: its neighbours in size send the same bytes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedbank.config import load_campaign, load_client
from fedbank.data.inquiry import Inquiry
from fedbank.data.units import Unit
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.model.loading import ModelSpec, load_base_model, load_tokenizer
from fedbank.privacy.plan import PrivacyPlan, Sampling, declared_size
from fedbank.proposal import PROPOSAL, Proposal, pack
from fedbank.sealing.envelope import seal
from fedbank.sealing.keys import SigningKey
from fedbank_client.desk import Desk, Resources
from fedbank_client.home import Home
from fedbank_server.consortium import Files
from fedbank_server.members import active_members

SIZES = [1, 9, 10, 42, 99, 100, 101, 109, 110, 119, 120, 999, 1000, 1001, 1099, 1100, 9_999, 54_321, 10**6]


def _two_digits(customers: int) -> int:
    """By its text: two digits, and zeros after them."""
    text = str(customers)
    return int(text[:2].ljust(len(text), "0"))


@pytest.mark.parametrize("customers", SIZES)
def test_a_declared_size_has_two_digits(customers: int) -> None:
    assert declared_size(customers) == _two_digits(customers) <= customers


@pytest.mark.parametrize("customers", [100, 999, 1001, 9_999])
def test_all_sizes_with_the_same_two_digits_have_the_same_plan(customers: int) -> None:
    """Sampling probability, divisor, delta and noise: nothing in the plan comes from the true number."""
    step = 10 ** (len(str(customers)) - 2)
    first = customers // step * step
    plans = set()
    for true in {first, first + 1, first + step // 2, first + step - 1}:
        sampling = Sampling.for_population(true, 32, 2, 40)
        plans.add(PrivacyPlan.calibrate(4.0, None, sampling, 1.0, true).to_json())
    assert len(plans) == 1
    beyond = Sampling.for_population(first + step, 32, 2, 40)
    assert beyond != Sampling.for_population(first, 32, 2, 40)


def _units(customers: int) -> list[Unit]:
    inquiry = Inquiry(question="Where is my card?", answer="On its way.", customer="", key="cards", language="en")
    return [Unit(f"c{n}", "cards", (replace(inquiry, customer=f"c{n}"),) * (1 + n % 3)) for n in range(customers)]


@pytest.fixture(scope="module")
def base() -> Resources:
    spec = ModelSpec("tiny")
    return Resources(load_base_model(spec), base_digest(tiny_folder()), load_tokenizer(spec), [])


@pytest.fixture
def member(make_member: Callable[..., Home]) -> Home:
    """A bank that has joined."""
    return make_member()


@pytest.fixture
def proposal(coordinator: Path, member: Home) -> bytes:
    """A signed proposal as it arrives at a bank."""
    name = active_members(coordinator).consortium
    terms = load_campaign(["training.rounds=2", "training.local_steps=2", "training.expected_batch=8"])
    key = SigningKey.load(Files(coordinator).coordinator_key)
    content = pack(Files(coordinator).roster.read_bytes(), Proposal.of(name, base_digest(tiny_folder()), terms))
    return seal(PROPOSAL, "coordinator", {"consortium": name}, content, key)


@pytest.fixture
def accept(base: Resources, member: Home, proposal: bytes) -> Callable[[int], tuple[bytes, Any]]:
    """The bytes of the acceptance of a bank with so many customers, and what its evidence says."""
    allowed = {"max_epsilon_per_campaign": "8.0", "max_epsilon_total": "10.0", "accept_plain_updates": "true"}
    allowed["base_model_digests"] = f"[{base.base_digest}]"
    lines = member.policy.read_text("utf-8").splitlines()
    kept = [f"{name}: {allowed[name]}" if (name := line.partition(":")[0]) in allowed else line for line in lines]
    member.policy.write_text("\n".join(kept) + "\n", "utf-8")

    def make(customers: int) -> tuple[bytes, Any]:
        notes: list[tuple[str, str, str]] = []
        resources = replace(base, units=_units(customers))
        desk = Desk(member, load_client([]), resources, lambda *entry: notes.append(entry))
        accepted = desk.consider(proposal)
        assert accepted.declared_size == _two_digits(customers)
        return accepted.to_bytes(), notes

    return make


@pytest.mark.parametrize(("customers", "same"), [(100, 109), (120, 129), (230, 239)])
def test_an_acceptance_is_the_same_for_banks_of_nearly_the_same_size(
    accept: Callable[[int], tuple[bytes, Any]], customers: int, same: int
) -> None:
    """Its bytes, and the evidence that may be handed over; the next two digits are others."""
    assert accept(customers) == accept(same)
    assert accept(same)[0] != accept(same + 1)[0]
