"""What a consortium does when one of its processes dies: how long until it goes on, and what was lost or paid twice.

Four banks with the tiny model, started by the commands that people use, in one long campaign of short private rounds.
SIGKILL comes at a random moment of a round, to the process that works; whatever is needed then, its supervisor does.
Two kills of the same process are at least 20 s apart: sooner ones are a crash loop, which the supervisor slows down.

``R1``, the SuperLink: ``back_s`` is from the kill until every bank has had a call answered by the new process.
``R2``, the SuperLink with its supervisor, away for 65 s: ``resumed_s`` is from the command that starts it until the
next round is committed. The ServerApp (``fedbank server run``): from the kill until then.
``R3``, a bank: ``online_s`` is from the kill until a call of its new process was answered. And two further campaigns,
in which a third of the banks, rounded down, fail from the first round to the last: killed with their supervisors, and
frozen with SIGSTOP. Deadlines are 10 to 20 s there; ``seconds`` is from the failure to the last commit.

``rounds_lost``: rounds that are not in the history where they should be, or lack the update of a bank that did not
fail. ``rounds_redone``: the most further attempts that the rounds of one trial needed. ``charged_twice``: rounds in
which a bank's ledger holds anything but one charge. ``ok``: those and the target, which each line has beside it.
``python -m simulations.benchmarks.recovery [--trials 20] [--json]``; twenty minutes on two cores that have other work
too. Exit code 1 if a target is missed.
"""

import argparse
import os
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedbank.privacy.ledger import LEDGER, read_ledger
from fedbank_client.home import TRAINING
from simulations.benchmarks.commanded import CAMPAIGN, SERVER, Commanded, wait_for
from simulations.benchmarks.reporting import argument_parser, write_lines

BANKS = ("bank-a", "bank-b", "bank-c", "bank-d")
FAILING = len(BANKS) // 3
BACK_S, RESUMED_S, ONLINE_S = 15.0, 90.0, 75.0
"""The targets."""
DOWN_S = 65.0
"""Flower gives up a run that it has not heard of for a minute."""
APART_S = 21.0
PATIENCE_S = 300.0
ROUNDS_WITHOUT = 3
_ROUND = ("training.local_steps=20", "training.expected_batch=16")
_ONLINE = ("online", "working")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """One fault: seconds until it was over, and the rounds that it may have touched."""

    seconds: float
    rounds: range


class Faults:
    """A running consortium, and what is done to it."""

    def __init__(self, consortium: Commanded, say: Say) -> None:
        self._consortium, self._say = consortium, say

    def begin(self) -> None:
        """Everything runs, and the first rounds are committed."""
        self._say("The consortium starts ...")
        self._consortium.start_server()
        for bank in BANKS:
            self._consortium.start_bank(bank)
        self._consortium.wait_online()
        self._consortium.start_campaign("training.rounds=2000", *_ROUND)
        for _ in range(3):
            self._next_commit()

    def superlink_killed(self) -> Trial:
        """R1"""
        self._spare(SERVER)
        first, killed, new = self._kill(SERVER)
        self._wait(lambda: all(self._answered_since(bank, new) for bank in BANKS))
        return self._over("the SuperLink was killed: banks served again", time.monotonic() - killed, first)

    def superlink_away(self) -> Trial:
        """R2"""
        self._random_moment()
        self._say(f"the SuperLink is away for {DOWN_S:.0f} s ...")
        self._consortium.kill(SERVER)
        time.sleep(DOWN_S)
        first, began = self._committed() + 1, time.monotonic()
        self._consortium.start_server()
        self._next_commit()
        return self._over("it is back: the next round committed", time.monotonic() - began, first)

    def campaign_killed(self) -> Trial:
        """R2"""
        first, killed, _ = self._kill(CAMPAIGN)
        self._next_commit()
        return self._over("the ServerApp was killed: the next round committed", time.monotonic() - killed, first)

    def bank_killed(self, bank: str) -> Trial:
        """R3"""
        first, killed, new = self._kill(bank)
        self._wait(lambda: self._answered_since(bank, new))
        return self._over(f"{bank} was killed: online again", time.monotonic() - killed, first)

    def campaign_without(self, how: str, fail: Callable[[str], None], mend: Callable[[str], None]) -> dict[str, Any]:
        """R3: a campaign in which the last banks fail from its first round to its last."""
        failing, working = BANKS[-FAILING:], BANKS[:-FAILING]
        self._say(f"a campaign with {', '.join(failing)} {how} throughout ...")
        name, settings = f"with-banks-{how}", (f"training.rounds={ROUNDS_WITHOUT}", *_ROUND)
        self._consortium.start_campaign(f"name={name}", *settings)
        self._wait(lambda: self._asked(name, failing))
        began = time.monotonic()
        for bank in failing:
            fail(bank)
        self._wait(lambda: self._committed() == ROUNDS_WITHOUT)
        seconds = time.monotonic() - began
        for bank in failing:
            mend(bank)
        ended = self._consortium.wait_end(CAMPAIGN, PATIENCE_S)
        books, rounds = Books.of(self._consortium), range(1, ROUNDS_WITHOUT + 1)
        absent = [number for number in rounds if set(books.lines[number]["missing"]) == set(failing)]
        twice = sum(books.charged_twice(number, working) for number in rounds)
        self._say(f"complete after {seconds:.1f} s; those that failed have the adapter too now")
        return {
            "case": f"R3 banks {how}",
            "banks": len(BANKS),
            "failing": FAILING,
            "rounds": len(books.lines),
            "rounds_without_them": len(absent),
            "seconds": round(seconds, 1),
            "charged_twice": twice,
            "ok": ended == 0 and len(books.lines) == len(absent) == ROUNDS_WITHOUT and not twice,
        }

    def end_campaign(self) -> None:
        """As a person ends it: the same command would continue it."""
        self._consortium.stop(CAMPAIGN)

    def _spare(self, name: str) -> None:
        """Until the process has lived for so long that its end is no crash loop."""
        worker = self._consortium.worker(name)
        self._wait(lambda: worker is not None and _age_s(worker) > APART_S)

    def _kill(self, name: str) -> tuple[int, float, datetime]:
        """SIGKILL at a random moment of a round: its number, when it was, and when the next process was there."""
        self._random_moment()
        first, old, killed = self._committed() + 1, self._consortium.worker(name), time.monotonic()
        self._consortium.kill_child(name)
        self._wait(lambda: self._consortium.worker(name) not in (None, old))
        return first, killed, datetime.now(UTC)

    def _answered_since(self, bank: str, moment: datetime) -> bool:
        status = self._consortium.bank_status(bank)
        answered = status["last_poll"]
        return status["state"] in _ONLINE and bool(answered) and datetime.fromisoformat(answered) > moment

    def _over(self, what: str, seconds: float, first: int) -> Trial:
        self._say(f"{what} after {seconds:.1f} s")
        if self._committed() < first:
            self._next_commit()
        return Trial(seconds, range(first, self._committed() + 1))

    def _random_moment(self) -> None:
        self._next_commit()
        time.sleep(random.uniform(0.0, statistics.median(map(_seconds, self._consortium.history()[-8:]))))

    def _next_commit(self) -> None:
        before = self._committed()
        self._wait(lambda: self._committed() > before)

    def _asked(self, campaign: str, banks: Sequence[str]) -> bool:
        shown = self._consortium.snapshot()
        return shown["campaign"].startswith(campaign) and all(shown["banks"][b]["state"] == "asked" for b in banks)

    def _committed(self) -> int:
        return int(self._consortium.snapshot()["committed"])

    def _wait(self, condition: Callable[[], bool]) -> None:
        wait_for(condition, PATIENCE_S, self._consortium.logs)


def _seconds(line: dict[str, Any]) -> float:
    return (datetime.fromisoformat(line["committed"]) - datetime.fromisoformat(line["began"])).total_seconds()


def _age_s(process: int) -> float:
    """How long ago a process was started (proc_pid_stat(5): field 22)."""
    ticks = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Books:
    """What a campaign's history and its banks' ledgers say: lines by round, and each bank's charges of each round."""

    lines: dict[int, dict[str, Any]]
    charges: dict[str, Counter[int]]

    @classmethod
    def of(cls, consortium: Commanded) -> "Books":
        """Of the campaign that began last."""
        history, campaign = consortium.history(), consortium.snapshot()["campaign"]
        charges = {bank: _charges(consortium.home(bank), campaign) for bank in BANKS}
        return cls({line["round"]: line for line in history}, charges)

    def lost(self, number: int) -> bool:
        """Whether the round is not there, does not follow on the one before, or lacks a bank's update."""
        line, before = self.lines.get(number), self.lines.get(number - 1)
        follows = line is not None and (number == 1 or (before is not None and line["base"] == before["adapter"]))
        return line is None or not follows or bool(line["missing"])

    def redone(self, number: int) -> int:
        """Attempts at the round that came to nothing."""
        return len(self.lines[number]["aborted"]) if number in self.lines else 0

    def charged_twice(self, number: int, banks: Sequence[str] = BANKS) -> int:
        """Banks whose ledger holds anything but one charge of the round."""
        return sum(self.charges[bank][number] != 1 for bank in banks)

    def figures(self, trials: Sequence[Trial], measured: str, target_s: float, redone: int) -> dict[str, Any]:
        """Of faults of one kind, of which each may have ``redone`` further attempts."""
        seconds, rounds = [trial.seconds for trial in trials], {number for trial in trials for number in trial.rounds}
        most = max(sum(map(self.redone, trial.rounds)) for trial in trials)
        lost, twice = sum(map(self.lost, rounds)), sum(map(self.charged_twice, rounds))
        return {
            "trials": len(trials),
            f"{measured}_s_max": round(max(seconds), 1),
            f"{measured}_s_median": round(statistics.median(seconds), 1),
            "target_s": target_s,
            "rounds": len(rounds),
            "rounds_lost": lost,
            "rounds_redone": most,
            "charged_twice": twice,
            "ok": max(seconds) <= target_s and most <= redone and not lost and not twice,
        }


def _charges(home: Path, campaign: str) -> Counter[int]:
    book = read_ledger(home / TRAINING / LEDGER)
    return Counter(charge.round for charge in book.charges if charge.campaign == campaign)


def measure(trials: int, say: Say) -> Iterator[dict[str, Any]]:
    """One line a case; ``trials`` of R1, and a quarter as many of the other kills."""
    with tempfile.TemporaryDirectory() as place:
        say("Four banks are invited and join ...")
        consortium = Commanded(Path(place), BANKS, quorum=len(BANKS) - FAILING)
        try:
            for bank in BANKS:
                consortium.allow(bank, max_epsilon_total=100.0)
            faults = Faults(consortium, say)
            faults.begin()
            yield from _one_campaign(faults, consortium, trials)
            _short_deadlines(consortium)
            yield from _campaigns_without(faults, consortium)
        finally:
            consortium.close()


def _one_campaign(faults: Faults, consortium: Commanded, trials: int) -> Iterator[dict[str, Any]]:
    superlink, campaign, banks = list[Trial](), list[Trial](), list[Trial]()
    for number in range(trials):
        if number % 4 == 0:
            campaign.append(faults.campaign_killed())
        if number % 4 == min(2, trials - 1):
            banks.append(faults.bank_killed(BANKS[len(banks) % len(BANKS)]))
        superlink.append(faults.superlink_killed())
    away = [faults.superlink_away()]
    faults.end_campaign()
    books = Books.of(consortium)
    yield {"case": "R1 SuperLink killed", **books.figures(superlink, "back", BACK_S, 0)}
    yield {"case": "R2 SuperLink away", "down_s": DOWN_S, **books.figures(away, "resumed", RESUMED_S, 1)}
    yield {"case": "R2 ServerApp killed", **books.figures(campaign, "resumed", RESUMED_S, 1)}
    yield {"case": "R3 bank killed", **books.figures(banks, "online", ONLINE_S, 0)}


def _campaigns_without(faults: Faults, consortium: Commanded) -> Iterator[dict[str, Any]]:
    frozen: list[int] = []

    def freeze(bank: str) -> None:
        frozen.append(consortium.worker(bank) or 0)
        os.kill(frozen[-1], signal.SIGSTOP)

    def go_on(bank: str) -> None:
        os.kill(frozen.pop(), signal.SIGCONT)

    yield faults.campaign_without("killed", consortium.kill, consortium.start_bank)
    yield faults.campaign_without("frozen", freeze, go_on)


def _short_deadlines(consortium: Commanded) -> None:
    path = consortium.coordinator / "consortium.yaml"
    text = re.sub(r"(?m)^  floor_s: .*$", "  floor_s: 10", path.read_text())
    path.write_text(re.sub(r"(?m)^  ceiling_s: .*$", "  ceiling_s: 20", text))


def main() -> int:
    """Print the lines; 1 if a target is missed."""
    parser = argument_parser("recovery")
    parser.add_argument("--trials", type=_at_least_one, default=20, help="of R1; a quarter as many of the other kills")
    chosen = parser.parse_args()
    began, missed = time.monotonic(), []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # everything is ended on the way out

    def say(text: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:6.1f} s  {text}\n")
        sys.stderr.flush()

    def watched() -> Iterator[dict[str, Any]]:
        for line in measure(chosen.trials, say):
            missed.extend([line["case"]] if not line["ok"] else [])
            yield line

    write_lines("recovery", watched(), as_json=chosen.json)
    if missed:
        say(f"Missed: {', '.join(missed)}")
    return 1 if missed else 0


def _at_least_one(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("expected at least 1 trial")
    return number


if __name__ == "__main__":
    sys.exit(main())
