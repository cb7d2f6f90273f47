"""LoRA dropout whose masks depend on the record, the step and the layer only.

PyTorch's dropout draws from one global generator: a mask would depend on batch mates, on the micro-batch and on what
other threads draw, and a resumed round would repeat its noise on another gradient. Here a recomputed, a repeated or a
differently batched forward pass has the same masks.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedbank.adapter.lora import ADAPTER, AdaptedModel


class DropoutMasks:
    """Masks of one round, all from ``seed``; ``begin`` says which records run now."""

    def __init__(self, probability: float, seed: int) -> None:
        self._probability = probability
        self._seed = seed
        self._step = 0
        self._records: Sequence[int] = ()
        self._lengths: Sequence[int] = ()

    def begin(self, step: int, records: Sequence[int], lengths: Sequence[int]) -> None:
        """The rows of the next forward passes are ``records``, of ``lengths`` tokens before padding."""
        self._step, self._records, self._lengths = step, tuple(records), tuple(lengths)

    def draw(self, layer: int, x_NTI: Tensor) -> Tensor:
        """0 or 1/(1-p), shaped like ``x_NTI``; 0 on padding, which no answer token sees."""
        if len(self._records) != len(x_NTI):
            raise ValueError(f"expected {len(self._records)} rows, got an input of shape {tuple(x_NTI.shape)}")
        mask = torch.zeros_like(x_NTI)
        generator = torch.Generator(x_NTI.device)
        for row, (record, length) in enumerate(zip(self._records, self._lengths, strict=True)):
            generator.manual_seed(self._key(layer, record))
            uniform = torch.rand(length, x_NTI.shape[2], generator=generator, device=x_NTI.device)
            mask[row, :length] = (uniform >= self._probability) / (1 - self._probability)
        return mask

    def _key(self, layer: int, record: int) -> int:
        packed = struct.pack("<4q", self._seed, self._step, record, layer)
        return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")


class RecordDropout(nn.Module):
    """Stands in for one layer's ``nn.Dropout``; active whether or not the frozen base is in training mode."""

    def __init__(self, layer: int, masks: DropoutMasks) -> None:
        super().__init__()
        self.layer = layer
        self.masks = masks

    def forward(self, x: Tensor) -> Tensor:
        """``x`` times its mask."""
        return x * self.masks.draw(self.layer, x)


@contextmanager
def record_dropout(model: AdaptedModel, masks: DropoutMasks) -> Iterator[None]:
    """Within the block the adapter drops by ``masks``; the base model never drops anything."""
    places = [(layer.lora_dropout, layer.lora_dropout[ADAPTER]) for layer in model.lora_layers]
    for number, (container, _) in enumerate(places):
        container[ADAPTER] = RecordDropout(number, masks)
    try:
        yield
    finally:
        for container, dropout in places:
            container[ADAPTER] = dropout
