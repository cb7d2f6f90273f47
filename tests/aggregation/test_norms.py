"""The bounds on an update's norm: honest updates stay below, and not far below."""

import math

import numpy as np
import pytest

from fedbank.aggregation.norms import adam_norm_bound, sgd_norm_bound

SIZE = 400


def _adam(gradients: np.ndarray, rate: float) -> float:
    """Kingma and Ba 2015, Alg. 1, in fp64: the norm of the whole change."""
    first = second = change = np.zeros(gradients.shape[1])
    for step, gradient in enumerate(gradients, start=1):
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        change = change + rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return float(np.linalg.norm(change))


@pytest.mark.parametrize("steps", [1, 5, 60, 300])
@pytest.mark.parametrize("kind", ["noise", "constant", "growing", "late", "huge"])
def test_no_gradients_move_adam_further_than_the_bound(kind: str, steps: int) -> None:
    rng = np.random.default_rng(steps)
    gradients = {
        "noise": rng.normal(size=(steps, SIZE)),
        "constant": np.ones((steps, SIZE)),
        "growing": np.ones((steps, SIZE)) * 3.0 ** np.arange(steps)[:, None].clip(max=300),
        "late": np.where(np.arange(steps)[:, None] >= steps * 2 // 3, 1.0, 1e-12) * np.ones((steps, SIZE)),
        "huge": rng.normal(size=(steps, SIZE)) * 1e30,
    }[kind]
    assert _adam(gradients, 0.01) <= adam_norm_bound(SIZE, steps, 0.01)
    if kind == "constant":
        assert _adam(gradients, 0.01) > adam_norm_bound(SIZE, steps, 0.01) / (1.1 if steps <= 5 else 3)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("noise", [0.3, 5.0])
def test_clipped_and_noised_sgd_stays_below_the_bound(momentum: float, noise: float) -> None:
    """Every customer pulls in the same direction with the whole clip norm: the worst that clipping allows."""
    rng, steps, batch, clip, rate = np.random.default_rng(0), 5, 32.0, 0.5, 0.1
    bound = sgd_norm_bound(SIZE, steps, rate, momentum, clip_norm=clip, noise_multiplier=noise, expected_batch=batch)
    norms = []
    for _ in range(300):
        velocity = change = np.zeros(SIZE)
        for _ in range(steps):
            total = rng.binomial(1000, batch / 1000) * clip * np.eye(SIZE)[0] + rng.normal(0, noise * clip, SIZE)
            velocity = momentum * velocity + total / batch
            change = change - rate * velocity
        norms.append(float(np.linalg.norm(change)))
    assert bound / 20 < max(norms) <= bound


def test_a_hundred_times_the_clip_norm_is_beyond() -> None:
    bound = sgd_norm_bound(SIZE, 1, 1.0, 0.0, clip_norm=1.0, noise_multiplier=1.0, expected_batch=32.0)
    assert bound < 100 and math.isfinite(bound)


def test_momentum_makes_every_gradient_count_longer() -> None:
    """Σ (1-0.9^s)/0.1 over 1 to 5 steps left is 13.1441, against 5 without momentum."""
    plain, heavy = (
        sgd_norm_bound(SIZE, 5, 1.0, momentum, clip_norm=1.0, noise_multiplier=1.0, expected_batch=32.0)
        for momentum in (0.0, 0.9)
    )
    assert heavy / plain == pytest.approx(13.1441 / 5, rel=1e-4)
