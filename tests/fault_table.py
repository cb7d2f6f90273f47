"""The table of faults that a consortium survives: ``@pytest.mark.fault(N)`` marks a test of row N, ``make faults`` runs
them all and prints the table with what was seen and how long it took."""

from collections import defaultdict
from collections.abc import Callable

import pytest
from rich.console import Console
from rich.table import Table

FAULTS = {
    1: "SuperLink killed in mid-round: back within 15 s, nothing redone",
    2: "SuperLink down for 120 s: resumed within 90 s of its return, at most one round redone",
    3: "ServerApp killed: resumed within 90 s of its return, at most one round redone",
    4: "bank killed and restarted at once: online within 75 s",
    5: "node process killed while it trains: charged once",
    6: "partition of 30 s, of 75 s, of 10 min",
    7: "a bank ten times slower than the others",
    8: "below quorum: nothing changes",
    9: "one answer 500, 502, 503, 429, 413",
    10: "half-open TCP connection",
    11: "duplicate, replayed and foreign replies",
    12: "spoofed sender",
    13: "NaN, Inf, 1e38 in an update",
    14: "wrong shape, rank, type; missing or extra tensor; broadcast",
    15: "norm 100 C; weight 1e12, 0, -1",
    16: "decompression bomb, body of 300 MB, 100 000 tensors",
    17: "unknown key, key revoked in mid-campaign, one bank's key with another's name",
    18: "certificate expired, not yet valid, of another CA, of another name",
    19: "clock 30 s ahead, 400 s behind",
    20: "control and runtime routes from outside",
    21: "altered bundle, noise overridden: policy refuses, the bank stays up",
    22: "disk full at a commit, a charge, an evidence entry",
    23: "checkpoint cut or with a flipped bit",
    24: "database locked or corrupt",
    28: "an older, frozen, mixed or forged repository of releases: refused, the old release serves",
    29: "archives, pickles, links and other files in an adapter",
    30: "an adapter's configuration that would load something else",
    31: "malformed safetensors: headers, offsets, shapes, values",
    32: "a release that crashes whoever loads it, or that a person finds worse on own customers, stays out",
    33: "promoted and rolled back under load: over within 5 s, no request lost, no answer mixed",
    35: "hostile clients of the service: everybody else is answered as before",
    37: "privacy budget exhausted in mid-campaign",
    38: "key file open to others, token visible among processes",
    39: "lies of every kind, signed with real keys, to both sides: no process ends, the campaign goes on",
}
"""Row to what happens and what must hold."""
_SEEN = "seen"


@pytest.fixture
def seen(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Tells the table what was measured, or the message that a person sees: ``seen("back after 3.1 s")``.

    A test of several rows says of which one it speaks: ``seen("back after 3.1 s", row=1)``.
    """

    def note(text: str, row: int | None = None) -> None:
        record_property(_SEEN if row is None else f"{_SEEN} in row {row}", text)

    return note


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A report knows the row of its test."""
    for item in items:
        for mark in item.iter_markers("fault"):
            item.user_properties += [("fault", number) for number in mark.args]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table, if any test of it ran."""
    rows: dict[int, list[pytest.TestReport]] = defaultdict(list)
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.getreports(outcome):
            if isinstance(report, pytest.TestReport) and (report.when == "call" or report.failed):
                for name, number in report.user_properties:
                    if name == "fault" and isinstance(number, int):
                        rows[number].append(report)
    if not rows:
        return
    table = Table(title="Faults", title_justify="left")
    for column in ("row", "fault", "passed", "s", "seen"):
        table.add_column(column, justify="right" if column in ("row", "passed", "s") else "left", overflow="fold")
    for number in sorted(rows):
        reports = rows[number]
        passed = sum(report.passed for report in reports)
        seconds = sum(report.duration for report in reports)
        names = (_SEEN, f"{_SEEN} in row {number}")
        told = [str(value) for report in reports for name, value in report.user_properties if name in names]
        table.add_row(
            str(number), FAULTS[number], f"{passed} of {len(reports)}", f"{seconds:.1f}", "\n".join(dict.fromkeys(told))
        )
    terminalreporter.write("\n")
    Console(width=150).print(table)
