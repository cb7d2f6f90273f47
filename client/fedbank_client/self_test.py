"""Tried before a bank trains: are its customers' gradients independent of each other here, to the last bit?"""

from collections.abc import Callable
from dataclasses import replace

import torch

from fedbank.adapter.lora import AdaptedModel
from fedbank.audit.invariance import run_self_test
from fedbank.training.local import LocalSettings


class MachineTest:
    """The self-test of this process: made once for every adapter and its settings; ``say`` gets what was found."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last: tuple[AdaptedModel, LocalSettings, LocalSettings] | None = None

    def settings_for(self, model: AdaptedModel, settings: LocalSettings, device: torch.device) -> LocalSettings:
        """``settings`` as they are, or with one customer at a time where this machine needs it.

        ``RunError`` if not even one customer has the same gradient twice: the bank must not train here.
        """
        if self._last is None or self._last[0] is not model or self._last[1] != settings:
            found = run_self_test(model, settings, device)
            self._say(found.sentence())
            self._last = model, settings, replace(settings, micro_batch=found.micro_batch)
        return self._last[2]
