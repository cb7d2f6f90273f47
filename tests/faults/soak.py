"""A consortium of real processes through a long campaign, with a random fault every so often, and its books checked.

``python tests/faults/soak.py --rounds 100 --seconds-between-faults 30 --seed 1`` (``make soak``) starts a coordinator
and banks by the commands that people use, with the tiny model that ships with FedBank, real TLS and private training.
Again and again something happens to one of them, or to all: SIGKILL to the process that works or to the one that
supervises it, SIGSTOP for a while, a disk that takes no more, everything at once. After every fault, and at the end,
``invariants.Checker`` reads the folders. Exit code 1, with the seed and every violation, if one does not hold, or if no
round is committed for ``--patience`` seconds; the folder is kept then.

What a person would have to do is done here and counted: a command that ended because somebody must act is started
again. A full disk is a limit on the size of the files that a process writes (RLIMIT_FSIZE): a write is cut short, and
the next one fails, without being root. The seed chooses faults and moments; the scheduler adds its own chance.
"""

import argparse
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from invariants import Checker

from fedbank.membership.documents import Invitation
from simulations.benchmarks.commanded import CAMPAIGN, SERVER, Commanded, alive, children, wait_for

_LEAST_BATCH = 8


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one soak: faults come ``every_s`` seconds apart on average, after the end of the one before.

    In a short soak each also waits for a round that was committed since the one before (``a_round_between``), there
    are no more than ``most_faults``, and none lasts for more than ``longest_s``.
    """

    rounds: int = 100
    every_s: float = 30.0
    seed: int = 0
    banks: int = 3
    steps: int = 10
    patience_s: float = 300.0
    a_round_between: bool = False
    most_faults: float = math.inf
    longest_s: float = 20.0


class SoakAlliance(Commanded):
    """Banks of which all but one make a quorum; a round does not wait for one that is away for longer than 20 s."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._settings = settings
        banks = tuple(f"bank-{number}" for number in range(1, settings.banks + 1))
        super().__init__(folder, banks, quorum=max(1, settings.banks - 1))

    def run(self, *words: str) -> str:
        """Terms are changed before the first bank is invited."""
        said = super().run(*words)
        if words[:2] == (SERVER, "init"):
            path = self.coordinator / "consortium.yaml"
            path.write_text(re.sub(r"(?m)^  floor_s: .*$", "  floor_s: 20", path.read_text()))
        return said

    def begin(self, name: str) -> None:
        """Start what ``name`` names, as a person does."""
        if name == SERVER:
            self.start_server()
        elif name == CAMPAIGN:
            training = {"rounds": self._settings.rounds, "local_steps": self._settings.steps}
            training["expected_batch"] = _LEAST_BATCH
            self.start_campaign(*(f"training.{key}={value}" for key, value in training.items()))
        else:
            self.start_bank(name, "data.customers=200")

    def kill(self, name: str) -> None:
        """On a machine that is busy, a process whose supervisor was killed may take longer than usual to end."""
        below = children(self._processes[name].pid)
        with suppress(TimeoutError):
            super().kill(name)
        wait_for(lambda: not any(map(alive, below)), 90, self.logs)

    def ended(self, name: str) -> int | None:
        """The exit code of a command that has ended."""
        return self._processes[name].poll()

    def names(self) -> list[str]:
        """Everything that runs."""
        return [SERVER, CAMPAIGN, *self.banks]

    def last_words(self, name: str) -> str:
        """Of a command that has ended."""
        lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")[:240]


@dataclass
class Soak:
    """One soak in ``folder``; ``say`` gets a line for every thing that happens."""

    settings: Settings
    folder: Path
    say: Callable[[str], None]
    faults: Counter[str] = field(default_factory=Counter)
    persons: list[str] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    checks: int = 0
    _fault_ended: float | None = None

    def run(self) -> dict[str, Any]:
        """Figures, with every violation; ``violations`` is empty if all held."""
        self._random = random.Random(self.settings.seed)
        self._began = time.monotonic()
        self._alliance = alliance = SoakAlliance(self.folder, self.settings)
        secrets = [Invitation.read(path.read_bytes()).secret for path in sorted(self.folder.glob("*.inv"))]
        forms = tuple(form for secret in secrets for form in (secret, secret.hex().encode()))
        homes = {bank: alliance.home(bank) for bank in alliance.banks}
        logs = tuple(self.folder / f"{name}.log" for name in alliance.names())
        self._checker = Checker(alliance.coordinator, homes, secrets=forms, logs=logs)
        try:
            for name in (SERVER, *alliance.banks):
                alliance.begin(name)
            alliance.wait_online()
            alliance.begin(CAMPAIGN)
            self._until_the_end()
            if not self.violations:
                self._hand_out()
        finally:
            alliance.close()
        if not self.violations:
            self.check("the end", ended=True)
        return self._figures()

    def check(self, after: str, *, ended: bool = False) -> None:
        """Note every invariant that does not hold."""
        self.checks += 1
        for violation in self._checker.check(ended=ended):
            self.violations.append(f"after {after}: {violation}")
            self._tell(f"VIOLATION {self.violations[-1]}")

    def _until_the_end(self) -> None:
        """Faults and checks until the campaign's command ends well."""
        due, rounds, moved, at_fault = self._next_fault(), 0, time.monotonic(), 0
        while self._alliance.ended(CAMPAIGN) != 0 and not self.violations:
            time.sleep(0.1)
            self._as_a_person()
            now, committed = time.monotonic(), self._committed()
            if committed > rounds:
                rounds, moved = committed, now
                if self._fault_ended is not None:
                    self.returns.append(now - self._fault_ended)
                    self._fault_ended = None
            if now - moved > self.settings.patience_s:
                self.violations.append(f"no round was committed for {self.settings.patience_s:.0f} s after {rounds}")
            elif now >= due and (rounds > at_fault or not self.settings.a_round_between):
                self._fault()
                self.check("a fault")
                due, at_fault = self._next_fault(), rounds

    def _next_fault(self) -> float:
        if self.faults.total() >= self.settings.most_faults:
            return math.inf
        return time.monotonic() + self.settings.every_s * self._random.uniform(0.5, 1.5)

    def _committed(self) -> int:
        return int(self._alliance.snapshot()["committed"])

    def _as_a_person(self) -> None:
        """Start again whatever ended because somebody has to act, now that what was wrong is over."""
        for name in self._alliance.names():
            code = self._alliance.ended(name)
            if code is not None and not (name == CAMPAIGN and code == 0):
                self.persons.append(f"{name} ended with {code}: {self._alliance.last_words(name)}")
                self._tell(f"a person starts {self.persons[-1]}")
                self._alliance.begin(name)

    def _fault(self) -> None:
        kinds: dict[str, Callable[[str], None]] = {
            "kill": self._kill_worker,
            "kill-supervisor": self._kill_supervisor,
            "freeze": self._freeze,
            "full-disk": self._fill_disk,
        }
        if self._random.random() < 0.08:
            self.faults["restart-all"] += 1
            self._restart_all()
        else:
            kind = self._random.choice(sorted(kinds))
            name = self._random.choice([SERVER, CAMPAIGN, self._random.choice(self._alliance.banks)])
            self.faults[f"{kind} {name}"] += 1
            kinds[kind](name)
        self._fault_ended = time.monotonic()

    def _seconds(self, *choices: float) -> float:
        return min(self._random.choice(choices), self.settings.longest_s)

    def _kill_worker(self, name: str) -> None:
        worker = self._alliance.worker(name)
        self._tell(f"SIGKILL to {name}" + ("" if worker else ", which was not there"))
        if worker is not None:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)

    def _kill_supervisor(self, name: str) -> None:
        pause_s = self._seconds(0.0, 3.0, 10.0)
        self._tell(f"SIGKILL to the supervisor of {name}, back after {pause_s:.0f} s")
        self._alliance.kill(name)
        time.sleep(pause_s)
        self._alliance.begin(name)

    def _freeze(self, name: str) -> None:
        worker, seconds = self._alliance.worker(name), self._seconds(2.0, 8.0, 20.0)
        self._tell(f"SIGSTOP to {name} for {seconds:.0f} s" + ("" if worker else ", which was not there"))
        if worker is not None:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGSTOP)
                time.sleep(seconds)
                os.kill(worker, signal.SIGCONT)

    def _fill_disk(self, name: str) -> None:
        worker, seconds = self._alliance.worker(name), self._seconds(2.0, 6.0, 15.0)
        limit = self._random.choice((0, 1_000, 30_000, 300_000))
        self._tell(f"no file of {name} beyond {limit} bytes for {seconds:.0f} s")
        if worker is not None:
            with suppress(ProcessLookupError):
                _, hard = resource.prlimit(worker, resource.RLIMIT_FSIZE)
                resource.prlimit(worker, resource.RLIMIT_FSIZE, (limit, hard))
                time.sleep(seconds)
                resource.prlimit(worker, resource.RLIMIT_FSIZE, (hard, hard))

    def _restart_all(self) -> None:
        self._tell("SIGKILL to everything, and everything started again")
        names = self._alliance.names()
        self._random.shuffle(names)
        for name in names:
            self._alliance.kill(name)
        self._random.shuffle(names)
        for name in names:
            self._alliance.begin(name)

    def _hand_out(self) -> None:
        """A bank that was away when the adapter was handed out gets it when the command is run again."""
        for _ in range(3):
            self._as_a_person()
            missing = [bank for bank in self._alliance.banks if not self._has_adapter(bank)]
            if not missing:
                return
            self.persons.append(f"the adapter is handed out again, for {', '.join(missing)}")
            self._tell(self.persons[-1])
            self._alliance.wait_online()
            self._alliance.begin(CAMPAIGN)
            self._alliance.wait_end(CAMPAIGN, self.settings.patience_s)

    def _has_adapter(self, bank: str) -> bool:
        return any(self._alliance.home(bank).glob("campaigns/*/adapter/README.md"))

    def _tell(self, text: str) -> None:
        done, total = self._committed(), self.settings.rounds
        filled = 20 * done // total
        bar = "█" * filled + "░" * (20 - filled)
        self.say(f"{time.monotonic() - self._began:7.1f} s {bar} {done:3d}/{total}  {text}")

    def _figures(self) -> dict[str, Any]:
        history = [json.loads(line) for path in self._histories() for line in path.read_bytes().splitlines()]
        return {
            "seed": self.settings.seed,
            "rounds": len(history),
            "faults": sum(self.faults.values()),
            "checks": self.checks,
            "violations": self.violations,
            "seconds": round(time.monotonic() - self._began, 1),
            "by_fault": dict(sorted(self.faults.items())),
            "rounds_without_a_bank": sum(bool(line["missing"]) for line in history),
            "attempts_below_quorum": sum(len(line["aborted"]) for line in history),
            "next_commit_after_fault_s": {
                "median": round(statistics.median(self.returns), 1) if self.returns else None,
                "longest": round(max(self.returns), 1) if self.returns else None,
            },
            "started_by_a_person": self.persons,
        }

    def _histories(self) -> list[Path]:
        return sorted((self.folder / "coordinator").glob("campaigns/*/history.jsonl"))


def main(words: list[str] | None = None) -> int:
    """Print what happens and the figures; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seconds-between-faults", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--banks", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="local steps of a round: how long a round takes")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds without a committed round")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object; lines go to stderr")
    chosen = parser.parse_args(words)
    settings = Settings(
        chosen.rounds, chosen.seconds_between_faults, chosen.seed, chosen.banks, chosen.steps, chosen.patience
    )
    out = sys.stderr if chosen.json else sys.stdout

    def say(text: str) -> None:
        out.write(text + "\n")
        out.flush()

    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    figures = Soak(settings, folder, say).run()
    if chosen.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        for name, value in figures.items():
            say(f"{name:28} {value}")
    if figures["violations"]:
        say(f"{len(figures['violations'])} violations with --seed {settings.seed}; everything is in {folder}")
        return 1
    say("All invariants held.")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
