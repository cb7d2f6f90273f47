"""Epsilon of sampled Gaussian steps by an integral in the complex plane: no grid of losses, no composition, no FFT.

With M(s) = E[exp(s·loss)] of one step, delta(e) of n steps is the integral of M(s)^n · exp(-s·e) / (s·(s + 1)) along a
line through any real s > 0, divided by 2πi: the Laplace transform of (1 - exp(e - loss))+. On the line through the
saddle point the integrand is largest in the middle and falls off like a normal density, so that a plain sum is good to
many digits, however small delta is. Both directions, of which the worse counts.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

Array = NDArray[Any]


def contour_epsilon(q: float, sigma: float, steps: int, delta: float, *, points: int = 40) -> float:
    """The true epsilon, to some 1e-7; for tens of steps or more, where the integrand falls off soon.

    ``points`` on the line for every saddle: more where single losses are large, which a coarse sum takes for others.
    """
    x = np.linspace(-14 * sigma - 1, 14 * sigma + 1, 12_001)
    without = np.exp(-(x**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi)) * (x[1] - x[0])
    ratio = np.log1p(q * np.expm1((2 * x - 1) / (2 * sigma**2)))
    with_unit = without * np.exp(ratio)
    return max(_one_way(with_unit, ratio, steps, delta, points), _one_way(without, -ratio, steps, delta, points))


def _one_way(mass: Array, loss: Array, steps: int, delta: float, points: int) -> float:
    def tilted(s: float) -> tuple[float, float]:
        """log M(s)^n and its derivative."""
        top = float((s * loss).max())
        weights = mass * np.exp(s * loss - top)
        return steps * (top + math.log(weights.sum())), steps * float(weights @ loss / weights.sum())

    def above(s: float) -> float:
        log_moment, mean = tilted(s)
        return s * mean - log_moment - math.log(1 / delta)

    most = 1.0
    while above(most) < 0:
        most *= 2
    saddle = float(brentq(above, 1e-9, most))
    (log_moment, top), step = tilted(saddle), saddle / points
    line, powers = _line(mass * np.exp(saddle * loss - log_moment / steps), loss, steps, saddle, step)

    def log_delta(epsilon: float) -> float:
        values = (np.exp(powers - 1j * line.imag * epsilon) / (line * (line + 1))).real
        total = (values.sum() - values[0] / 2) * step / math.pi
        return log_moment - saddle * epsilon + math.log(max(total, 1e-300))

    low = top
    while log_delta(low) < math.log(delta):
        low -= 0.5 / saddle
    return float(brentq(lambda epsilon: log_delta(epsilon) - math.log(delta), low, top, xtol=1e-10))


def _line(weights: Array, loss: Array, steps: int, saddle: float, step: float) -> tuple[Array, Array]:
    """Points upwards from the saddle, and the logarithms of M^n there, until it is small."""
    heights, powers = [0.0], [0j]
    while powers[-1].real > -30:
        heights.append(heights[-1] + step)
        powers.append(steps * complex(np.log(weights @ np.exp(1j * heights[-1] * loss))))
    return saddle + 1j * np.array(heights), np.array(powers)
