"""One bank that is asked for rounds: its plan, its streams of noise, and what it is asked."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.update import RoundRequest
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan, Sampling

ROUNDS, STEPS = 3, 2
SAMPLING = Sampling(0.5, 4.0, 3, ROUNDS * STEPS)
PLAN = PrivacyPlan.with_noise(SAMPLING, 1.2, 0.5, 1e-5)
Streams = Callable[[int], RandomStream]


def derived(number: int) -> RandomStream:
    return RandomStream.derived("bank", number)


def secure(number: int) -> RandomStream:
    """Never the same again, as if a bank forgot its keys."""
    return RandomStream.secure()


KEPT = None
"""What a deployed bank has: secure noise from keys of its own."""


def request_for(
    model: AdaptedModel, number: int = 1, campaign: str = "spring", shift: float = 0.0, plan: Any = PLAN
) -> bytes:
    rng = np.random.default_rng(3)
    adapter = {n: (rng.normal(size=s) + shift).astype(np.float32) for n, s in model.spec.shapes().items()}
    return RoundRequest(campaign, number, plan.digest(), adapter).to_bytes()
