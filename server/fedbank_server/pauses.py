"""How long a bank is not called again after its calls were lost: a bank that says so itself gets no endless calls.

A call that the SuperLink could not deliver comes back with an error of Flower's; a bank can send the same error. The
first losses cost nothing, since a bank that was restarted is to be found at once.
"""

_FREE, _LONGEST_S = 3, 60.0


class Pauses:
    """Of the banks of one round; pure."""

    def __init__(self) -> None:
        self._lost: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def lost(self, bank: str, now: float) -> None:
        """A call to ``bank`` was lost."""
        count = self._lost[bank] = self._lost.get(bank, 0) + 1
        if count > _FREE:
            self._until[bank] = now + min(_LONGEST_S, 2.0 ** min(count - _FREE, 10))

    def lasts(self, bank: str, now: float) -> bool:
        """Whether ``bank`` is not to be called yet."""
        return now < self._until.get(bank, now)
