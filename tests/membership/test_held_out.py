"""No held-out customer is ever trained on: told by what the base model reads while gradients are taken."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from fedbank.adapter.state import initial_state
from fedbank.adapter.update import RoundRequest
from fedbank.config import load_campaign, load_client, load_simulate, to_yaml
from fedbank.data.encode import EncodedUnits
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.privacy.noise import RandomStream
from fedbank.proposal import PROPOSAL, Proposal, pack
from fedbank.sealing.envelope import seal
from fedbank.sealing.keys import SigningKey
from fedbank.training.local import train_round
from fedbank_client.customers import load_training_units
from fedbank_client.desk import Desk
from fedbank_client.home import Home
from fedbank_client.loading import load_resources
from fedbank_client.terms import local_settings
from fedbank_server.consortium import Files
from fedbank_server.members import active_members
from fedbank_simulations.campaigns import CENTRALIZED, FEDERATED, LOCAL, NONPRIVATE
from fedbank_simulations.resident import resident

CUSTOMERS = 50
EVERYBODY = [
    "privacy.epsilon=4",
    "training.rounds=1",
    "training.local_steps=2",
    "training.expected_batch=1000",
    "training.records_per_customer=9",
]
"""Terms under which every customer is in every step, with all records."""


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Fifty customers with one to three records; every question names its customer."""
    rows = [
        {"question": f"I am no {n:03d}, {r}", "answer": f"Yes {n:03d}.", "customer": f"c{n}", "key": "cards"}
        for n in range(CUSTOMERS)
        for r in range(1 + n % 3)
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@contextmanager
def _read_by(model: torch.nn.Module, tokenizer: Any) -> Iterator[set[int]]:
    """The numbers of the customers whose records the model reads with gradients on."""
    seen: set[int] = set()

    def note(layer: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            for row in inputs[0].tolist():
                seen.update(int(number) for number in re.findall(r"no (\d{3}),", tokenizer.decode(row)))

    hook = model.get_input_embeddings().register_forward_pre_hook(note)  # type: ignore[operator]
    try:
        yield seen
    finally:
        hook.remove()


def _numbers(data: EncodedUnits, tokenizer: Any) -> set[int]:
    texts = (tokenizer.decode(data.record(record).tolist()) for record in range(data.num_records))
    return {int(number) for text in texts for number in re.findall(r"no (\d{3}),", text)}


@pytest.fixture
def proposal(coordinator: Path, member: Home) -> tuple[bytes, Any]:
    """A signed proposal as it arrives at a bank, and the tensors of its adapter."""
    name, key = active_members(coordinator).consortium, SigningKey.load(Files(coordinator).coordinator_key)
    proposal = Proposal.of(name, base_digest(tiny_folder()), load_campaign(EVERYBODY))
    content = pack(Files(coordinator).roster.read_bytes(), proposal)
    return seal(PROPOSAL, "coordinator", {"consortium": name}, content, key), proposal.adapter_spec(tiny_folder())


@pytest.fixture
def member(make_member: Callable[..., Home]) -> Home:
    """A bank that has joined and takes part in anything."""
    home = make_member()
    text = home.policy.read_text("utf-8").replace("accept_plain_updates: false", "accept_plain_updates: true")
    home.policy.write_text(re.sub(r"base_model_digests:.*", "base_model_digests: any", text), "utf-8")
    return home


@pytest.mark.parametrize(("fraction", "seed"), [(0.1, 0), (0.4, 3)])
def test_a_bank_trains_on_all_its_customers_but_those_it_evaluates_on(
    member: Home, proposal: tuple[bytes, Any], records: Path, fraction: float, seed: int
) -> None:
    words = ["data=jsonl", f"data.path={records}", f"held_out_fraction={fraction}", f"seed={seed}"]
    config, said = load_client([*words, "model=tiny"]), []
    held = {int(unit.customer[1:]) for unit in load_training_units(config.data, fraction, seed=seed)[1]}
    resources = load_resources(config, said.append)
    assert said[0] == f"{CUSTOMERS - len(held)} customers to train on, {len(held)} held out."
    desk = Desk(member, config, resources, lambda *entry: None)
    content, spec = proposal
    accepted = desk.consider(content)
    request = RoundRequest(accepted.campaign, 1, accepted.plan_digest, initial_state(spec, seed=0)).to_bytes()
    with _read_by(resources.base.model, resources.tokenizer) as seen:
        desk.open_bank().train(request)
    assert 1 <= len(held) < CUSTOMERS / 2
    assert seen == set(range(CUSTOMERS)) - held


def test_a_simulation_trains_on_nobody_who_is_held_out_or_public(records: Path) -> None:
    words = ["data=jsonl", f"data.path={records}", "banks=2", "model=tiny", "held_out.fraction=0.3", *EVERYBODY]
    home = resident(to_yaml(load_simulate([*words, "held_out.public_fraction=0.1", "held_out.max_records=1000"])))
    banks, everybody = home.scenario.banks, set(range(CUSTOMERS))
    held = {name: _numbers(bank.held_out, home.tokenizer) for name, bank in banks.items()}
    apart = set.union(*held.values(), _numbers(home.scenario.public, home.tokenizer))
    assert all(len(numbers) >= 4 for numbers in held.values()) and len(apart) < CUSTOMERS / 2
    trained = {}
    for campaign in (FEDERATED, NONPRIVATE, CENTRALIZED, *(f"{LOCAL}/{name}" for name in banks)):
        settings = local_settings(home.config.training)
        with _read_by(home.base.model, home.tokenizer) as seen:
            for name, one in home.members(campaign).items():
                stream, start = RandomStream.derived(campaign, name), initial_state(home.model.spec, seed=0)
                train_round(home.model, one.data, one.plan, settings, start, stream=stream, device=home.base.device)
        trained[campaign] = seen
    assert trained[FEDERATED] == trained[NONPRIVATE] == trained[CENTRALIZED] == everybody - apart
    alone = [trained[f"{LOCAL}/{name}"] for name in banks]
    assert set.union(*alone) == everybody - apart and not set.intersection(*alone)
