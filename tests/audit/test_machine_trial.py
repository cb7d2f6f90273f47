"""The self-test before a bank trains: batches only where a customer's gradient is its own, to the last bit."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedbank.audit.invariance import SelfTest, run_self_test
from fedbank.errors import RunError
from fedbank.training.local import LocalSettings
from fedbank.training.unit_engine import UnitEngine
from fedbank_client.self_test import MachineTest

CPU = torch.device("cpu")
MODULES = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
ENGINES = ("direct", "opacus")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def embeddings(model: Any, change: Any) -> Iterator[None]:
    """A seeded defect of the machine: what every layer is given is changed by ``change``."""
    hook = model.base.model.embed_tokens.register_forward_hook(lambda module, given, out: change(out))
    try:
        yield
    finally:
        hook.remove()


def mixed(x_NTD: Tensor) -> Tensor:
    """A kernel whose last bits depend on the whole batch: the same again for the same batch."""
    return x_NTD + 1e-6 * x_NTD.mean()


def noisy(x_NTD: Tensor) -> Tensor:
    """A kernel that adds in another order every time."""
    return x_NTD + 1e-6 * torch.rand_like(x_NTD)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("kind", "trainable"), [("qwen2", "AB"), ("qwen3", "B")])
def test_where_a_customer_is_computed_the_same_beside_anybody_batches_stay(make_model, kind, trainable, engine):
    model = make_model(kind, trainable, targets=MODULES)
    found = run_self_test(model, LocalSettings(1, 1.0, micro_batch=32, per_example=engine), CPU)
    assert (found.equal, found.unequal, found.micro_batch) == (True, 0, 32)
    assert found.compositions == 16, "four adapters, three of them adversarial, with four compositions each"
    assert found.sentence() == "Self-test: 16 compositions of customers, equal to the last bit."


@pytest.mark.parametrize("engine", ENGINES)
def test_where_batch_mates_change_a_bit_one_customer_at_a_time_is_computed_and_the_price_is_said(
    make_model, engine, monkeypatch
):
    """Should training's own trial of batches miss it."""
    monkeypatch.setattr(UnitEngine, "_is_exact", lambda *given: True)
    model = make_model("qwen3", targets=MODULES)
    with embeddings(model, mixed):
        found = run_self_test(model, LocalSettings(1, 1.0, micro_batch=32, per_example=engine), CPU)
    assert (found.equal, found.micro_batch) == (False, 1)
    assert found.unequal > 0 and found.seconds_alone > 0 and found.seconds_together > 0
    said = found.sentence()
    assert f"in {found.unequal} of 16 compositions" in said and "one at a time" in said
    assert f"{found.price:.1f} times slower ({found.seconds_alone:.3f} s a customer)" in said


def test_what_training_found_by_itself_is_said(make_model):
    model = make_model("qwen3", targets=MODULES)
    with embeddings(model, mixed):
        found = run_self_test(model, LocalSettings(1, 1.0, micro_batch=32), CPU)
    tried, unused = found.batches
    assert found.equal and tried == unused > 0
    assert f"equal to the last bit. {unused} of {tried} sizes of batches changed a bit" in found.sentence()


def test_a_machine_that_computes_one_customer_in_two_ways_is_refused(make_model):
    model = make_model("qwen3", targets=MODULES)
    before = model.read()
    with embeddings(model, noisy), pytest.raises(RunError, match=r"Expected one customer's gradient to be the same"):
        run_self_test(model, LocalSettings(1, 1.0), CPU)
    assert_same(before, model.read())


def test_the_model_keeps_its_adapter_and_the_time_is_bounded(make_model):
    model = make_model("qwen3", targets=MODULES)
    before = model.read()
    found = run_self_test(model, LocalSettings(1, 1.0), CPU, seconds=0)
    assert found.compositions == 8, "the harmless adapter and one adversarial one are always tried"
    assert_same(before, model.read())


def test_the_price_is_the_ratio_of_a_customer_alone_to_one_in_a_batch():
    assert SelfTest(16, 3, 1, 0.5, 0.1).price == pytest.approx(5)
    assert "5.0 times slower (0.500 s a customer)" in SelfTest(16, 3, 1, 0.5, 0.1).sentence()


def test_a_bank_tests_once_for_an_adapter_and_again_for_other_settings(make_model, monkeypatch):
    monkeypatch.setattr(UnitEngine, "_is_exact", lambda *given: True)
    model, said = make_model("qwen3", targets=MODULES), list[str]()
    machine = MachineTest(said.append)
    settings = LocalSettings(3, 0.5, "sgd", micro_batch=32)
    with embeddings(model, mixed):
        slow = machine.settings_for(model, settings, CPU)
        assert machine.settings_for(model, settings, CPU) == slow
    assert slow == LocalSettings(3, 0.5, "sgd", micro_batch=1), "nothing but the number at once is changed"
    assert len(said) == 1 and "one at a time" in said[0]
    machine.settings_for(model, LocalSettings(3, 0.5, "sgd", micro_batch=16), CPU)
    machine.settings_for(make_model("qwen3", targets=MODULES), LocalSettings(3, 0.5, "sgd", micro_batch=16), CPU)
    assert len(said) == 3


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)
