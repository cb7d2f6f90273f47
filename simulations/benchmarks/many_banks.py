"""A campaign of many banks on one machine by the real commands: what a round takes, and what memory it takes.

A whole consortium as it is deployed: ``fedbank server start``, ``fedbank server run`` and for each bank
``fedbank client start`` with a folder, keys, ledger and evidence of its own, over real TLS. Each bank's process has the
tiny model and 400 made-up customers, and trains with differential privacy. The quorum is all banks: every round
waits for the slowest, and ``accepted`` says how many updates each round has.

``round_s``: seconds of each round, in the first one all is cold. ``campaign_s``: from the command ``run`` to its end,
the proposal and the handing out of the adapter included. ``online_s``: from the start of all banks at once to the last
one that is online. Memory is looked at every two seconds, supervisors included. PSS counts a page
that k processes share as 1/k of it, so that the sum is what the machine gives; USS is what a process has for itself
alone; RSS is what it would take alone on its machine. ``*_bytes`` are the most that there was: ``coordinator_*`` of the
processes of ``start`` and ``run`` together, ``bank_*`` of the median bank, ``all_*`` of everything at one moment.
``python -m simulations.benchmarks.many_banks [--banks 20] [--rounds 5] [--json]``
"""

import hashlib
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from simulations.benchmarks.commanded import CAMPAIGN, Commanded
from simulations.benchmarks.reporting import argument_parser, write_lines
from simulations.benchmarks.sampling import Sampler

_COORDINATOR = "coordinator"
_KINDS = ("pss", "uss", "rss")
_PATIENCE_S = 900.0


class Watch(Sampler):
    """Memory of this process's descendants while it runs: the most of each member of the consortium, and of all."""

    every_s = 2.0

    def __init__(self, consortium: Commanded) -> None:
        folders = {bank: consortium.home(bank) for bank in consortium.banks} | {_COORDINATOR: consortium.coordinator}
        self._owners = {str(folder): name for name, folder in folders.items()}
        self.most: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_KINDS, 0))
        self.together = 0

    def look(self) -> None:
        """Once."""
        found = self._now()
        self.together = max(self.together, sum(memory["pss"] for memory in found.values()))
        for name, memory in found.items():
            most = self.most[name]
            most.update({kind: max(most[kind], memory[kind]) for kind in _KINDS})

    def _now(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_KINDS, 0))
        for process in psutil.Process().children(recursive=True):
            try:
                owner = next((self._owners[word] for word in process.cmdline() if word in self._owners), None)
                memory = process.memory_full_info() if owner is not None else None
            except psutil.Error:
                continue  # it has ended
            if owner is not None and memory is not None:
                for kind in _KINDS:
                    found[owner][kind] += getattr(memory, kind)
        return found


def measure(banks: int, rounds: int) -> Iterator[dict[str, Any]]:
    """One line."""
    with tempfile.TemporaryDirectory() as place:
        names = tuple(f"bank-{number:02d}" for number in range(1, banks + 1))
        consortium = Commanded(Path(place), names, quorum=banks)
        try:
            with Watch(consortium) as watch:
                times = run_campaign(consortium, rounds)
            yield {
                "banks": banks,
                "rounds": rounds,
                "model": "tiny",
                "customers_a_bank": 400,
                **times,
                **rounds_of(consortium),
                **memory_of(watch, names),
                "same_adapter": is_everywhere(consortium),
            }
        finally:
            consortium.close()


def run_campaign(consortium: Commanded, rounds: int) -> dict[str, float]:
    """Start everything, run one campaign to its end; how long that took."""
    consortium.start_server()
    began = time.perf_counter()
    for bank in consortium.banks:
        consortium.start_bank(bank)
    consortium.wait_online(_PATIENCE_S)
    online = time.perf_counter()
    consortium.start_campaign(f"training.rounds={rounds}", f"patience_s={_PATIENCE_S:g}")
    if (code := consortium.wait_end(CAMPAIGN, _PATIENCE_S)) != 0:
        raise RuntimeError(f"the campaign ended with exit code {code}\n{consortium.logs()}")
    return {"online_s": round(online - began, 1), "campaign_s": round(time.perf_counter() - online, 1)}


def rounds_of(consortium: Commanded) -> dict[str, Any]:
    """How long each round took and how many updates it has."""
    lines = consortium.history()
    seconds = [
        (datetime.fromisoformat(line["committed"]) - datetime.fromisoformat(line["began"])).total_seconds()
        for line in lines
    ]
    return {
        "round_s": [round(each, 2) for each in seconds],
        "round_s_median": round(statistics.median(seconds), 2),
        "accepted": [len(line["accepted"]) for line in lines],
    }


def memory_of(watch: Watch, banks: tuple[str, ...]) -> dict[str, int]:
    """Bytes."""
    line = {f"coordinator_{kind}_bytes": watch.most[_COORDINATOR][kind] for kind in ("pss", "rss")}
    for kind in _KINDS:
        line[f"bank_{kind}_bytes"] = round(statistics.median(watch.most[bank][kind] for bank in banks))
    return line | {"all_pss_bytes": watch.together}


def is_everywhere(consortium: Commanded) -> bool:
    """Whether the coordinator and every bank have the adapter, the same file byte by byte."""
    folders = [consortium.coordinator, *map(consortium.home, consortium.banks)]
    files = [path for folder in folders for path in folder.glob("campaigns/*/adapter/adapter_model.safetensors")]
    return len(files) == len(folders) and len({hashlib.sha256(path.read_bytes()).digest() for path in files}) == 1


if __name__ == "__main__":
    parser = argument_parser("many_banks")
    parser.add_argument("--banks", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    write_lines("many_banks", measure(chosen.banks, chosen.rounds), as_json=chosen.json)
