"""Poisson sampling of units, and of records inside a sampled unit. Pure functions of uniform variates."""

import numpy as np
from numpy.typing import NDArray


def poisson_sample(uniforms: NDArray[np.float64], sampling_prob: float) -> NDArray[np.int64]:
    """Indices of the units whose uniform variate falls below ``sampling_prob``.

    ``uniforms`` has one entry per unit in [0, 1). Every unit is in independently of all others, so an empty
    sample is a valid sample: it must be trained on (as a zero sum), noised and charged like any other.
    """
    return np.flatnonzero(uniforms < sampling_prob)


def choose_records(uniforms: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """``count`` distinct records of one unit (all of them if it has fewer), uniformly; sorted.

    ``uniforms`` has one entry per record of the unit.
    """
    if len(uniforms) <= count:
        return np.arange(len(uniforms))
    return np.sort(np.argpartition(uniforms, count)[:count])
