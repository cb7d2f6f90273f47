"""What a bank agrees to, and whole campaigns with everything but the network: real keys, policies and files."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from rich.console import Console

from fedbank.adapter.state import digest, initial_state
from fedbank.adapter.update import RoundRequest
from fedbank.config import load_campaign, load_client, load_simulate
from fedbank.data.units import split_units
from fedbank.errors import FedBankError, PrivacyError, RunError, UpdateError
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.model.loading import ModelSpec, load_base_model, load_tokenizer
from fedbank.privacy.ledger import LEDGER, read_ledger
from fedbank.privacy.noise import RandomStream
from fedbank.proposal import PROPOSAL, Proposal, pack
from fedbank.sealing.envelope import seal
from fedbank.sealing.keys import SigningKey
from fedbank.training.unit_engine import UnitEngine
from fedbank_client.desk import Desk, Resources
from fedbank_client.home import TRAINING, Home
from fedbank_client.resident import bank_app
from fedbank_server.consortium import Files
from fedbank_server.members import active_members
from fedbank_server.observer import Observer
from fedbank_server.run import Prepared, prepare, run_campaign
from fedbank_simulations.inline import PARTITION_ID, InlineGrid
from fedbank_simulations.run import simulate
from fedbank_simulations.scenario import _rng, divide

SETTINGS = ("training.rounds=2", "training.local_steps=2", "training.expected_batch=8")
NIGHT = datetime(2026, 3, 1, 23, 0, tzinfo=UTC)


class Watcher(Observer):
    """Sees nothing."""


@pytest.fixture(scope="module")
def resources() -> Resources:
    config = load_simulate(["data.customers=120", "banks=2"])
    shares, _ = divide(config)
    base, spec = load_base_model(ModelSpec("tiny")), ModelSpec("tiny")
    return Resources(base, base_digest(tiny_folder()), load_tokenizer(spec), shares["bank-1"])


@pytest.fixture
def desk_of(resources: Resources) -> Callable[..., Desk]:
    """A desk whose policy allows campaigns on the tiny model; policy lines and resources can be replaced."""

    def make(
        home: Home, *, policy: dict[str, str] | None = None, notes: list[Any] | None = None, **options: Any
    ) -> Desk:
        allowed = {
            "max_epsilon_per_campaign": "8.0",
            "max_epsilon_total": "10.0",
            "accept_plain_updates": "true",
            "base_model_digests": f"[{resources.base_digest}]",
        } | (policy or {})
        lines = home.policy.read_text("utf-8").splitlines()
        kept = [f"{name}: {allowed[name]}" if (name := line.partition(":")[0]) in allowed else line for line in lines]
        home.policy.write_text("\n".join(kept) + "\n", "utf-8")

        def note(*entry: str) -> None:
            if notes is not None:
                notes.append(entry)

        own = replace(options.pop("resources", resources), base=load_base_model(ModelSpec("tiny")))
        return Desk(home, load_client([]), own, note, **options)

    return make


@pytest.fixture
def propose(coordinator: Path) -> Callable[..., bytes]:
    """A signed proposal as it arrives at a bank."""

    def make(
        *overrides: str, key: SigningKey | None = None, consortium: str | None = None, base: str | None = None
    ) -> bytes:
        name = active_members(coordinator).consortium
        digest_ = base or base_digest(tiny_folder())
        proposal = Proposal.of(consortium or name, digest_, load_campaign([*SETTINGS, *overrides]))
        own = key or SigningKey.load(Files(coordinator).coordinator_key)
        content = pack(Files(coordinator).roster.read_bytes(), proposal)
        return seal(PROPOSAL, "coordinator", {"consortium": name}, content, own)

    return make


class Banks:
    """One app a node; what a grid of several processes is to the coordinator."""

    def __init__(self, desks: list[Desk]) -> None:
        self._apps = [bank_app(desk) for desk in desks]

    def __call__(self, message: Message, context: Context) -> Message:
        reply: Message = self._apps[int(context.node_config[PARTITION_ID])](message, context)
        return reply


def grid_of(desks: list[Desk]) -> InlineGrid:
    app: Any = Banks(desks)
    return InlineGrid(app, {number + 1: {PARTITION_ID: number} for number in range(len(desks))})


def run(prepared: Prepared, desks: list[Desk]) -> Any:
    return run_campaign(prepared, grid_of(desks), Watcher(), lambda: False, lambda _: None)


def test_a_proposal_that_the_policy_allows_is_accepted_again_and_again(
    make_member: Callable[..., Home], desk_of: Callable[..., Desk], propose: Callable[..., bytes]
) -> None:
    notes: list[Any] = []
    desk = desk_of(make_member(), notes=notes)
    first = desk.consider(propose())
    assert desk.consider(propose()) == first
    assert (first.bank, first.epsilon) == ("bank-a", 8.0)
    assert json.loads(first.plan)["digest"] == first.plan_digest
    assert [entry[0] for entry in notes] == ["campaign-accepted"] * 2


def test_a_bank_tries_its_machine_before_it_trains_and_computes_customers_singly_where_it_must(
    make_member: Callable[..., Home],
    desk_of: Callable[..., Desk],
    propose: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The seeded machine lets a customer's bits depend on the batch, and training's own trial does not see it."""
    monkeypatch.setattr(UnitEngine, "_is_exact", lambda *given: True)
    home, said = make_member(), list[str]()
    desk_of(home).consider(propose())
    desk = desk_of(home, say=said.append)
    embedding = desk._resources.base.model.model.embed_tokens
    hook = embedding.register_forward_hook(lambda module, given, out: out + 1e-6 * out.mean())
    try:
        desk.prepare()
        desk.consider(propose())
        desk.prepare()
    finally:
        hook.remove()
    assert len(said) == 1 and "one at a time" in said[0], "told once, at the start"
    assert desk._current is not None
    settings = desk._current[1]._participation.settings
    assert (settings.micro_batch, settings.num_steps) == (1, 2)


def test_a_bank_without_a_campaign_has_nothing_to_try(
    make_member: Callable[..., Home], desk_of: Callable[..., Desk]
) -> None:
    said = list[str]()
    desk_of(make_member(), say=said.append).prepare()
    assert said == []


REFUSED = {
    "epsilon": ({}, ["privacy.epsilon=9"], PrivacyError, "epsilon"),
    "policy-epsilon": ({"max_epsilon_per_campaign": "1.0"}, [], PrivacyError, "epsilon"),
    "policy-plain": ({"accept_plain_updates": "false"}, [], PrivacyError, "secure aggregation"),
    "policy-model": ({"base_model_digests": "[]"}, [], PrivacyError, "base"),
    "policy-rank": ({"max_adapter_rank": "4"}, [], PrivacyError, "rank"),
    "policy-steps": ({"max_steps_per_round": "1"}, [], PrivacyError, "steps_per_round"),
    "no-privacy": ({}, ["privacy=off"], PrivacyError, "epsilon"),
    "record-unit": ({}, ["privacy.unit=record"], PrivacyError, "customer"),
}


@pytest.mark.parametrize(("policy", "overrides", "error", "match"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.fault(21)
def test_the_policy_wins_and_nothing_is_kept(
    make_member: Callable[..., Home],
    desk_of: Callable[..., Desk],
    propose: Callable[..., bytes],
    policy: dict[str, str],
    overrides: list[str],
    error: type[FedBankError],
    match: str,
) -> None:
    home, notes = make_member(), []
    desk = desk_of(home, policy=policy, notes=notes)
    with pytest.raises(error, match=match):
        desk.consider(propose(*overrides))
    assert [entry[0] for entry in notes] == ["campaign-refused"]
    assert not (home.folder / "campaigns").exists()
    with pytest.raises(UpdateError, match="got none yet"):
        desk.open_bank()


@pytest.mark.parametrize(
    "options",
    [{"key": SigningKey.derived("somebody")}, {"consortium": "Another"}, {"base": "0" * 64}],
    ids=["not-the-coordinator", "another-consortium", "another-model"],
)
def test_a_proposal_of_somebody_or_something_else_is_refused(
    make_member: Callable[..., Home], desk_of: Callable[..., Desk], propose: Callable[..., bytes], options: Any
) -> None:
    with pytest.raises(UpdateError, match="Expected"):
        desk_of(make_member()).consider(propose(**options))


def test_what_was_agreed_survives_a_restart_and_a_policy_that_became_stricter_wins_at_the_next_round(
    make_member: Callable[..., Home], desk_of: Callable[..., Desk], propose: Callable[..., bytes]
) -> None:
    home = make_member()
    desk_of(home).consider(propose())
    again = desk_of(home)
    assert again.open_bank().name == "bank-a"
    desk_of(home, policy={"max_epsilon_per_campaign": "2.0"})
    with pytest.raises(PrivacyError, match="epsilon"):
        again.open_bank().train(b"")


def test_a_delta_that_the_plan_chooses_is_held_against_the_policy(
    make_member: Callable[..., Home], desk_of: Callable[..., Desk], propose: Callable[..., bytes]
) -> None:
    with pytest.raises(PrivacyError, match="delta"):
        desk_of(make_member(), policy={"delta": "1.0e-12"}).consider(propose())


def test_nothing_is_computed_for_a_proposal_that_the_policy_refuses(
    make_member: Callable[..., Home], desk_of: Callable[..., Desk], propose: Callable[..., bytes], resources: Resources
) -> None:
    """A coordinator must not be able to keep a bank busy with what it would refuse anyway."""

    class Untouched(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            raise AssertionError("the customers were looked at")

    desk = desk_of(make_member(), resources=replace(resources, units=Untouched()))
    with pytest.raises(PrivacyError, match="epsilon"):
        desk.consider(propose("privacy.epsilon=1000", "training.rounds=100000"))


def _requests(desk: Desk, propose: Callable[..., bytes], *words: str) -> list[bytes]:
    """Accept a campaign; the requests of its rounds, as the coordinator makes them."""
    accepted = desk.consider(propose(*words))
    spec = Proposal.of("x", "0" * 64, load_campaign([*SETTINGS, *words])).adapter_spec(tiny_folder())
    adapter = initial_state(spec, seed=0)
    plan, before = accepted.plan_digest, {1: "", 2: digest(adapter)}
    return [RoundRequest(accepted.campaign, n, plan, adapter, before[n]).to_bytes() for n in (1, 2)]


@pytest.mark.fault(37)
def test_a_total_limit_that_was_lowered_holds_at_the_next_round(
    make_member: Callable[..., Home], desk_of: Callable[..., Desk], propose: Callable[..., bytes]
) -> None:
    home = make_member()
    desk = desk_of(home)
    for request in _requests(desk, propose, "privacy.epsilon=4"):
        desk.open_bank().train(request)
    first, second = _requests(desk, propose, "name=second", "privacy.epsilon=4")
    desk.open_bank().train(first)
    text = home.policy.read_text("utf-8")
    home.policy.write_text(text.replace("max_epsilon_total: 10.0", "max_epsilon_total: 4.5"), "utf-8")
    with pytest.raises(PrivacyError, match=r"4\.5"):
        desk.open_bank().train(second)
    assert len(read_ledger(home.folder / TRAINING / LEDGER).charges) == 3


def test_a_restart_with_another_base_model_trains_nothing(
    make_member: Callable[..., Home], desk_of: Callable[..., Desk], propose: Callable[..., bytes], resources: Resources
) -> None:
    home = make_member()
    desk_of(home).consider(propose())
    with pytest.raises(RunError, match="base model"):
        desk_of(home, resources=replace(resources, base_digest="f" * 64)).open_bank()


def test_rounds_keep_to_the_hours_of_the_policy_and_agreements_do_not(
    make_member: Callable[..., Home], desk_of: Callable[..., Desk], propose: Callable[..., bytes]
) -> None:
    policy = {"training_hours": '"01:00-05:00"'}
    desk = desk_of(make_member(), policy=policy, now=lambda: NIGHT)
    desk.consider(propose())
    with pytest.raises(PrivacyError, match="01:00"):
        desk.open_bank().train(b"")


def test_an_earlier_proposal_cannot_take_a_bank_out_of_the_campaign_that_it_trains_in(
    make_member: Callable[..., Home], desk_of: Callable[..., Desk], propose: Callable[..., bytes]
) -> None:
    """Whoever recorded one could otherwise send it again whenever he likes."""
    home, notes = make_member(), []
    desk = desk_of(home, notes=notes)
    first, second = propose("privacy.epsilon=2"), propose("name=second", "privacy.epsilon=3")
    desk.consider(first)
    desk.consider(second)
    desk.consider(first)  # nothing was trained: the coordinator may change its mind
    (request, _) = _requests(desk, propose, "name=second", "privacy.epsilon=3")
    desk.open_bank().train(request)
    with pytest.raises(UpdateError, match=r"Expected to go on with second-.*, got campaign-"):
        desk.consider(first)
    assert notes[-1][0] == "campaign-refused"
    desk.consider(second)
    assert desk.open_bank().train(request).campaign.startswith("second-"), "the same campaign goes on"
    assert desk.consider(propose("name=third", "privacy.epsilon=2")).campaign.startswith("third-")


def test_a_campaign_that_an_earlier_version_began_does_not_go_on(
    make_member: Callable[..., Home], desk_of: Callable[..., Desk], propose: Callable[..., bytes]
) -> None:
    """It was named by 16 digits. The bank says so in a sentence, trains nothing, and takes part in the next one."""
    home = make_member()
    desk = desk_of(home)
    campaigns, campaign = home.folder / "campaigns", desk.consider(propose("privacy.epsilon=2")).campaign
    former = campaign[: -64 + 16]
    (campaigns / campaign).rename(campaigns / former)
    (campaigns / "current").write_text(former)
    again = desk_of(home)
    with pytest.raises(RunError, match=rf"the terms of {former} in .*, got those of {campaign}\. .* cannot go on"):
        again.open_bank()
    assert again.consider(propose("name=second", "privacy.epsilon=2")).campaign.startswith("second-")
    assert again.open_bank().name == home.bank


def test_the_evidence_of_a_refusal_holds_our_own_words_only(
    make_member: Callable[..., Home], desk_of: Callable[..., Desk], propose: Callable[..., bytes], resources: Resources
) -> None:
    """What a library says when it fails may hold sizes of customers' records: it stays in the private log."""
    notes: list[Any] = []

    class Failing:
        def __getattr__(self, name: str) -> Any:
            raise ValueError("expected 96 tokens, got the 4711 of record 12")

    desk = desk_of(make_member(), notes=notes, resources=replace(resources, tokenizer=Failing()))
    with pytest.raises(ValueError, match="4711"):
        desk.consider(propose("privacy.epsilon=2"))
    assert notes[-1][0] == "campaign-refused" and notes[-1][2] == "ValueError"


def test_a_campaign_whose_adapter_was_received_does_not_begin_again(
    make_member: Callable[..., Home], desk_of: Callable[..., Desk], propose: Callable[..., bytes]
) -> None:
    home = make_member()
    desk = desk_of(home)
    ended, later = propose("privacy.epsilon=2"), propose("name=second", "privacy.epsilon=2")
    over = home.folder / "campaigns" / desk.consider(ended).campaign / "adapter"
    over.mkdir()
    desk.consider(ended)
    desk.consider(later)
    with pytest.raises(UpdateError, match="whose adapter this bank has received"):
        desk.consider(ended)


@pytest.fixture
def two_banks(make_member: Callable[..., Home]) -> Iterator[list[Home]]:
    yield [make_member("bank-1"), make_member("bank-2")]


def test_a_campaign_from_proposal_to_receipts(
    coordinator: Path, two_banks: list[Home], desk_of: Callable[..., Desk]
) -> None:
    notes: list[Any] = []
    desks = [desk_of(home, notes=notes) for home in two_banks]
    prepared = prepare(coordinator, load_campaign([*SETTINGS, "patience_s=20"]))
    state = run(prepared, desks)
    assert state.round == 2
    mine = (prepared.kept.folder / "adapter" / "adapter_model.safetensors").read_bytes()
    for home in two_banks:
        (theirs,) = home.folder.glob("campaigns/*/adapter/adapter_model.safetensors")
        assert theirs.read_bytes() == mine
        charged = [charge.round for charge in read_ledger(home.folder / TRAINING / LEDGER).charges]
        assert charged == [1, 2]
    assert [entry[0] for entry in notes].count("update-sent") == 4
    assert [entry[1] for entry in notes if entry[0] == "result-received"] == [state.digest()] * 2
    assert run(prepared, desks).digest() == state.digest(), "running it again trains nothing"
    assert len(read_ledger(two_banks[0].folder / TRAINING / LEDGER).charges) == 2


def test_too_few_banks_that_accept_are_a_plain_error_and_nothing_begins(
    coordinator: Path, two_banks: list[Home], desk_of: Callable[..., Desk]
) -> None:
    desks = [desk_of(two_banks[0]), desk_of(two_banks[1], policy={"max_epsilon_per_campaign": "1.0"})]
    prepared = prepare(coordinator, load_campaign([*SETTINGS, "patience_s=2"]))
    with pytest.raises(RunError, match=r"Expected 2 banks to accept the campaign, got \['bank-1'\].*privacy rules"):
        run(prepared, desks)
    assert not prepared.kept.began


def test_a_simulation_and_a_deployment_of_the_same_campaign_make_the_same_adapter(
    coordinator: Path, two_banks: list[Home], desk_of: Callable[..., Desk], resources: Resources, tmp_path: Path
) -> None:
    """Given the same noise, which only code can inject: the apps are the same."""
    comparisons = [f"comparisons.{name}=false" for name in ("local_only", "federated_nonprivate", "centralized")]
    words = ["data.customers=120", "banks=2", "simulation.banks_at_once=1", *SETTINGS, *comparisons]
    config = load_simulate([*words, f"output={tmp_path / 'run'}"])
    results = simulate(config, Console(quiet=True))
    assert results is not None

    rng = _rng(config, "held-out")
    trained = {
        name: split_units(units, config.held_out.fraction, rng=rng)[0] for name, units in divide(config)[0].items()
    }
    desks = [
        desk_of(
            home,
            resources=replace(resources, units=trained[home.bank]),
            stream_for_round=lambda number, bank=home.bank: RandomStream.derived(
                config.seed, "federated", bank, number
            ),
        )
        for home in two_banks
    ]
    state = run(prepare(coordinator, load_campaign([*SETTINGS, "patience_s=20"])), desks)
    assert state.digest() == results["adapter_sha256"]
