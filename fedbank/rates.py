"""Token buckets: how often each of many may do something, in bounded memory."""

import time
from collections import OrderedDict
from collections.abc import Callable


class Rate:
    """A token bucket for every key: ``burst`` requests at once, ``per_second`` for ever.

    Of more than ``max_keys`` keys, the one unseen longest is forgotten, and starts anew with a full bucket.
    """

    def __init__(
        self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic, max_keys: int = 100_000
    ) -> None:
        self._per_second, self._burst, self._clock, self._max_keys = per_second, float(burst), clock, max_keys
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, key: str) -> bool:
        """Whether ``key`` may send one more request now; counts it if so."""
        return self.wait_s(key) == 0.0

    def wait_s(self, key: str) -> float:
        """0 if ``key`` may send one more request now, which is counted; else in how many seconds it may."""
        now = self._clock()
        left, at = self._buckets.pop(key, (self._burst, now))
        left = min(self._burst, left + max(now - at, 0.0) * self._per_second)
        self._buckets[key] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) / self._per_second
