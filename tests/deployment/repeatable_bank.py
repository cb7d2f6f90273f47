"""A bank like any other whose noise can be drawn again: ``python repeatable_bank.py HOME SEED`` is its process.

Tests compare campaigns bit by bit. A deployed bank cannot be told to: streams are passed in code, and this is the code.
"""

import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fedbank.privacy.noise import RandomStream

CUSTOMERS = 100


def stream_of(seed: int, bank: str, number: int) -> RandomStream:
    """The randomness of round ``number`` at ``bank``."""
    return RandomStream.derived(seed, bank, number)


def serve_desk(folder: Path, seed: int, desk_of: Callable[..., Any], app_of: Callable[[Any], Any]) -> None:
    """Be the node of the bank in ``folder`` until SIGTERM, with the app that ``app_of`` makes of the desk."""
    from fedbank.config import load_client
    from fedbank.evidence.log import EVIDENCE, EvidenceLog
    from fedbank.evidence.origin import origin
    from fedbank.supervision import end_with_parent, stop_on_signals
    from fedbank_client.home import read_home
    from fedbank_client.loading import load_resources
    from fedbank_client.node import NodeSettings, run_node
    from fedbank_client.resident import _access
    from fedbank_client.start import status_file

    end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop, home = stop_on_signals(), read_home(folder)
    config = load_client([f"seed={seed}", f"data.customers={CUSTOMERS}", "threads=1"])
    own = EvidenceLog(folder / EVIDENCE, origin(home.consortium, home.bank), home.load_signing_key())
    with own as evidence:

        def note(action: str, about: str, result: str) -> None:
            evidence.append(action, about, result, home.bank)

        stream = partial(stream_of, seed, home.bank)
        desk = desk_of(home, config, load_resources(config, logging.info), note, stream_for_round=stream)
        run_node(NodeSettings(_access(home), status_file(home), folder / "flower"), app_of(desk), stop)


def main(folder: Path, seed: int) -> None:
    """An honest bank: the product's own desk and app."""
    from fedbank_client.desk import Desk
    from fedbank_client.resident import bank_app

    serve_desk(folder, seed, Desk, bank_app)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
