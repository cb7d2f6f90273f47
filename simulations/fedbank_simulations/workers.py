"""Banks of one process that work side by side, on threads."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import torch

from fedbank_simulations.resident import Resident

_SMALL_MODEL = 50_000_000
"""Parameters below which a second thread inside one bank's training brings less than a second bank beside it."""


@contextmanager
def side_by_side(home: Resident, banks: int) -> Iterator[Executor | None]:
    """Threads for up to ``simulation.banks_at_once`` of ``banks``; ``None`` if they are to work one after the other.

    The threads of PyTorch are shared out among them. Leaving waits for the banks that are at work, whose updates are
    thereby kept.
    """
    threads = torch.get_num_threads()
    at_once = min(banks, home.config.simulation.banks_at_once or _banks_at_once(home, threads))
    if at_once == 1:
        yield None
        return
    torch.set_num_threads(max(1, threads // at_once))  # before the pool starts: a thread takes it over at its start
    executor = ThreadPoolExecutor(at_once, "bank")
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _banks_at_once(home: Resident, threads: int) -> int:
    small = sum(parameter.numel() for parameter in home.base.model.parameters()) < _SMALL_MODEL
    return threads if small and home.base.device.type == "cpu" else 1
