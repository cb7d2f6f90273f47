"""The live page of a consortium that runs, in a real browser: what a person sees, that no script fails, that nothing is
loaded from elsewhere.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
from alliance import Alliance, wait_round
from consortium import wait_for

from fedbank_server.consortium import read_consortium
from fedbank_server.status_command import page_address

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
ROUNDS, STEPS = 3, 30

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome is installed")]


class _Text(HTMLParser):
    """What a page says, by the id of the element that it is in, and its drawings."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.said: dict[str, str] = {}
        self.plots: dict[str, int] = {}
        self._ids: list[str] = []
        self._plot = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag == "svg":
            self._plot = found.get("aria-label") or ""
            self.plots[self._plot] = 0
        if tag == "circle":
            self.plots[self._plot] += 1
        if tag in ("section", "div", "tbody", "h1", "span", "td", "tr", "dd", "dt", "main", "table"):
            self._ids.append(found.get("id") or (self._ids[-1] if self._ids else ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("section", "div", "tbody", "h1", "span", "td", "tr", "dd", "dt", "main", "table") and self._ids:
            self._ids.pop()

    def handle_data(self, data: str) -> None:
        name = self._ids[-1] if self._ids else ""
        self.said[name] = " ".join(f"{self.said.get(name, '')} {data}".split())


@dataclass(frozen=True)
class Visit:
    """One look at the page: its content as the browser shows it, what it logged, whom it asked."""

    page: _Text
    log: str
    asked: set[str]


def visit(alliance: Alliance, name: str) -> Visit:
    """Open the page as a person does who copies the address that ``status --url`` prints."""
    folder = alliance.folder / name
    folder.mkdir()
    trace, picture = folder / "net.json", folder / "page.png"
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",  # for containers; the page is ours
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--ignore-certificate-errors",  # of the consortium's own authority, which no browser knows
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={trace}",
        "--net-log-capture-mode=Everything",
        "--enable-logging=stderr",
        "--window-size=1200,1500",
        "--virtual-time-budget=6000",
        f"--screenshot={picture}",
        "--dump-dom",
        page_address(alliance.coordinator),
    ]
    environment = os.environ | {"HOME": str(folder), "DBUS_SESSION_BUS_ADDRESS": "disabled:"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert picture.stat().st_size > 10_000
    return Visit(_Text(done.stdout), done.stderr, set(_asked(trace.read_text("utf-8", "replace"))))


def _asked(trace: str) -> Iterator[str]:
    """What the page asked for, or was loaded for it: every request in the partition of its site, or by its script.

    The browser's own calls home, which find nobody here, are in partitions of their own.
    """
    for line in trace.splitlines():
        try:
            about = json.loads(line.rstrip(",")).get("params", {})
        except (ValueError, AttributeError):
            continue  # the head and the end of the file
        by_page = about.get("initiator", "not an origin") != "not an origin"
        if "url" in about and (by_page or "https://127.0.0.1" in about.get("network_isolation_key", "")):
            yield about["url"]


def check_quiet(alliance: Alliance, seen: Visit) -> None:
    """No script failed, and whatever was asked for was asked of the consortium's own listener."""
    assert "CONSOLE" not in seen.log, seen.log
    own = read_consortium(alliance.coordinator).private
    assert {urlsplit(url).netloc for url in seen.asked} == {own}
    assert {urlsplit(url).path for url in seen.asked} <= {"/", "/status.json", "/favicon.ico"}


@pytest.fixture(scope="module")
def alliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alliance]:
    """Three banks whose second and later rounds are being trained: one tells nothing of its ledger, one everything."""
    made = Alliance(tmp_path_factory.mktemp("browser"))
    try:
        made.allow("bank-b", disclose_epsilon="nothing")
        made.allow("bank-c", disclose_epsilon="total")
        made.start_server()
        for bank in made.banks:
            made.start_bank(bank)
        made.wait_online()
        made.start_campaign(f"training.rounds={ROUNDS}", f"training.local_steps={STEPS}", "training.expected_batch=16")
        yield made
    finally:
        made.close()


def test_the_page_shows_a_campaign_while_it_runs(alliance: Alliance) -> None:
    wait_round(alliance, 1, 240)
    with held_in_training(alliance, "bank-a"):
        seen = visit(alliance, "running")
        own = alliance.run("client", "status", "--dir", str(alliance.home("bank-a")))
    check_quiet(alliance, seen)
    assert re.search(rf"training: round \d, step \d+ of {STEPS}, expected to end 20", own)
    said = seen.page.said
    assert said["name"] == "Alliance of banks" and said["roster"].startswith("3 members")
    assert said.get("alarm", "") == ""
    assert re.search(rf"Round [123] of {ROUNDS}", said["campaign"]) and "Quorum 3 updates" in said["campaign"]
    assert all(bank in said["banks"] for bank in alliance.banks)
    assert re.search(rf"bank-a training .* about step \d+ of {STEPS}, end expected", said["banks"])
    assert "not told, of 8.00" in said["banks"] and re.search(r"\d\.\d\d of 8\.00 \(\d\.\d\d\)", said["banks"])
    plots = seen.page.plots
    committed = plots["Time of a round by round"]
    assert committed in (1, 2, 3) and plots["Updates in a round by round"] == committed
    assert plots["Epsilon spent, a line a bank by round"] == 2 * committed, "two of three banks disclose"


def test_the_page_shows_the_end_of_a_campaign(alliance: Alliance) -> None:
    assert alliance.wait_end("campaign", 300) == 0, alliance.logs()
    seen = visit(alliance, "ended")
    check_quiet(alliance, seen)
    assert f"Round {ROUNDS} of {ROUNDS}" in seen.page.said["campaign"]
    assert f"Committed {ROUNDS}" in seen.page.said["campaign"]
    assert set(seen.page.plots.values()) == {ROUNDS, 2 * ROUNDS}
    shown = alliance.status()
    assert {bank["bank"]: bank["epsilon_spent"] is not None for bank in shown["banks"]} == {
        "bank-a": True,
        "bank-b": False,
        "bank-c": True,
    }
    spent = [one["epsilon"]["bank-a"] for one in shown["rounds"]]
    assert spent == sorted(spent) and 0 < spent[0] < spent[-1] <= 8.0 + 1e-3


@contextmanager
def held_in_training(alliance: Alliance, bank: str) -> Iterator[None]:
    """The bank's process stands still in the middle of a round, so that there is time to look."""

    def is_training() -> bool:
        return (alliance.bank_status(bank).get("training") or {"step": 0})["step"] > 0

    while True:
        wait_for(is_training, 240, alliance.logs)
        process = alliance.bank_status(bank)["pid"]
        os.kill(process, signal.SIGSTOP)
        time.sleep(1.0)  # an answer that was on its way is there by then
        if alliance.snapshot()["banks"][bank]["state"] == "asked":
            break
        os.kill(process, signal.SIGCONT)
        time.sleep(0.5)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)
