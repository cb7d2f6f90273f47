"""What many tests need: a very small real Qwen model, a byte tokenizer, customers with records of random tokens.

Fixtures are factories, and import what they need late, so that a test of pure arithmetic never waits for torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fault_table import pytest_collection_modifyitems, pytest_terminal_summary, seen

if TYPE_CHECKING:
    from fedbank.adapter.lora import AdaptedModel
    from fedbank.adapter.state import AdapterSpec
    from fedbank.data.encode import EncodedUnits

__all__ = ["pytest_collection_modifyitems", "pytest_terminal_summary", "seen"]
VOCABULARY = 61


@pytest.fixture(scope="session")
def make_base() -> Callable[..., Any]:
    """A frozen two-layer Qwen2 or Qwen3 with random weights, the same for the same ``seed``."""

    def make(kind: str = "qwen3", *, seed: int = 0, vocabulary: int = VOCABULARY) -> Any:
        import torch
        from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

        sizes = {
            "vocab_size": vocabulary,
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "max_position_embeddings": 128,
            "initializer_range": 0.2,
            "tie_word_embeddings": True,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "bos_token_id": None,
        }
        torch.manual_seed(seed)
        if kind == "qwen2":
            model = Qwen2ForCausalLM(Qwen2Config(**sizes))
        else:
            model = Qwen3ForCausalLM(Qwen3Config(head_dim=8, **sizes))
        return model.requires_grad_(False).eval()

    return make


@pytest.fixture(scope="session")
def make_model(make_base: Callable[..., Any]) -> Callable[..., AdaptedModel]:
    """``make_base`` with a LoRA adapter whose B is not zero, so that A has a gradient too."""

    def make(
        kind: str = "qwen3",
        trainable: str = "B",
        *,
        rank: int = 3,
        targets: tuple[str, ...] = ("q_proj", "v_proj", "down_proj"),
        seed: int = 0,
        vocabulary: int = VOCABULARY,
        dtype: str = "float32",
        dropout: float = 0.0,
    ) -> AdaptedModel:
        import torch

        from fedbank.adapter.lora import AdaptedModel, LoraSettings

        base = make_base(kind, seed=seed, vocabulary=vocabulary).to(getattr(torch, dtype))
        model = AdaptedModel(base, LoraSettings(rank, 2.0 * rank, targets, trainable, dropout=dropout))
        model.write(_random_state(model.spec, seed))
        return model

    return make


@pytest.fixture(scope="session")
def make_state() -> Callable[[AdapterSpec, int], dict[str, Any]]:
    """A random adapter: A with orthonormal rows, B Gaussian."""
    return _random_state


def _random_state(spec: AdapterSpec, seed: int) -> dict[str, Any]:
    from fedbank.adapter.state import initial_state

    rng = np.random.default_rng(seed + 1)
    state = initial_state(spec, seed=seed)
    for name in spec.shapes():
        if "lora_B" in name:
            state[name] = rng.normal(0, 0.1, state[name].shape).astype(np.float32)
    return state


@pytest.fixture(scope="session")
def make_units() -> Callable[..., EncodedUnits]:
    """Customers with the given numbers of records: random tokens, lengths from 4 to 23, answers of 1 to 8."""

    def make(records_per_customer: Sequence[int], *, seed: int = 0, vocabulary: int = VOCABULARY) -> EncodedUnits:
        from fedbank.data.encode import EncodedUnits

        rng = np.random.default_rng(seed)
        answers = rng.integers(1, 9, sum(records_per_customer))
        prompts = rng.integers(3, 16, sum(records_per_customer))
        starts = np.concatenate([[0], np.cumsum(answers + prompts)]).astype(np.int64)
        tokens = rng.integers(2, vocabulary, starts[-1]).astype(np.int32)
        units = np.concatenate([[0], np.cumsum(records_per_customer)]).astype(np.int64)
        return EncodedUnits(tokens, starts, prompts.astype(np.int32), units)

    return make


@pytest.fixture(scope="session")
def small_spec() -> AdapterSpec:
    """Two pairs of different sizes, B trained."""
    from fedbank.adapter.state import AdapterSpec, LoraPair

    return AdapterSpec(3, 6.0, ("q_proj", "v_proj"), (LoraPair("l.q_proj", 7, 9), LoraPair("l.v_proj", 8, 5)), "B")


@pytest.fixture(scope="session")
def byte_tokenizer() -> Any:
    """One token per byte, Qwen's control tokens and a chat template of Qwen's form."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    fast.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return fast
