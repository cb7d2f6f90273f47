"""``fedbank server start``, ``run`` and ``stop``: the coordinator's two processes.

``start`` serves the banks and knows no campaign; ``run`` is one campaign. Either may crash and come back without the
other; ``run`` goes on where it was.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fedbank.certificates import read_private
from fedbank.cli import EXIT_OK
from fedbank.command_line import add_folder, now, tell
from fedbank.config import CampaignConfig, config_dir, load_campaign
from fedbank.durable import is_held, open_locked
from fedbank.errors import ConfigError, RunError
from fedbank.evidence.log import EVIDENCE, EvidenceLog
from fedbank.evidence.origin import origin
from fedbank.sealing.keys import SigningKey
from fedbank.supervision import (
    UNSUPERVISED,
    end_with_parent,
    is_supervised,
    log_to,
    stop_on_signals,
    supervise_itself,
)
from fedbank_server.campaign_folder import RUN_LOCK
from fedbank_server.consortium import Consortium, Files, find_folder, host_of, read_consortium
from fedbank_server.limits import MIB, Limits
from fedbank_server.members import active_members

_PID, _LOCK = "server.pid", "server.lock"
"""What ``stop`` finds the server by; whoever runs holds the lock, so that no other process of that number is ended."""


def start_command(words: Sequence[str]) -> int:
    """``fedbank server start``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server start",
        description="Serve the consortium's banks until stopped (Ctrl-C, SIGTERM or fedbank server stop). Restarts "
        "itself after a crash. Campaigns are run beside it: fedbank server run",
    )
    add_folder(parser)
    parser.add_argument(UNSUPERVISED, action="store_true", help="do not restart after a crash: a service manager does")
    parser.add_argument(
        "--max-update-mb",
        type=int,
        default=256,
        metavar="MB",
        help="largest update of a bank (default: 256)",
    )
    chosen = parser.parse_args(list(words))
    if not 1 <= chosen.max_update_mb <= 4096:
        raise ConfigError(f"Expected --max-update-mb from 1 to 4096, got {chosen.max_update_mb}. 256 is usual.")
    folder = find_folder(chosen.dir)

    def work() -> int:
        end_with_parent()
        log_to(folder / "server.log")
        _serve(folder, read_consortium(folder), Limits(max_object_bytes=chosen.max_update_mb * MIB), tell)
        return EXIT_OK

    if is_supervised():
        return work()
    with _only(folder / _LOCK, "fedbank server start"):
        (folder / _PID).write_text(str(os.getpid()), "ascii")
        try:
            return work() if chosen.unsupervised else supervise_itself(["server", "start", *words], tell)
        finally:
            (folder / _PID).unlink(missing_ok=True)


def run_command(words: Sequence[str]) -> int:
    """``fedbank server run [NAME=VALUE ...]``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server run",
        description="Run one campaign to its end: propose it to the banks, collect their updates round by round, hand "
        "out the adapter. Whatever interrupts it, the same command continues the same campaign.",
        epilog="Settings, with their defaults:\n\n" + (config_dir() / "campaign.yaml").read_text("utf-8"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="such as name=spring privacy.epsilon=3")
    add_folder(parser)
    parser.add_argument(UNSUPERVISED, action="store_true", help="do not restart after a crash: a service manager does")
    chosen = parser.parse_intermixed_args(list(words))
    folder, config = find_folder(chosen.dir), load_campaign(chosen.overrides)
    if is_supervised():
        return _run(folder, config)
    with _only(folder / RUN_LOCK, "fedbank server run"):
        if chosen.unsupervised:
            return _run(folder, config)
        return supervise_itself(["server", "run", *words], tell)


def _run(folder: Path, config: CampaignConfig) -> int:
    end_with_parent()
    log_to(folder / "run.log")

    from fedbank.aggregation.admit import max_message_bytes
    from fedbank_server.coordinator_grid import open_grid  # Flower takes a second
    from fedbank_server.evidence import EvidenceObserver
    from fedbank_server.run import prepare, run_campaign

    stop = stop_on_signals()
    prepared, files = prepare(folder, config), Files(folder)
    with ExitStack() as stack:
        evidence = stack.enter_context(_evidence(folder, prepared.consortium))
        grid = stack.enter_context(
            open_grid(
                prepared.consortium.private,
                read_private(files.operator_token).decode().strip(),
                files.certificate,
                home=folder / "flower",
                max_payload_bytes=max_message_bytes(prepared.spec),
                stop=stop,
                say=tell,
            )
        )
        observer = EvidenceObserver(evidence, prepared.proposal.campaign, tell)
        state = run_campaign(prepared, grid, observer, stop.is_set, tell)
    if stop.is_set():
        tell("Stopped. The same command continues the campaign.")
    elif state is not None:
        tell(f"The campaign {prepared.proposal.campaign} is complete after {state.round} rounds.")
    return EXIT_OK


def stop_command(words: Sequence[str]) -> int:
    """``fedbank server stop``"""
    parser = argparse.ArgumentParser(prog="fedbank server stop", description="Stop what fedbank server start started.")
    add_folder(parser)
    folder = find_folder(parser.parse_args(list(words)).dir)
    try:
        if not is_held(folder / _LOCK):
            raise ProcessLookupError
        number = int((folder / _PID).read_text("ascii"))
        os.kill(number, signal.SIGTERM)
    except (OSError, ValueError):
        raise RunError(f"Expected a server that runs in {folder}, got none. Nothing was stopped.") from None
    deadline = time.monotonic() + 30
    while is_held(folder / _LOCK):
        if time.monotonic() > deadline:
            raise RunError(
                f"Expected the server (process {number}) to stop within 30 s, got no end. Look at server.log."
            )
        time.sleep(0.1)
    sys.stdout.write("The server has stopped.\n")
    return EXIT_OK


def _serve(folder: Path, consortium: Consortium, limits: Limits, say: Callable[[str], None]) -> None:
    from fedbank_server.listeners import Identity
    from fedbank_server.overview import read_overview
    from fedbank_server.release_files import ReleaseFiles
    from fedbank_server.releases import renew_if_due
    from fedbank_server.repository_pages import RepositoryPages
    from fedbank_server.status_pages import StatusPages
    from fedbank_server.superlink import SuperLinkSettings, serve

    files = Files(folder)
    token = read_private(files.operator_token).decode().strip()
    settings = SuperLinkSettings(
        Identity(files.certificate, files.key, files.authority),
        database=folder / "flower" / "superlink.db",
        home=folder / "flower",
        token=token,
        public_host=host_of(consortium.public),
        public_port=_port(consortium.public),
        private_port=_port(consortium.private),
        limits=limits,
    )

    def allowed() -> Mapping[str, tuple[str, str]]:
        active = active_members(folder).active()
        return {bank: (member.node_key, member.certificate_sha256) for bank, member in active.items()}

    def ready() -> None:
        say(f"{consortium.name} listens on {consortium.public} for banks, on {consortium.private} for operators.")
        say(f"Live page: fedbank server status --url --dir {folder}")

    with _evidence(folder, consortium) as evidence:

        def note(kind: str, about: Mapping[str, Any]) -> None:
            who = str(about.get("bank") or about.get("who") or "somebody")
            evidence.append(f"server-{kind}", who, _sentence(about), "coordinator")

        serve(
            settings,
            allowed,
            on_event=note,
            pages=StatusPages(lambda now: read_overview(folder, now), token),
            releases=RepositoryPages(ReleaseFiles(folder).repository.folder),
            chores=lambda: renew_if_due(folder, now()),
            on_ready=ready,
        )


def _sentence(about: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in about.items() if name not in ("bank", "who")) or "done"


def _evidence(folder: Path, consortium: Consortium) -> EvidenceLog:
    key = SigningKey.load(Files(folder).coordinator_key)
    return EvidenceLog(folder / EVIDENCE, origin(consortium.name, "coordinator"), key)


def _only(lock: Path, command: str) -> Any:
    """No second process of the same command in this folder."""
    stack = ExitStack()
    try:
        stack.enter_context(open_locked(lock, write=True, patience_s=1.0))
    except TimeoutError:
        raise RunError(f"Expected no other {command} in {lock.parent}, got one that runs. Stop it first.") from None
    return stack


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
