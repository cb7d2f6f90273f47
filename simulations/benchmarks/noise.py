"""Normals from the cryptographic generator, on one core, against NumPy's own generator, which is not cryptographic.

``normals_per_second``: of ``RandomStream.secure()``; the target is 5 million. ``ratio_numpy``: NumPy's speed over ours.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fedbank.privacy.noise import RandomStream
from simulations.benchmarks.harness import publish

COUNT, REPEATS = 2_000_000, 7


def seconds(draw: Callable[[int], object]) -> float:
    """For ``COUNT`` normals."""
    began = time.perf_counter()
    draw(COUNT)
    return time.perf_counter() - began


def compare() -> Iterator[dict[str, Any]]:
    """Both in turn."""
    stream, numpy = RandomStream.secure(), np.random.default_rng()
    pairs = [(seconds(stream.normal), seconds(numpy.standard_normal)) for _ in range(REPEATS)]
    ours = statistics.median(pair[0] for pair in pairs)
    yield {
        "normals_per_second": round(COUNT / ours),
        "ratio_numpy": round(statistics.median(a / b for a, b in pairs), 2),
    }


if __name__ == "__main__":
    publish("noise", compare())
