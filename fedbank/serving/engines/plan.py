"""What fits in a card's memory, and how fast it can be at best: arithmetic from a model's configuration. No torch.

- Weights: parameters times bytes. INT4 is group-wise (AWQ, arXiv:2306.00978: an fp16 scale and a 4-bit zero per 128
  weights, 4.16 bits each); INT8 has an fp16 scale per output channel. Both leave embeddings, biases and the output
  layer at 16 bits. The layers of ``kernels``, in this process on a CPU, are others: INT4 has a scale and an offset per
  32 weights, 5 bits each; the output layer is INT8 with both; and it is never the embedding itself.
- The cache: 2 (keys, values) x layers x key/value heads x head size x bytes, per token.
- The ceiling at batch 1: memory bandwidth over what one token reads, which is every weight but the embedding's table
  (one row of it). Nothing is faster for a single stream; several streams share the reading.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedbank.errors import ModelError
from fedbank.serving.engines.interface import EngineError

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "int4")
INT4_GROUP = 32
"""Inputs that share a scale and an offset, in this process."""
GIB = 1 << 30
_BITS: Mapping[Precision, float] = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int4": 4 + (16 + 4) / 128}
_OWN_BITS: Mapping[Precision, float] = {**_BITS, "int4": 4 + (16 + 16) / INT4_GROUP}
_KINDS = ("qwen2", "qwen3")
_RUNTIME_BYTES = 768 << 20
"""What CUDA, its libraries and the allocator take beside weights, cache and activations; an estimate."""
_PREFILL_TOKENS = 2048
"""Tokens of one prefill step: vLLM's default for a server, and the order of ours."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen model's sizes. ``tied``: the output layer is the embedding. ``biased``: q, k and v have biases (Qwen2).

    ``normed``: queries and keys are normalised per head (Qwen3). ``context``: the most tokens of a conversation.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    context: int
    tied: bool
    biased: bool
    normed: bool

    @classmethod
    def read(cls, folder: Path) -> "Shape":
        """From ``config.json`` of a Qwen2, 2.5 or 3 model.

        Raises:
            ModelError: there is none, or it is another model's.
        """
        path = folder / "config.json"
        try:
            said = json.loads(path.read_bytes())
            if said["model_type"] not in _KINDS:
                raise ModelError(f"Expected a Qwen2, Qwen2.5 or Qwen3 model in {folder}, got another. Choose a Qwen.")
            return cls._of(said)
        except OSError as error:
            raise ModelError(f"Expected {path}, got: {error.strerror}. Name the model's folder.") from error
        except (ValueError, KeyError, TypeError, ZeroDivisionError, RecursionError) as error:
            raise ModelError(
                f"Expected a model's sizes in {path}, got something else. Copy the model again."
            ) from error

    @classmethod
    def _of(cls, said: Mapping[str, Any]) -> "Shape":
        heads = _whole(said["num_attention_heads"])
        return cls(
            layers=_whole(said["num_hidden_layers"]),
            hidden=_whole(said["hidden_size"]),
            heads=heads,
            kv_heads=_whole(said.get("num_key_value_heads", heads)),
            head_size=_whole(said.get("head_dim") or said["hidden_size"] // heads),
            intermediate=_whole(said["intermediate_size"]),
            vocabulary=_whole(said["vocab_size"]),
            context=_whole(said["max_position_embeddings"]),
            tied=bool(said.get("tie_word_embeddings", False)),
            biased=said["model_type"] == "qwen2",
            normed=said["model_type"] == "qwen3",
        )

    @property
    def linear(self) -> int:
        """Parameters of the blocks' linear layers: what quantisation makes small."""
        attention = 2 * self.hidden * self.head_size * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def small(self) -> int:
        """Parameters of norms and biases."""
        biases = (self.heads + 2 * self.kv_heads) * self.head_size if self.biased else 0
        return self.layers * (2 * self.hidden + biases + (2 * self.head_size if self.normed else 0)) + self.hidden

    @property
    def table(self) -> int:
        """Parameters of the embedding, and of the output layer."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.linear + self.small + (1 if self.tied else 2) * self.table

    def weight_bytes(self, precision: Precision, own: bool = False) -> int:
        """What the weights take in memory. ``own``: with the layers of ``kernels``."""
        tables = self.table * _rest_bytes(precision)
        if not self.tied or (own and precision != "fp32"):
            tables += self.output_bytes(precision, own)
        return self.linear_bytes(precision, own) + self.small * _rest_bytes(precision) + tables

    def load_bytes(self, precision: Precision) -> int:
        """What they take while they are loaded in this process, before they are made smaller."""
        return self.parameters * _rest_bytes(precision)

    def read_bytes(self, precision: Precision, own: bool = False) -> int:
        """What one token at batch 1 reads."""
        others = self.small * _rest_bytes(precision) + self.output_bytes(precision, own)
        return self.linear_bytes(precision, own) + others

    def output_bytes(self, precision: Precision, own: bool = False) -> int:
        """What the output layer takes."""
        if own and precision in ("int8", "int4"):
            return self.table + 2 * self.vocabulary
        return self.table * _rest_bytes(precision)

    def kv_bytes(self, precision: Precision) -> int:
        """What one token takes in the cache: 16 bits a value, or 32 with fp32 weights."""
        return 2 * self.layers * self.kv_heads * self.head_size * _rest_bytes(precision)

    def activation_bytes(self, precision: Precision, sequences: int) -> int:
        """At most at once: a prefill step through one block, and the logits of every sequence as float32."""
        widest = 2 * self.hidden + 2 * self.intermediate + (self.heads + 2 * self.kv_heads) * self.head_size
        return _PREFILL_TOKENS * widest * _rest_bytes(precision) + 2 * 4 * sequences * self.vocabulary

    def linear_bytes(self, precision: Precision, own: bool = False) -> int:
        """What the blocks' linear layers take: what a merged copy has for itself at most."""
        scales = self.linear // self.hidden * 2 if precision == "int8" else 0
        return round(self.linear * (_OWN_BITS if own else _BITS)[precision] / 8) + scales


@dataclass(frozen=True, slots=True)
class Card:
    """A device: its memory in bytes, of which ``share`` may be used; its memory bandwidth in bytes a second."""

    memory: int
    bandwidth: float
    share: float = 0.9


@dataclass(frozen=True, slots=True)
class Plan:
    """What fits: bytes, tokens, sequences of full ``context`` at once, and tokens a second at batch 1 at best."""

    precision: Precision
    context: int
    weight_bytes: int
    adapter_bytes: int
    other_bytes: int
    kv_bytes_per_token: int
    cache_tokens: int
    sequences: int
    ceiling_tokens_per_s: float

    def said(self) -> str:
        """For a person, with precision and lengths beside every figure."""
        return (
            f"Weights in {self.precision}: {_gib(self.weight_bytes)}; a second release beside them: "
            f"{_gib(self.adapter_bytes)}; run time and activations: {_gib(self.other_bytes)}.\n"
            f"Cache: {self.kv_bytes_per_token / 1024:.3g} KiB per token, {self.cache_tokens} tokens: {self.sequences} "
            f"sequences of {self.context} tokens at once.\n"
            f"At batch 1 at most {self.ceiling_tokens_per_s:.1f} tokens/s in {self.precision}: memory bandwidth over "
            "the weights that each token reads."
        )


def what_fits(
    shape: Shape,
    precision: Precision,
    card: Card,
    *,
    context: int,
    sequences: int = 1,
    adapted_share: float = 1.0,
    own: bool = False,
) -> Plan:
    """The plan for ``sequences`` of ``context`` tokens (question and answer) at least.

    ``adapted_share``: how much of the linear layers a second, merged release has for itself: 1 for every layer, 0 for
    an engine that keeps adapters apart. ``own``: in this process, on a CPU, with the layers of ``kernels``.

    Raises:
        EngineError: it does not fit; with the figures.
        ValueError: a share or a number that is none.
    """
    if not (0 < card.share <= 1 and 0 <= adapted_share <= 1 and sequences >= 1 and context >= 1):
        raise ValueError("shares are from 0 to 1, sequences and context at least 1")
    if context > shape.context:
        raise EngineError(
            f"Expected at most {shape.context} tokens of question and answer, which this model was made for, got "
            f"{context}. Ask for less."
        )
    weights, other = shape.weight_bytes(precision, own), _RUNTIME_BYTES + shape.activation_bytes(precision, sequences)
    adapter = round(adapted_share * shape.linear_bytes(precision, own))
    usable, per_token = int(card.memory * card.share), shape.kv_bytes(precision)
    tokens = max(0, usable - weights - adapter - other) // per_token
    if own and shape.load_bytes(precision) > usable:
        raise EngineError(
            f"Expected {_gib(shape.load_bytes(precision))} while the weights are loaded, before they are made "
            f"{precision}, got {_gib(usable)}. Choose a smaller model or a larger machine."
        )
    needed = sequences * context
    if tokens < needed:
        raise EngineError(
            f"Expected {_gib(weights + adapter + other + needed * per_token)} for {sequences} sequences of {context} "
            f"tokens, got {_gib(usable)} ({card.share:.0%} of {_gib(card.memory)}): weights in {precision} take "
            f"{_gib(weights)}, a second release {_gib(adapter)}, run time and activations {_gib(other)}, the cache "
            f"{_gib(needed * per_token)}. Choose a smaller model or precision, fewer or shorter sequences, or a "
            "larger card."
        )
    ceiling = card.bandwidth / shape.read_bytes(precision, own)
    return Plan(precision, context, weights, adapter, other, per_token, tokens, tokens // context, ceiling)


def _rest_bytes(precision: Precision) -> int:
    return 4 if precision == "fp32" else 2


def _whole(value: object) -> int:
    if type(value) is not int or value < 1:
        raise TypeError("a size is a whole number of at least 1")
    return value


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB"
