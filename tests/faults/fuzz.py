"""Lies of every kind to both sides (threat-model.md): nothing that arrives ends a process or shows a traceback.

``python tests/faults/fuzz.py --messages 20000`` prints how many messages of each kind had which outcome; half of them
go to the coordinator, half to a bank. Members and the coordinator lie with their real keys.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fuzz_bank import fuzz_bank
from fuzz_coordinator import fuzz_coordinator
from fuzz_watch import watched_log
from fuzz_wire import fuzz_wire

Outcomes = Counter[tuple[str, str]]


def fuzz(folder: Path, messages: int, seed: int) -> dict[str, Outcomes]:
    """At least ``messages`` lies; what became of them, by side. Whatever should not happen is raised."""
    found: dict[str, Outcomes] = {}
    for side, run in {"coordinator": fuzz_coordinator, "bank": fuzz_bank}.items():
        outcomes = found[side] = Outcomes()
        fuzz_wire(messages // 10, seed, outcomes)
        (folder / side).mkdir()
        with watched_log(folder / side / "fuzz.log"):
            run(folder / side, messages // 2 - outcomes.total(), seed, outcomes)
    return found


def main(words: list[str] | None = None) -> int:
    """Print the counts; an exception ends it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(words)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        found = fuzz(Path(folder), chosen.messages, chosen.seed)
    for side, outcomes in found.items():
        sys.stdout.write(f"to the {side}: {outcomes.total()}\n")
        for (kind, outcome), count in sorted(outcomes.items()):
            sys.stdout.write(f"  {kind:28} {outcome:36} {count:6}\n")
    sys.stdout.write(f"{sum(map(Counter.total, found.values()))} messages, {time.monotonic() - began:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
