"""Attacks a real consortium on loopback and prints every attempt, what it should get and what it got.

``python tests/deployment/attackers.py [--json] [--ports-only]``. First the two ports of a coordinator, from outside and
from a member that turned; then a campaign of three banks, one of which sends whatever it likes. Exits with 1 if any
attempt got further than it should. ``test_attackers.py`` and ``tests/faults/test_abuse.py`` run the same tables.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

from attempt import Outcome, attempt
from port_attempts import ATTEMPTS
from port_tools import start, still_serves


def on_the_ports(folder: Path) -> Iterator[Outcome]:
    """Every attempt on the listeners; after the last one an honest bank must still be served."""
    target = start(folder)
    try:
        for one in ATTEMPTS:
            yield attempt(one, target, target.processes["serve"].pid)
        served = still_serves(target)
        yield Outcome(
            "and after all that an honest bank", None, "served", "served" if served else "nothing", served, 0, 0
        )
    finally:
        target.stop()


def in_a_campaign(folder: Path) -> Iterator[Outcome]:
    """Every hostile update of a member in a campaign that goes on without it."""
    from hostile_campaign import HostileCampaign

    campaign = HostileCampaign(folder)
    try:
        campaign.run()
        yield from campaign.outcomes()
    finally:
        campaign.close()


def show(outcomes: list[Outcome]) -> None:
    """The table for people."""
    table = Table("attempt", "expected", "got", "ok")
    for heading in ("memory MiB", "s"):
        table.add_column(heading, justify="right")
    for one in outcomes:
        mark = "yes" if one.ok else "NO"
        table.add_row(one.name, one.expected, one.got, mark, f"{one.grew_mib:.0f}", f"{one.seconds:.1f}")
    Console(width=190, highlight=False).print(table)


def main(words: list[str] | None = None) -> int:
    """Attack; 1 if anything got too far."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--ports-only", action="store_true", help="leave the campaign out, which takes a minute or two")
    chosen = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="attackers-") as folder:
        outcomes = list(on_the_ports(Path(folder) / "ports"))
        if not chosen.ports_only:
            outcomes += in_a_campaign(Path(folder) / "campaign")
    failed = [one.name for one in outcomes if not one.ok]
    if chosen.json:
        sys.stdout.write(json.dumps({"attempts": [asdict(one) for one in outcomes], "failed": failed}) + "\n")
    else:
        show(outcomes)
        sys.stdout.write(f"{len(outcomes) - len(failed)} of {len(outcomes)} attempts got what they should.\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
