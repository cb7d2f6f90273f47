"""Peak memory of PyTorch, from every single allocation and release."""

from collections.abc import Callable

import numpy as np
import torch


def peak_bytes(run: Callable[[], None]) -> int:
    """The most bytes that PyTorch's CPU allocator had given out at once during ``run``, beyond those before it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    results = profile.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(sizes).max())
