"""``fedbank evaluate``: scores of a base model with and without a release's adapter, on a suite or on own customers.

The release is inspected before any library of models sees it, and its weights are read by a parser of tensors: nothing
in the folder is executed, and this process needs no network.
"""

import argparse
import hashlib
import socket
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from fedbank.cli import EXIT_OK
from fedbank.command_line import print_json, say
from fedbank.config import ClientConfig, load_client
from fedbank.data.files import Columns, read_inquiries
from fedbank.data.synthetic import SyntheticSpec, generate
from fedbank.data.units import Unit, group_by_customer
from fedbank.errors import DataError
from fedbank.release.build import Scores
from fedbank.release.inspection import inspect
from fedbank.release.offline import adapter_folder

OFFLINE, MADE_UP = "--offline", "--made-up"
_MADE_UP = SyntheticSpec(4)


def evaluate_command(words: Sequence[str]) -> int:
    """``fedbank evaluate DIR [--suite FILE] [NAME=VALUE ...]``"""
    parser = argparse.ArgumentParser(
        prog="fedbank evaluate",
        description="Score the base model without and with a release's adapter: mean nats per answer token (nll) and "
        "share of answers matched exactly, on a suite, or on the bank's own held-out customers (data=...).",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a release: the folder with its four files")
    parser.add_argument(
        "overrides", nargs="*", metavar="NAME=VALUE", help="as of fedbank client start, such as model=path"
    )
    records = parser.add_mutually_exclusive_group()
    records.add_argument("--suite", type=Path, metavar="FILE", help="JSON lines with question, answer and customer")
    records.add_argument(MADE_UP, action="store_true", help="score on four made-up customers: the data are not read")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument(OFFLINE, action="store_true", help="refuse every connection while the adapter is loaded")
    chosen = parser.parse_intermixed_args(list(words))
    if chosen.offline:
        _cut_off()
    config = load_client(chosen.overrides)
    found = score_release(adapter_folder(chosen.folder), config, chosen.suite, made_up=chosen.made_up)
    if chosen.json:
        print_json(asdict(found))
        return EXIT_OK
    say(f"{found.records} records:")
    for name in found.adapter:
        say(f"  {name}: base {found.base[name]:.4f}, with the adapter {found.adapter[name]:.4f}")
    return EXIT_OK


def score_release(folder: Path, config: ClientConfig, suite: Path | None, *, made_up: bool = False) -> Scores:
    """Scores of the release in ``folder`` on ``suite``, or on the held-out customers of the configured data.

    ``made_up``: on a few made-up customers instead, the same everywhere. The configured data are not read then.

    Raises:
        ReleaseError: the folder is not exactly a release.
        ModelError: as ``open_release``.
        DataError: there is nothing to score on.
    """
    manifest = inspect(folder).manifest  # before torch is loaded

    from fedbank.data.encode import Encoder
    from fedbank.training.evaluate import evaluate
    from fedbank_client.released_model import open_release

    units = _records(config, suite, made_up=made_up)
    if not units:
        raise DataError("Expected records to score on, got none. Give --suite FILE, or data with more customers.")
    released = open_release(folder, manifest, config)
    data = Encoder(released.tokenizer, manifest.training["max_length"]).encode(units)
    before = evaluate(released.model, data, device=released.device)
    released.put_on()
    after = evaluate(released.model, data, device=released.device)
    digest = hashlib.sha256(suite.read_bytes()).hexdigest() if suite else ""
    base_scores, scores = ({"nll": found.nll, "exact_match": found.exact_match} for found in (before, after))
    return Scores(digest, after.n, base_scores, scores)


def _records(config: ClientConfig, suite: Path | None, *, made_up: bool) -> list[Unit]:
    if suite is not None:
        return _suite(suite)
    if made_up:
        return group_by_customer(generate(_MADE_UP, seed=0))

    from fedbank_client.customers import load_training_units

    return load_training_units(config.data, config.held_out_fraction, seed=config.seed)[1]


def _suite(path: Path) -> list[Unit]:
    return group_by_customer(read_inquiries(path, "jsonl", Columns("question", "answer", "customer", "customer")))


def _cut_off() -> None:
    """From here on this process makes no connection, whatever a library would like."""

    def refused(*words: object, **named: object) -> NoReturn:
        raise OSError("this process has no network")

    for name in ("connect", "connect_ex", "sendto", "sendmsg", "bind"):
        setattr(socket.socket, name, refused)
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo"):
        setattr(socket, name, refused)  # a question for an address is a message too
