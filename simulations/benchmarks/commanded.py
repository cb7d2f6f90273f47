"""A consortium by the commands that people use: processes with folders of their own, real TLS, the tiny model.

For benchmarks, and for tests of a whole deployment. Nothing is imported of what is measured but where things lie.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedbank.model.folder import base_digest, tiny_folder
from fedbank_server.campaign_folder import CampaignFolder, current_campaign

SERVER, CAMPAIGN = "server", "campaign"
"""The names of the coordinator's two commands; a bank's command has the bank's name."""


class Commanded:
    """Everything is in ``folder``; whatever still runs is ended by ``close``."""

    def __init__(self, folder: Path, banks: tuple[str, ...], quorum: int) -> None:
        self.folder, self.banks = folder, banks
        self.coordinator = folder / "coordinator"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._found(quorum)

    def _found(self, quorum: int) -> None:
        port = free_port()
        self.run("server", "init", str(self.coordinator), "--name", "Alliance of banks", "--port", str(port))
        settings = self.coordinator / "consortium.yaml"
        text = re.sub(r"private: \S+", f'private: "127.0.0.1:{free_port()}"', settings.read_text())
        settings.write_text(re.sub(r"(?m)^quorum: .*$", f"quorum: {quorum}", text))
        for bank in self.banks:
            self.admit(bank)

    def admit(self, bank: str) -> None:
        """A member by the usual commands, with a policy that allows the tiny model's campaigns."""
        invitation, package, home = self.folder / f"{bank}.inv", self.folder / f"{bank}.pkg", self.home(bank)
        self.run("server", "invite", "--dir", str(self.coordinator), "--bank", bank, "-o", str(invitation))
        self.run("client", "init", str(home), "--bank", bank, "--invitation", str(invitation))
        request = str(home / "request.json")
        self.run("server", "admit", "--dir", str(self.coordinator), request, "-o", str(package))
        self.run("client", "join", "--dir", str(home), str(package))
        self.allow(bank)

    def home(self, bank: str) -> Path:
        """The bank's folder."""
        return self.folder / bank

    def allow(self, bank: str, **changes: object) -> None:
        """A policy that allows the tiny model's campaigns, or other values."""
        values = {
            "max_epsilon_per_campaign": 8.0,
            "max_epsilon_total": 20.0,
            "base_model_digests": f"[{base_digest(tiny_folder())}]",
            "accept_plain_updates": "true",
        } | changes
        path = self.home(bank) / "policy.yaml"
        text = path.read_text()
        for name, value in values.items():
            text = re.sub(rf"(?m)^{name}:.*$", f"{name}: {value}", text)
        path.write_text(text)

    def run(self, *words: str) -> str:
        """A command that ends; what it printed."""
        done = subprocess.run(command(*words), capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{words} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self, name: str, *words: str) -> None:
        """A command that stays; its output is in NAME.log."""
        self.start_program(name, *command(*words))

    def start_program(self, name: str, *words: str) -> None:
        """Another program in the place of such a command."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                words, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )

    def start_server(self) -> None:
        """``fedbank server start``"""
        self.start(SERVER, "server", "start", "--dir", str(self.coordinator))

    def start_bank(self, bank: str, *overrides: str) -> None:
        """``fedbank client start``"""
        settings = (f"seed={self.banks.index(bank)}", "data.customers=400", "threads=1", *overrides)
        self.start(bank, "client", "start", "--dir", str(self.home(bank)), *settings)

    def start_campaign(self, *overrides: str) -> None:
        """``fedbank server run``"""
        self.start(CAMPAIGN, "server", "run", "--dir", str(self.coordinator), "patience_s=120", *overrides)

    def wait_online(self, seconds: float = 120) -> None:
        """Until every bank has reported for duty."""
        for bank in self.banks:
            wait_for(lambda bank=bank: self.bank_status(bank)["state"] in ("online", "working"), seconds, self.logs)

    def wait_end(self, name: str, seconds: float) -> int:
        """The exit code of a command."""
        try:
            return self._processes[name].wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{name} did not end in {seconds} s\n{self.logs()}") from None

    def status(self) -> dict[str, Any]:
        """``fedbank server status``"""
        shown: dict[str, Any] = json.loads(self.run("server", "status", "--dir", str(self.coordinator), "--json"))
        return shown

    def snapshot(self) -> dict[str, Any]:
        """The status file of the campaign that began last, without a process of its own."""
        kept = self._kept()
        try:
            found: dict[str, Any] = json.loads(kept.status.read_bytes()) if kept else {}
        except FileNotFoundError:
            found = {}
        return found or {"campaign": "", "committed": 0, "round": 0, "phase": "", "banks": {}}

    def bank_status(self, bank: str) -> dict[str, Any]:
        """The bank's status file."""
        try:
            found: dict[str, Any] = json.loads((self.home(bank) / "status.json").read_bytes())
        except FileNotFoundError:
            found = {"state": "none", "last_poll": "", "pid": None}
        return found

    def history(self) -> list[dict[str, Any]]:
        """The committed rounds of the campaign that began last."""
        kept = self._kept()
        return [json.loads(line) for line in kept.history.read_bytes().splitlines()] if kept else []

    def worker(self, name: str) -> int | None:
        """The process that does the work of a command, below the one that supervises it."""
        return next(iter(children(self._processes[name].pid)), None)

    def kill_child(self, name: str) -> None:
        """SIGKILL to the process that does the work."""
        parent = self._processes[name].pid
        wait_for(lambda: bool(children(parent)), 20, self.logs)
        for child in children(parent):
            os.kill(child, signal.SIGKILL)

    def kill(self, name: str) -> None:
        """SIGKILL to the supervising process: its child ends with it."""
        below = children(self._processes[name].pid)
        self._processes[name].kill()
        self._processes[name].wait()
        wait_for(lambda: not any(map(alive, below)), 30, self.logs)

    def stop(self, name: str) -> int:
        """SIGTERM; the exit code."""
        self._processes[name].send_signal(signal.SIGTERM)
        return self.wait_end(name, 60)

    def logs(self) -> str:
        """The ends of all logs."""
        files = [*self.folder.glob("*.log"), *self.folder.glob("*/*.log")]
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-2500:]}" for path in sorted(files))

    def close(self) -> None:
        """End everything."""
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            below = children(process.pid)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for child in below:
                if alive(child):
                    os.kill(child, signal.SIGKILL)

    def _kept(self) -> CampaignFolder | None:
        name = current_campaign(self.coordinator)
        return None if name is None else CampaignFolder.of(self.coordinator, name)


def command(*words: str) -> list[str]:
    """``fedbank WORDS...``"""
    return [sys.executable, "-m", "fedbank.cli", *words]


def children(parent: int) -> list[int]:
    """The processes right below one."""
    try:
        text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    except OSError:
        return []
    return [int(number) for number in text.split()]


def alive(number: int) -> bool:
    """Whether the process is there and has not ended."""
    try:
        return "Z" not in Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float, explain: Callable[[], str] = lambda: "") -> float:
    """Seconds until ``condition`` held; ``TimeoutError`` with what ``explain`` says if that takes too long."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds} s\n{explain()}")
        time.sleep(0.02)
    return time.monotonic() - began


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
