"""``fedbank client start``: the bank's resident process, and ``fedbank client status``: how it is."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedbank.cli import EXIT_OK
from fedbank.command_line import add_folder, add_json, now, print_json, say, tell
from fedbank.config import config_dir, load_client
from fedbank.durable import is_held
from fedbank.errors import FedBankError, RunError
from fedbank.model.quiet import quiet_libraries
from fedbank.supervision import UNSUPERVISED, end_with_parent, log_to, stop_on_signals, supervise_itself
from fedbank_client.home import TRAINING, Home, find_home
from fedbank_client.policy import read_policy
from fedbank_client.standing import why_stopped


def start_command(words: Sequence[str]) -> int:
    """``fedbank client start [--dir DIR] [NAME=VALUE ...]``"""
    parser = argparse.ArgumentParser(
        prog="fedbank client start",
        description="Run this bank's side until it is stopped (Ctrl-C or SIGTERM): wait for campaigns, accept those "
        "that policy.yaml allows, train. Loads the base model once. Executes nothing that the coordinator sends.",
        epilog="Settings, with their defaults:\n\n" + (config_dir() / "client.yaml").read_text("utf-8"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="such as data=csv data.path=inquiries.csv")
    add_folder(parser)
    parser.add_argument(UNSUPERVISED, action="store_true", help="do not restart after a crash: a service manager does")
    chosen = parser.parse_intermixed_args(list(words))
    home, config = find_home(chosen.dir), load_client(chosen.overrides)
    home.check_here()
    if not home.joined:
        raise RunError(
            f"Expected {home.bank} to be a member of {home.consortium}, got no join package yet. Send {home.request} "
            "to the coordinator, then: fedbank client join PACKAGE"
        )
    if not chosen.unsupervised:
        return supervise_itself(["client", "start", *words], tell)
    end_with_parent()
    log_to(home.folder / "client.log")
    quiet_libraries()
    stop = stop_on_signals()

    from fedbank_client.resident import serve  # torch, transformers and Flower take seconds

    serve(home, config, stop, tell)
    return EXIT_OK


def model_command(words: Sequence[str]) -> int:
    """``fedbank client model [NAME=VALUE ...]``"""
    parser = argparse.ArgumentParser(
        prog="fedbank client model",
        description="The digest of a base model: what policy.yaml allows and campaigns are about.",
    )
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="such as model=path model.path=DIR")
    add_json(parser)
    chosen = parser.parse_intermixed_args(list(words))
    config = load_client(chosen.overrides)

    from fedbank.model.folder import base_digest
    from fedbank_client.loading import model_folder

    found = base_digest(model_folder(config.model))
    sys.stdout.write((json.dumps({"base_model_digest": found}) if chosen.json else found) + "\n")
    return EXIT_OK


def status_command(words: Sequence[str]) -> int:
    """``fedbank client status``"""
    parser = argparse.ArgumentParser(
        prog="fedbank client status", description="How this bank's process is, and which campaign it agreed to."
    )
    add_folder(parser)
    add_json(parser)
    chosen = parser.parse_args(list(words))
    home = find_home(chosen.dir)
    about = _status(home)
    if chosen.json:
        print_json(about)
        return EXIT_OK
    role = "has left" if home.left else "member of" if home.joined else "not yet a member of"
    say(f"{home.bank}, {role} {home.consortium}: {about['state']} since {about['since'] or 'never'}")
    say(f"last answer of the coordinator: {about['last_poll'] or 'none'}")
    say(f"campaign: {about['campaign'] or 'none agreed to'}")
    if (training := about["training"]) is not None:
        end = f"expected to end {training['expected_end'] or 'after the first step is known'}"
        say(f"training: round {training['round']}, step {training['step']} of {training['num_steps']}, {end}")
    if about["stopped"]:
        say(f"STOPPED, trains nothing: {about['stopped']}")
    if about["trains_from"] is not None:
        say(f"trains again from {about['trains_from']} on: training_hours in policy.yaml")
    if about["last_error"]:
        say(f"last problem: {about['last_error']}")
    return EXIT_OK


def status_file(home: Home) -> Path:
    """Where the resident process says how it is."""
    return home.folder / "status.json"


def _status(home: Home) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads(status_file(home).read_bytes())
    except (OSError, ValueError):
        about = {"state": "never started", "since": "", "last_poll": "", "last_error": "", "pid": None}
    if about["state"] not in ("never started", "stopped") and not _runs(home):
        about |= {"state": "not running", "training": None}
    current = home.folder / "campaigns" / "current"
    campaign = current.read_text("utf-8") if current.exists() else None
    known = {"bank": home.bank, "consortium": home.consortium, "campaign": campaign, "training": None}
    stopped = why_stopped(home.folder / TRAINING)
    return {**known, **about, "trains_from": _trains_from(home), "stopped": stopped}


def _runs(home: Home) -> bool:
    """Whether a process holds the lock that the node takes."""
    return is_held(status_file(home).with_suffix(".lock"))


def _trains_from(home: Home) -> str | None:
    """When the hours begin in which the policy lets the bank train; ``None`` if it may now, or cannot be read."""
    try:
        policy = read_policy(home.policy)
    except FedBankError:
        return None
    moment = now()
    return None if policy.is_open(moment) else policy.opens(moment).isoformat(timespec="minutes")
