"""Linear layers that a CPU runs faster than torch's own: weights of 16, 8 or 4 bits, by kernels that torch ships.

At batch 1 every token reads every weight once, and a CPU waits for its memory: half the bytes, nearly half the time.

- ``bf16``: in oneDNN's own order, which torch otherwise makes anew in each call.
- ``int8``: symmetric, a scale for each output; the activations stay in bfloat16.
- ``int4``: groups of 32 inputs with a scale and an offset each, 5 bits a weight; the output layer is int8, where an
  error goes into the answer unattenuated.
- ``fp16``: as it is, but many rows go through float32, since few CPUs multiply float16.

Scales are rounded to bfloat16 before the weights are divided by them, so that the rounding is no error of its own.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fedbank.errors import ModelError
from fedbank.serving.engines.plan import INT4_GROUP, Precision

_INT8_ROWS = 16
"""Up to here the INT8 kernel is faster than making bfloat16 weights for a product."""
_HALF_ROWS = 4
_SMALLEST = 1e-8
_OUTPUTS_AT_ONCE = 16
"""The INT4 kernel takes outputs in blocks of so many."""


class Linear(nn.Module):
    """A layer of ``out_features`` by ``in_features``; what it multiplies with is the subclass's."""

    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("bias", None if bias is None else bias.detach().to(dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The product, row by row, and the bias."""
        found = self.product(x.reshape(-1, self.in_features))
        found = found if self.bias is None else found + self.bias
        return found.view(*x.shape[:-1], self.out_features)

    def product(self, rows: Tensor) -> Tensor:
        """``rows`` (number, in) times the weights."""
        raise NotImplementedError


class PackedLinear(Linear):
    """bfloat16 in oneDNN's order."""

    packed: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias, torch.bfloat16)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(torch.bfloat16), 1)
        self.register_buffer("packed", packed, persistent=False)

    def product(self, rows: Tensor) -> Tensor:
        """See ``Linear``."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.packed, None, "none", [], "")
        return found


class HalfLinear(Linear):
    """float16."""

    half_weight: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias, torch.float16)
        self.register_buffer("half_weight", weight.to(torch.float16), persistent=False)

    def product(self, rows: Tensor) -> Tensor:
        """See ``Linear``."""
        if rows.shape[0] <= _HALF_ROWS:
            return linear(rows, self.half_weight)
        return linear(rows.float(), self.half_weight.float()).to(torch.float16)


class Int8Linear(Linear):
    """INT8, a scale for each output."""

    levels: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias, torch.bfloat16)
        scale = (weight.abs().amax(1) / 127).clamp(min=_SMALLEST).to(torch.bfloat16)
        levels = weight.div(scale.float()[:, None]).round_().clamp_(-127, 127).to(torch.int8)
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def product(self, rows: Tensor) -> Tensor:
        """See ``Linear``."""
        if rows.shape[0] <= _INT8_ROWS:
            found: Tensor = torch.ops.aten._weight_int8pack_mm(rows, self.levels, self.scale)
            return found
        return linear(rows, self.levels.to(torch.bfloat16)) * self.scale  # whole numbers to 127 are exact in bfloat16


class Int4Linear(Linear):
    """INT4, a scale and an offset for each group of inputs: weight = (level - 8) x scale + offset."""

    packed: Tensor
    scale_and_offset: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias, torch.bfloat16)
        groups = weight.view(self.out_features, -1, INT4_GROUP)
        low, high = groups.amin(2), groups.amax(2)
        scale = ((high - low) / 15).clamp(min=_SMALLEST).to(torch.bfloat16)
        offset = (low + 8 * scale.float()).to(torch.bfloat16)
        levels = groups.sub(offset.float()[..., None]).div_(scale.float()[..., None]).round_().add_(8).clamp_(0, 15)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.view(weight.shape).to(torch.int32), 1)
        self.register_buffer("packed", packed, persistent=False)
        both = torch.stack([scale, offset], -1).transpose(0, 1).contiguous()
        self.register_buffer("scale_and_offset", both, persistent=False)

    def product(self, rows: Tensor) -> Tensor:
        """See ``Linear``."""
        kernel = torch.ops.aten._weight_int4pack_mm_for_cpu
        found: Tensor = kernel(rows, self.packed, INT4_GROUP, self.scale_and_offset)
        return found

    @staticmethod
    def takes(weight: Tensor) -> bool:
        """Whether the kernel does: it reads beyond the end of others."""
        return weight.shape[0] % _OUTPUTS_AT_ONCE == 0 and weight.shape[1] % INT4_GROUP == 0


_KINDS: Mapping[Precision, type[Linear]] = {
    "fp16": HalfLinear,
    "bf16": PackedLinear,
    "int8": Int8Linear,
    "int4": Int4Linear,
}


def has_kernel(precision: Precision, device: torch.device) -> bool:
    """Whether layers of ``precision`` on ``device`` are ours; torch's own are used otherwise.

    Raises:
        ModelError: INT8 or INT4, and not on a CPU.
    """
    if device.type != "cpu":
        if precision in ("int8", "int4"):
            raise ModelError(
                f"Expected a CPU for {precision} in this process, got {device.type}. Serve it with an external engine "
                "such as vLLM."
            )
        return False
    if precision == "bf16":
        return bool(torch.backends.mkldnn.enabled and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return precision in _KINDS


@torch.no_grad()
def layer_of(weight: Tensor, bias: Tensor | None, precision: Precision, *, output: bool = False) -> Linear:
    """A layer with ``weight`` (out, in; float32) in ``precision``. ``output``: whether it is the model's last."""
    kind = _KINDS[precision]
    if kind is Int4Linear and (output or not Int4Linear.takes(weight)):
        kind = Int8Linear
    made: Any = kind
    layer: Linear = made(weight.detach(), bias)
    return layer
