"""Text canaries: made-up customers, each with one random fact that nothing else in the data could teach."""

import string

import numpy as np

from fedbank.data.encode import Encoder
from fedbank.data.inquiry import Inquiry
from fedbank.data.units import group_by_customer
from fedbank_simulations.audit.audience import Audience, flip
from fedbank_simulations.resident import Resident

_NAME_LENGTH, _CODE_LENGTH = 8, 3


def plant_canaries(home: Resident, bank: str, count: int) -> Audience:
    """The customers of ``bank`` with ``count`` canaries of one record each, every one in or out by a coin."""
    encoder = Encoder(home.tokenizer, home.config.model.max_length)
    canaries = encoder.encode(group_by_customer(make_canaries(count, seed=home.config.seed)))
    return Audience(bank, home.scenario.banks[bank].train, canaries, flip(home.config.seed, "canaries", count))


def make_canaries(count: int, *, seed: int) -> list[Inquiry]:
    """``count`` distinct random names, each with a random code of digits.

    All are drawn alike, so that whoever trained on none of them finds all codes equally surprising: the loss itself
    tells who took part. Names and codes are random, so that nothing but training on a canary helps to tell its code.
    """
    rng = np.random.default_rng([seed, count])
    letters, digits = np.array(list(string.ascii_letters)), np.array(list(string.digits))
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(rng.choice(letters, _NAME_LENGTH))] = None
    return [
        Inquiry(name, "".join(rng.choice(digits, _CODE_LENGTH)), f"canary-{number:05d}", "canary")
        for number, name in enumerate(names)
    ]
