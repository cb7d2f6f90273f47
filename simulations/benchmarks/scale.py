"""4 to 256 banks in one process: time per bank-round must stay flat, memory must grow by little per bank.

Every bank has the same number of customers and does the same work. Each size runs in a process of its own.
``memory_ratio`` is the growth of peak memory per extra bank (against the smallest size) over the size of the bank's
adapter and optimizer state (A, B, and two moments of what is trained, fp32); the target is below 3.
``time_ratio`` is time per bank-round over that of the smallest size; the target is 0.8 to 1.2.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from fedbank_simulations.resident import resident
from simulations.benchmarks.harness import publish, settings_for, timed_campaign

SIZES = (4, 16, 64, 256)
CUSTOMERS_PER_BANK = 40


def measure(banks: int) -> dict[str, float]:
    """Seconds per bank-round and peak memory of one size, in this process."""
    settings = settings_for(
        [
            f"banks={banks}",
            # Some are public and some held out; the rest is what a bank trains on.
            f"data.customers={banks * CUSTOMERS_PER_BANK}",
            "partition=iid",
            "partition.size_exponent=0",
            f"training.rounds={max(3, 64 // banks)}",
            "training.local_steps=1",
            "training.expected_batch=8",
            "simulation.threads=1",
        ]
    )
    seconds = timed_campaign(settings)
    spec = resident(settings).model.spec
    state = sum(a * b for a, b in spec.shapes().values()) + 2 * sum(a * b for a, b in spec.trainable_shapes().values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"banks": banks, "s_per_bank_round": seconds / banks, "peak_rss_bytes": peak, "state_bytes": 4 * state}


def compare() -> Iterator[dict[str, Any]]:
    """One process per size, one line per size."""
    first: dict[str, float] | None = None
    for banks in SIZES:
        command = [sys.executable, "-m", "simulations.benchmarks.scale", "--measure", str(banks)]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        first = first or row
        extra = row["banks"] - first["banks"]
        growth = (row["peak_rss_bytes"] - first["peak_rss_bytes"]) / extra if extra else 0.0
        yield {
            **row,
            "s_per_bank_round": round(row["s_per_bank_round"], 5),
            "time_ratio": round(row["s_per_bank_round"] / first["s_per_bank_round"], 3),
            "bytes_per_extra_bank": round(growth),
            "memory_ratio": round(growth / row["state_bytes"], 3),
        }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        sys.stdout.write(json.dumps(measure(int(sys.argv[2]))))
    else:
        publish("scale", compare())
