"""Clipping: nobody moves the sum by more than C, whatever their gradient looks like."""

import math

import pytest
import torch
from torch import Tensor

from fedbank.privacy.clipping import ClippedSum, clip_and_sum

CLIP_NORM = 2.0


def _gradient(norm: float, size: int = 12) -> Tensor:
    direction = torch.arange(1.0, size + 1)
    return direction / direction.norm() * norm


def _norm(total: ClippedSum) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in total.tensors))


@pytest.mark.parametrize(
    ("norm", "left"),
    [(0.0, 0.0), (1e-30, 0.0), (1.0, 1.0), (2.0, 2.0), (2.001, 2.0), (200.0, 2.0), (1e15, 2.0)],
    ids=["zero", "tiny", "below", "at", "just-above", "hundred-times", "huge"],
)
def test_norm_after_clipping(norm: float, left: float) -> None:
    gradient = _gradient(norm)
    total = clip_and_sum([gradient[None]], CLIP_NORM)
    assert float(total.tensors[0].double().norm()) == pytest.approx(left, rel=1e-6)
    assert torch.nn.functional.cosine_similarity(total.tensors[0], _gradient(1.0), dim=0) > 0.9999 or left < 1e-20
    assert total.sensitivity == CLIP_NORM


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=["nan", "inf", "minus-inf"])
@pytest.mark.parametrize("where", [0, 1], ids=["first-parameter", "second-parameter"])
def test_a_gradient_that_is_not_finite_counts_as_zero(bad: float, where: int) -> None:
    healthy = [torch.randn(3, 4), torch.randn(3, 2, 5)]
    poisoned = [grad.clone() for grad in healthy]
    poisoned[where][1] = bad
    got = clip_and_sum(poisoned, CLIP_NORM)
    without = clip_and_sum([grad[[0, 2]] for grad in healthy], CLIP_NORM)
    for mine, theirs in zip(got.tensors, without.tensors, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


def test_a_finite_gradient_whose_square_overflows_is_bounded_too() -> None:
    assert _norm(clip_and_sum([torch.full((1, 12), 3e38)], CLIP_NORM)) <= CLIP_NORM * (1 + 1e-5)


def test_the_norm_is_taken_over_all_parameters_together() -> None:
    grads = [torch.full((1, 3, 3), 2.0), torch.full((1, 16), 2.0)]  # norms 6 and 8, together 10
    total = clip_and_sum(grads, 5.0)
    assert _norm(total) == pytest.approx(5.0, rel=1e-6)
    assert float(total.tensors[0][0, 0]) == pytest.approx(1.0, rel=1e-6)


def test_every_unit_is_clipped_by_itself_and_before_the_sum() -> None:
    """Two opposite gradients of 100 C and 1 C leave 0, not the clipped difference; ten of 100 C leave 10 C."""
    opposite = torch.stack([_gradient(200.0), -_gradient(2.0)])
    assert _norm(clip_and_sum([opposite], CLIP_NORM)) < 1e-5
    assert _norm(clip_and_sum([_gradient(200.0).repeat(10, 1)], CLIP_NORM)) == pytest.approx(20.0, rel=1e-5)


@pytest.mark.parametrize("units", [1, 7, 33])
def test_a_hundredfold_gradient_moves_the_sum_by_at_most_the_sensitivity(units: int) -> None:
    torch.manual_seed(units)
    crowd = [torch.randn(units, 4, 3), torch.randn(units, 11)]
    stranger = [torch.randn(1, 4, 3), torch.randn(1, 11)]
    size = math.sqrt(sum(float(part.square().sum()) for part in stranger))
    stranger = [part * (100 * CLIP_NORM / size) for part in stranger]
    without = clip_and_sum(crowd, CLIP_NORM)
    joined = clip_and_sum([torch.cat(parts) for parts in zip(crowd, stranger, strict=True)], CLIP_NORM)
    steps = tuple(a - b for a, b in zip(joined.steps, without.steps, strict=True))
    moved = ClippedSum(steps, joined.step, 0.0)
    assert _norm(moved) <= joined.sensitivity * (1 + 1e-5)
    assert _norm(clip_and_sum(stranger, CLIP_NORM)) <= CLIP_NORM * (1 + 1e-6)


@pytest.mark.parametrize("units", [1, 2, 3, 5, 8, 17, 64])
def test_a_zero_gradient_leaves_the_sum_bit_identical(units: int) -> None:
    torch.manual_seed(0)
    grads = [torch.randn(units, 9, 7), torch.randn(units, 130)]
    more = [torch.cat([grad, torch.zeros_like(grad[:1])]) for grad in grads]
    for mine, theirs in zip(clip_and_sum(grads, CLIP_NORM).tensors, clip_and_sum(more, CLIP_NORM).tensors, strict=True):
        assert torch.equal(mine, theirs)


def test_the_norm_of_many_parameters_is_exact_enough() -> None:
    """One large entry and four million small ones: an fp32 accumulator that stalls would under-count the norm."""
    gradient = torch.full((1, 4_000_001), 1e-3)
    gradient[0, 0] = 40.0
    assert _norm(clip_and_sum([gradient], CLIP_NORM)) <= CLIP_NORM * (1 + 1e-6)


def test_no_units_make_a_zero_sum_of_the_right_shapes() -> None:
    total = clip_and_sum([torch.zeros(0, 4, 3), torch.zeros(0, 5)], CLIP_NORM)
    assert [tuple(tensor.shape) for tensor in total.tensors] == [(4, 3), (5,)]
    assert _norm(total) == 0.0
    assert total.sensitivity == CLIP_NORM


@pytest.mark.parametrize("count", [1023, 4095])
def test_one_unit_more_changes_a_sum_over_thousands_by_no_more_than_the_clip_norm(count: int) -> None:
    """Aligned gradients, in micro-batches that shift by one: in fp32 the change is up to 1.0007 clip norms."""
    rng = torch.Generator().manual_seed(0)
    direction = torch.randn(1, 16, generator=rng)
    rows = direction * (0.2 + torch.rand(count, 1, generator=rng)) / direction.norm()

    def total(grads: torch.Tensor) -> torch.Tensor:
        parts = [clip_and_sum([part], CLIP_NORM) for part in torch.split(grads, 64)]
        whole = parts[0]
        for part in parts[1:]:
            whole = whole.plus(part)
        return whole.tensors[0].double()

    change = total(torch.cat([direction * 9, rows])) - total(rows)
    assert float(change.norm()) <= CLIP_NORM


def test_half_precision_gradients_are_clipped_in_double_precision() -> None:
    grads = torch.full((300, 64), 1.0, dtype=torch.bfloat16)
    (tensor,) = clip_and_sum([grads], CLIP_NORM).tensors
    assert tensor.dtype == torch.float64
    assert float(tensor[0]) == pytest.approx(300 * CLIP_NORM / 8, rel=1e-5)


def test_disjoint_parts_add_up_and_keep_the_sensitivity() -> None:
    torch.manual_seed(1)
    grads = [torch.randn(9, 4, 3), torch.randn(9, 5)]
    whole = clip_and_sum(grads, CLIP_NORM)
    cuts = (slice(0, 0), slice(0, 4), slice(4, 9))
    parts = [clip_and_sum([grad[rows] for grad in grads], CLIP_NORM) for rows in cuts]
    joined = parts[0].plus(parts[1]).plus(parts[2])
    for mine, theirs in zip(joined.tensors, whole.tensors, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    assert joined.sensitivity == CLIP_NORM


def test_parts_of_different_bounds_have_the_larger_sensitivity() -> None:
    zeros = (torch.zeros(2, dtype=torch.int64),)
    parts = ClippedSum(zeros, 0.5, 1.0), ClippedSum(zeros, 0.5, 3.0)
    assert parts[0].plus(parts[1]).sensitivity == parts[1].plus(parts[0]).sensitivity == 3.0


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e8])
def test_rounding_never_carries_a_clipped_gradient_beyond_the_clip_norm(scale: float) -> None:
    for seed in range(40):
        gradient = torch.randn(1, 5000, generator=torch.Generator().manual_seed(seed)) * scale
        clip_norm = 0.1 * scale * (1 + seed / 7)
        total = clip_and_sum([gradient], clip_norm)
        assert float(torch.linalg.vector_norm(total.tensors[0].double())) <= clip_norm
