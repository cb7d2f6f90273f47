"""A whole consortium by its commands alone: processes with folders of their own, real TLS."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from consortium import free_port, wait_for

from fedbank.model.folder import base_digest, tiny_folder


class Alliance:
    """Everything is in ``folder``; processes that still run when the test ends are killed."""

    def __init__(self, folder: Path, banks: tuple[str, ...] = ("bank-a", "bank-b", "bank-c"), quorum: int = 3) -> None:
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
            invitation, package, home = self.folder / f"{bank}.inv", self.folder / f"{bank}.pkg", self.home(bank)
            self.run("server", "invite", "--dir", str(self.coordinator), "--bank", bank, "-o", str(invitation))
            self.run("client", "init", str(home), "--bank", bank, "--invitation", str(invitation))
            request = str(home / "request.json")
            self.run("server", "admit", "--dir", str(self.coordinator), request, "-o", str(package))
            self.run("client", "join", "--dir", str(home), str(package))
            self.allow(bank)

    def home(self, bank: str) -> Path:
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
        done = subprocess.run(_command(*words), capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, name: str, *words: str) -> None:
        """A command that stays; its output is in NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                _command(*words), stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )

    def start_server(self) -> None:
        self.start("server", "server", "start", "--dir", str(self.coordinator))

    def start_bank(self, bank: str, *overrides: str) -> None:
        settings = (f"seed={self.banks.index(bank)}", "data.customers=400", "threads=1", *overrides)
        self.start(bank, "client", "start", "--dir", str(self.home(bank)), *settings)

    def start_campaign(self, *overrides: str) -> None:
        self.start("campaign", "server", "run", "--dir", str(self.coordinator), "patience_s=120", *overrides)

    def wait_online(self, seconds: float = 120) -> None:
        for bank in self.banks:
            wait_for(lambda bank=bank: self.bank_status(bank)["state"] in ("online", "working"), seconds, self.logs)

    def wait_end(self, name: str, seconds: float) -> int:
        try:
            return self._processes[name].wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} did not end in {seconds} s\n{self.logs()}") from None

    def status(self) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.run("server", "status", "--dir", str(self.coordinator), "--json"))
        return shown

    def snapshot(self) -> dict[str, Any]:
        """The campaign's status file, without a process of its own."""
        for path in self.coordinator.glob("campaigns/*/status.json"):
            found: dict[str, Any] = json.loads(path.read_bytes())
            return found
        return {"committed": 0, "round": 0, "phase": "", "banks": {}}

    def bank_status(self, bank: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.home(bank) / "status.json").read_bytes())
        except FileNotFoundError:
            found = {"state": "none"}
        return found

    def history(self) -> list[dict[str, Any]]:
        (path,) = self.coordinator.glob("campaigns/*/history.jsonl")
        return [json.loads(line) for line in path.read_bytes().splitlines()]

    def kill_child(self, name: str) -> None:
        """SIGKILL to the process that does the work, below the one that supervises it."""
        parent = self._processes[name].pid
        wait_for(lambda: bool(_children(parent)), 20, self.logs)
        for child in _children(parent):
            os.kill(child, signal.SIGKILL)

    def kill(self, name: str) -> None:
        """SIGKILL to the supervising process: its child ends with it."""
        children = _children(self._processes[name].pid)
        self._processes[name].kill()
        self._processes[name].wait()
        wait_for(lambda: not any(map(_alive, children)), 30, self.logs)

    def stop(self, name: str) -> int:
        self._processes[name].send_signal(signal.SIGTERM)
        return self.wait_end(name, 60)

    def logs(self) -> str:
        files = [*self.folder.glob("*.log"), *self.folder.glob("*/*.log")]
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-2500:]}" for path in sorted(files))

    def close(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            children = _children(process.pid)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for child in children:
                if _alive(child):
                    os.kill(child, signal.SIGKILL)


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "fedbank.cli", *words]


def _children(parent: int) -> list[int]:
    try:
        text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    except OSError:
        return []
    return [int(number) for number in text.split()]


def _alive(number: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def wait_round(alliance: Alliance, committed: int, seconds: float = 120) -> float:
    """Until that many rounds are committed."""
    return wait_for(lambda: alliance.snapshot()["committed"] >= committed, seconds, alliance.logs)
