"""Something that is looked at again and again while a block runs."""

import threading
from typing import Self


class Sampler:
    """Calls ``look`` every ``every_s`` seconds, in a thread, from entering to leaving it."""

    every_s: float

    def __enter__(self) -> Self:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def look(self) -> None:
        """What is done each time."""
        raise NotImplementedError

    def _run(self) -> None:
        while not self._ended.wait(self.every_s):
            self.look()
