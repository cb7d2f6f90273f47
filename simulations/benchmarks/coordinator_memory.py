"""How much memory the coordinator needs for a round of 20 banks, in all its processes, and how much disk it leaves.

A deployment (``deployed``): the SuperLink in its process with its database, the campaign in this one with its store and
evidence on disk, and the nodes of all banks in a few other processes, which do not count. Calls and updates come over
real TLS connections, one a bank, as fast as the listeners let them. A thread looks at the memory of both processes 20
times a second; the kernel's own peaks (``VmHWM``) are printed too, and what counts is the larger of their sum at one
moment as seen and the sum of the kernel's peaks, which need not have been at one moment.
Targets for ``peak_bytes``: 2 GB at 20 banks of 4 million parameters, 4 GB at 20 of 40 million.
``python -m simulations.benchmarks.coordinator_memory [--banks 20] [--parameters 4000000] [--rounds 3] [--json]``
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simulations.benchmarks.deployed import Deployment, run_campaign
from simulations.benchmarks.reporting import argument_parser, write_lines
from simulations.benchmarks.sampling import Sampler


class Watch(Sampler):
    """Memory of processes while it runs: the most that they had together."""

    every_s = 0.05

    def __init__(self, pids: list[int]) -> None:
        self._pids, self.together = pids, 0

    def look(self) -> None:
        """Once."""
        self.together = max(self.together, sum(memory(pid, "VmRSS") for pid in self._pids))


def memory(pid: int, kind: str) -> int:
    """Bytes: ``VmRSS`` is what the process has now, ``VmHWM`` the most that it ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the process {pid} has ended")


def measure(banks: int, parameters: int, rounds: int, processes: int) -> Iterator[dict[str, Any]]:
    """One line; ``parameters`` are trained ones, fp32."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        deployment = Deployment(folder, banks, parameters, processes=processes)
        with deployment.running() as grid:
            server, campaign = deployment.server_pid(), os.getpid()
            before = {"superlink": memory(server, "VmRSS"), "campaign": memory(campaign, "VmRSS")}
            disk: list[int] = []
            with Watch([server, campaign]) as watch:
                moments = run_campaign(deployment, grid, rounds, lambda number: disk.append(disk_of(folder)))
            superlink, own = memory(server, "VmHWM"), memory(campaign, "VmHWM")
    yield {
        "banks": banks,
        "parameters": deployment.terms(1).adapter.num_trainable(),
        "rounds": rounds,
        "peak_bytes": superlink + own,
        "peak_bytes_together": watch.together,
        "peak_bytes_superlink": superlink,
        "peak_bytes_campaign": own,
        "bytes_before": before,
        "disk_bytes_after_each_round": disk,
        "seconds_per_round": round((moments[-1] - moments[0]) / (len(moments) - 1), 2),
    }


def disk_of(folder: Path) -> int:
    """Bytes of the coordinator's files: the campaign's and Flower's database."""
    paths = [*(folder / "coordinator").rglob("*"), *folder.glob("superlink.db*")]
    return sum(path.stat().st_size for path in paths if path.is_file())


if __name__ == "__main__":
    parser = argument_parser("coordinator_memory")
    parser.add_argument("--banks", type=int, default=20)
    parser.add_argument("--parameters", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2, help="of banks; each has one bank at work at a time")
    chosen = parser.parse_args()
    if chosen.rounds < 2:
        sys.exit("Expected --rounds of at least 2, to time them.")
    report = f"coordinator_memory_{chosen.banks}x{chosen.parameters // 1_000_000}m"
    lines = measure(chosen.banks, chosen.parameters, chosen.rounds, chosen.processes)
    write_lines("coordinator_memory", lines, as_json=chosen.json, report=report)
