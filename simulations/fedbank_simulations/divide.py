"""``fedbank divide``: one data file as one file a bank, to try a deployment on this machine."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fedbank.cli import EXIT_OK
from fedbank.command_line import say
from fedbank.config import load_simulate
from fedbank.durable import write_atomic
from fedbank.errors import ConfigError
from fedbank_simulations.scenario import divide


def divide_command(words: Sequence[str]) -> int:
    """``fedbank divide output=DIR [NAME=VALUE ...]``"""
    parser = argparse.ArgumentParser(
        prog="fedbank divide",
        description="Divide customers among banks as fedbank simulate does, and write each bank's inquiries into "
        "DIR/BANK.jsonl, which fedbank client start data=jsonl data.path=FILE trains on.",
    )
    parser.add_argument("overrides", nargs="+", metavar="NAME=VALUE", help="output=DIR and settings of simulate")
    config = load_simulate(parser.parse_args(list(words)).overrides)
    if config.output is None:
        raise ConfigError("Expected output=DIR, got none. Name a folder for the banks' files.")
    folder = Path(config.output)
    shares, public = divide(config)
    for name, units in {**shares, "public": public}.items():
        inquiries = [inquiry for unit in units for inquiry in unit.inquiries]
        path = folder / f"{name}.jsonl"
        if path.exists():
            raise ConfigError(f"Expected no {path}, got one. Choose another folder or remove it.")
        lines = "".join(json.dumps(asdict(inquiry), ensure_ascii=False) + "\n" for inquiry in inquiries)
        write_atomic(path, lines.encode(), mode=0o600)
        say(f"{path}: {len(units)} customers, {len(inquiries)} inquiries")
    return EXIT_OK
