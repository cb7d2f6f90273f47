"""Rounds of numeric banks as processes of their own, over real TLS: real keys, envelopes and nodes, and no model.

``python numeric_members.py serve|bank FOLDER [NAME]`` is what the processes run. A bank trains for as many seconds as
``FOLDER/NAME/seconds`` says (0 without the file), and until ``FOLDER/NAME/hold`` is gone.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "server"))
sys.path.insert(0, str(Path(__file__).parent))

from consortium import Consortium, run_as, wait_for
from grid_consortium import CoordinatorFolder, Seen
from numeric_bank import NumericBank, numeric_app, numeric_terms

from fedbank_server.nodes import Timing

_NUMBER = "number-of-banks"


class Members(Consortium):
    """A coordinator and banks ``bank-1`` ...; the campaign itself runs in the test's own process (``rounds``)."""

    program = __file__

    def __init__(self, folder: Path, banks: int = 3, **terms: Any) -> None:
        self.terms = numeric_terms(banks, **terms)
        super().__init__(folder, tuple(self.terms.weights))
        (folder / _NUMBER).write_text(str(banks))
        self.books = {bank: NumericBank(bank, self.terms, folder / bank) for bank in self.terms.weights}
        """What each bank was asked and charged."""
        for bank in self.banks:
            (folder / bank).mkdir()
        self.seen = Seen()
        self.coordinator = CoordinatorFolder(folder / "coordinator", self.terms, self.seen)

    def trains_for(self, bank: str, seconds: float) -> None:
        """From its next round on."""
        temporary = self.folder / bank / "seconds.new"
        temporary.write_text(f"{seconds}")
        temporary.replace(self.folder / bank / "seconds")

    def hold(self, bank: str) -> None:
        """It does not finish its training until ``go_on``."""
        (self.folder / bank / "hold").touch()

    def go_on(self, bank: str) -> None:
        (self.folder / bank / "hold").unlink(missing_ok=True)

    def leave(self, bank: str) -> None:
        """The bank stops as a person stops it: the coordinator is told."""
        self.processes[bank].terminate()
        assert self.processes[bank].wait(30) == 0, self.log_of(bank)()

    def wait_online(self, *banks: str) -> None:
        for bank in banks or self.banks:
            wait_for(lambda bank=bank: self.status(bank)["state"] == "online", 90, self.log_of(bank))

    def rounds(self, grid: Any, until: int = 0, seconds: float = 150.0) -> Any:
        """The campaign up to a committed round, or to its end; after ``seconds`` as far as it is."""
        timing = Timing(nodes_every_s=0.3, enrol_every_s=2.0, retry_pause_s=0.5)
        end = time.monotonic() + seconds

        def stop() -> bool:
            return time.monotonic() > end or 0 < until <= len(self.seen.committed)

        return self.coordinator.run(grid, timing, stop=stop)

    @contextmanager
    def campaign(self, grid: Any) -> Iterator[Callable[[], Any]]:
        """``rounds`` on a thread of its own; what it comes to."""
        outcome: Future[Any] = Future()

        def work() -> None:
            try:
                outcome.set_result(self.rounds(grid))
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
                outcome.set_exception(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        yield lambda: outcome.result(180)
        thread.join(180)


def _numeric(folder: Path, name: str) -> Callable[..., Any]:
    terms = numeric_terms(int((folder / _NUMBER).read_text()))
    return numeric_app(_TimedBank(name, terms, folder / name))


class _TimedBank(NumericBank):
    def train(self, request: bytes) -> Any:
        """As long as the files say."""
        seconds = self.folder / "seconds"
        self.seconds = float(seconds.read_text()) if seconds.exists() else 0.0
        while (self.folder / "hold").exists():
            time.sleep(0.02)
        return super().train(request)


if __name__ == "__main__":
    run_as(_numeric)
