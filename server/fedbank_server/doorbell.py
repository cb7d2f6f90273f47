"""Wakes whoever waits for a message as soon as there may be one, so that nobody asks the database all the time."""

import asyncio
from collections import Counter


class Doorbell:
    """Rings for one listener or for all; a listener that was away when it rang is not kept waiting.

    Belongs to one event loop. It only decides *when* a request is handed on, never what is answered: a lost ring costs
    the length of one wait.
    """

    def __init__(self) -> None:
        self._rings: Counter[str] = Counter()
        self._heard: dict[str, int] = {}
        self._numbers: dict[str, str] = {}
        self._waiting: dict[asyncio.Future[None], str] = {}

    def ring(self, number: str = "") -> None:
        """Wake whoever has ``number``; all, if nobody has it."""
        named = {listener for listener, own in self._numbers.items() if own == number and number}
        called = named or set(self._numbers)
        self._rings.update(called)
        for future, listener in self._waiting.items():
            if listener in called and not future.done():
                future.set_result(None)

    async def wait(self, listener: str, seconds: float, number: str = "") -> None:
        """Return when it rings for ``listener``, which has this ``number`` from now on: at once if it did since the
        listener was last here, after ``seconds`` anyway.
        """
        self._numbers[listener] = number
        if self._heard.get(listener) == self._rings[listener] and seconds > 0:
            future = asyncio.get_running_loop().create_future()
            self._waiting[future] = listener
            try:
                await asyncio.wait_for(future, seconds)
            except TimeoutError:
                pass
            finally:
                del self._waiting[future]
        self._heard[listener] = self._rings[listener]
