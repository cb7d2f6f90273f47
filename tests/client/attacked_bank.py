"""A bank's service as its command starts it, customers who ask it, and attackers beside them."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from hostile_clients import word
from served_bank import tiny_bank

CUSTOMERS, ASKED, TRIES = 24, 20, 3
_START_S = 120.0
_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True, slots=True)
class Measured:
    """One attack: the others' 95th percentile before and meanwhile in ms, and what the attacker got."""

    before_ms: float
    meanwhile_ms: float
    seen: Counter[int]

    @property
    def ratio(self) -> float:
        return self.meanwhile_ms / self.before_ms


class AttackedBank:
    """``fedbank client serve`` with the tiny model and a release, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.home = tiny_bank(folder)[2].folder
        self.said: list[str] = []
        words = ["-m", "fedbank.cli", "client", "serve", "--dir", str(self.home), "--unsupervised", "port=0"]
        self._process = subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_ENVIRONMENT
        )
        self._listening = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()
        if not self._listening.wait(_START_S) or self._process.poll() is not None:
            raise RuntimeError("the service did not start:\n" + "".join(self.said))
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self._attacker = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("hostile_clients.py")), str(self.http.base_url.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.customers = [self.token(f"customer-{number}") for number in range(CUSTOMERS)]
        self.operator = self.token("operator-1", "operator")
        self.sessions: list[str] = []
        self.rss_at_first_mib = 0.0
        self._asked = 0

    def token(self, subject: str, role: str = "customer-channel") -> dict[str, str]:
        found = self.http.post("/v1/development/token", json={"role": role, "subject": subject})
        return {"Authorization": f"Bearer {found.json()['access_token']}"}

    def ask(self, question: str = "How do I open an account?", **fields: Any) -> httpx.Response:
        """As the next customer."""
        self._asked += 1
        headers = self.customers[self._asked % len(self.customers)]
        answer = self.http.post("/v1/query", json={"question": question, "max_length": 8} | fields, headers=headers)
        self.sessions += [answer.json()["session_id"]] if answer.status_code == 200 else []
        return answer

    def p95_ms(self, count: int = ASKED) -> float:
        """Of ``count`` customers' questions, all of which must be answered."""
        times = []
        for _ in range(count):
            began = time.perf_counter()
            answer = self.ask()
            times.append(1000 * (time.perf_counter() - began))
            assert answer.status_code == 200, answer.text
        return sorted(times)[math.ceil(0.95 * count) - 1]

    @contextmanager
    def under(self, attack: str, subjects: int = 1) -> Iterator[Counter[int]]:
        """While ``attack`` goes on; in the end what the attacker saw."""
        names = [f"{word('subject')}-{attack}-{number}" for number in range(subjects)]
        tokens = [self.token(name)["Authorization"].removeprefix("Bearer ") for name in names]
        seen: Counter[int] = Counter()
        self._order({"name": attack, "tokens": tokens})
        try:
            yield seen
        finally:
            self._order({"name": ""})
            seen.update({int(status): count for status, count in json.loads(self._read()).items()})

    def measured(self, attack: str, subjects: int = 1, pause_s: float = 0.2) -> Measured:
        """The best of a few tries: other programs use the machine too."""
        tries = []
        for _ in range(TRIES):
            before = self.p95_ms()
            with self.under(attack, subjects) as seen:
                time.sleep(pause_s)  # it is under way
                meanwhile = self.p95_ms()
            tries.append(Measured(before, meanwhile, seen))
            if tries[-1].ratio <= 2:
                break
        total = sum((one.seen for one in tries), Counter[int]())
        best = min(tries, key=lambda one: one.ratio)
        return Measured(best.before_ms, best.meanwhile_ms, total)

    def engine(self) -> dict[str, Any]:
        """Its queue and its slots."""
        found: dict[str, Any] = self.http.get("/v1/operator/status", headers=self.operator).json()["engine"]
        return found

    def wait_free(self, seconds: float = 10.0) -> float:
        """Until no slot is taken and nobody waits; how long that was."""
        began = time.monotonic()
        self.wait_until(lambda: not any(self.engine()[name] for name in ("running", "waiting")), seconds)
        return time.monotonic() - began

    def wait_until(self, holds: Callable[[], bool], seconds: float) -> None:
        """For a condition, within a bound."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"not within {seconds:g} s"
            time.sleep(0.02)

    @property
    def rss_mib(self) -> float:
        return float(psutil.Process(self._process.pid).memory_info().rss) / (1 << 20)

    @property
    def open_files(self) -> int:
        return psutil.Process(self._process.pid).num_fds()

    def told(self) -> str:
        """All that it wrote: its output, its log, and its metrics."""
        metrics = self.http.get("/metrics", headers=self.operator).text
        logs = [path.read_text("utf-8") for path in self.home.rglob("*.log*") if path.is_file()]
        return "\n".join([*self.said, *logs, metrics])

    def close(self) -> None:
        self._attacker.kill()
        self._attacker.wait()
        self.http.close()
        self._process.terminate()
        try:
            self._process.wait(40)
        finally:
            self._process.kill()

    def _order(self, order: dict[str, Any]) -> None:
        assert self._attacker.stdin is not None
        self._attacker.stdin.write(json.dumps(order) + "\n")
        self._attacker.stdin.flush()

    def _read(self) -> str:
        assert self._attacker.stdout is not None
        return self._attacker.stdout.readline()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(line)
            if "Chat: " in line:
                self.url = line.partition("Chat: ")[2].split()[0]
                self._listening.set()
        self._listening.set()
