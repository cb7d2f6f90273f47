"""Wakes whoever waits for a message as soon as there may be one, so that nobody asks the database all the time."""

import asyncio


class Doorbell:
    """Rings for everybody at once; a listener that was away when it rang is not kept waiting.

    Belongs to one event loop. It only decides *when* a request is handed on, never what is answered: a lost ring costs
    the length of one wait.
    """

    def __init__(self) -> None:
        self._rings = 0
        self._heard: dict[str, int] = {}
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Wake all who wait."""
        self._rings += 1
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, listener: str, seconds: float) -> None:
        """Return when it rings, at once if it rang since ``listener`` was last here; after ``seconds`` anyway."""
        if self._heard.get(listener) == self._rings and seconds > 0:
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                await asyncio.wait_for(future, seconds)
            except TimeoutError:
                pass
            finally:
                self._waiting.discard(future)
        self._heard[listener] = self._rings
