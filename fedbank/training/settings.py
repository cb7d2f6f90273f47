"""How a bank trains within a round."""

from dataclasses import dataclass

from fedbank.training.engines import DIRECT


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How a bank trains within a round; public and equal for all banks.

    ``optimizer`` is ``"sgd"`` (with ``momentum``) or ``"adam"``; its state lives for one round, so a bank keeps
    nothing between rounds. ``micro_batch`` is the largest number of customers whose gradients are held at once, a power
    of two or rounded down to one: it cannot change a bit of the result. ``per_example`` is the engine that takes the
    gradients, one of ``fedbank.training.engines.ENGINES``: it cannot change the result beyond rounding.
    """

    num_steps: int
    learning_rate: float
    optimizer: str = "adam"
    momentum: float = 0.0
    micro_batch: int = 64
    per_example: str = DIRECT
