"""A campaign by the real commands with a member that turned: two honest banks go on, whatever ``mallory`` sends.

One campaign serves several rows of the table of faults. It is stopped three times in the middle of a round, by the
hostile bank holding its answer back: a bank's budget is used up, is raised again, and mallory is revoked.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from alliance import Alliance, wait_round
from attempt import MAX_GROWTH_MIB, MIB, Outcome, forget_peak, peak_rss
from consortium import wait_for
from hostile_bank import MALLORY, ROUNDS_OF_TRICKS, TRICKS

HONEST = ("bank-a", "bank-b")
AT_LIMIT, REVOKED = ROUNDS_OF_TRICKS + 1, ROUNDS_OF_TRICKS + 3
ROUNDS = ROUNDS_OF_TRICKS + 4
SETTINGS = (f"training.rounds={ROUNDS}", "training.local_steps=1", "training.expected_batch=16", "name=hostile")
_HERE = Path(__file__).parent


class HostileCampaign:
    """``run`` it once; what was seen is in its fields."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.alliance = Alliance(folder, banks=(*HONEST, MALLORY), quorum=2)
        self.reasons: dict[str, set[str]] = {bank: set() for bank in (*HONEST, MALLORY)}
        self.shown = self.shown_at_limit = self.told_to_mallory = ""
        self.revoked_after_s = self.grew_mib = float("inf")
        self.exposed: list[str] = []
        self._mallory: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """From the start of all processes to the end of the campaign."""
        alliance, hold = self.alliance, self.alliance.home(MALLORY) / "hold"
        hold.write_text(f"{AT_LIMIT} {AT_LIMIT + 1} {REVOKED}")
        alliance.start_server()
        for bank in HONEST:
            alliance.start_bank(bank, "data.customers=100")
        with (alliance.folder / "mallory.log").open("ab") as log:
            command = [sys.executable, str(_HERE / "hostile_bank.py"), str(alliance.home(MALLORY))]
            self._mallory = subprocess.Popen(command, stdout=log, stderr=log)
        alliance.wait_online()
        alliance.start_campaign(*SETTINGS)
        wait_round(alliance, 1)  # the honest one
        before = forget_peak(self._campaigns_process())
        self._held(AT_LIMIT)
        self.grew_mib = (peak_rss(self._campaigns_process()) - before) / MIB
        self.exposed = self._exposed()
        self.shown = alliance.run("server", "status", "--dir", str(alliance.coordinator))
        alliance.allow("bank-b", max_epsilon_total=0.01)
        hold.write_text(f"{AT_LIMIT + 1} {REVOKED}")
        self._held(AT_LIMIT + 1)
        wait_for(lambda: self._bank("bank-b")["state"] == "refused", 60, alliance.logs)
        self.shown_at_limit = alliance.run("server", "status", "--dir", str(alliance.coordinator))
        alliance.allow("bank-b")
        hold.write_text(str(REVOKED))
        self._held(REVOKED)
        alliance.run("server", "revoke", MALLORY, "--dir", str(alliance.coordinator), "--reason", "hostile updates")
        began = time.monotonic()
        hold.write_text("")
        wait_for(lambda: alliance.bank_status(MALLORY)["state"] == "denied", 60, alliance.logs)
        self.revoked_after_s = time.monotonic() - began
        self.told_to_mallory = str(alliance.bank_status(MALLORY)["last_error"])
        assert alliance.wait_end("campaign", 200) == 0, alliance.logs()

    def refused(self, number: int) -> list[tuple[str, str, str]]:
        """Bank, check and reason of what was refused in a round."""
        line = next(line for line in self.alliance.history() if line["round"] == number)
        return [(one["bank"], one["check"], one["reason"]) for one in line["refused"]]

    def outcomes(self) -> list[Outcome]:
        """What every trick came to, as ``attackers.py`` prints it."""
        found = []
        history = {line["round"]: line for line in self.alliance.history()}
        for number, trick in enumerate(TRICKS, start=1):
            if trick is None:
                continue
            got = [check for bank, check, _ in self.refused(number) if bank == MALLORY]
            went_on = set(HONEST) <= history[number]["accepted"].keys()
            text = f"refused: {', '.join(got) or 'nothing'}; the round {'went on' if went_on else 'did not go on'}"
            ok = got == [trick.check] and went_on
            expected = f"refused: {trick.check}; the round went on"
            found.append(Outcome(f"a member sends {trick.name}", trick.row, expected, text, ok, 0, 0))
        return [*found, self._cost(), self._out()]

    def close(self) -> None:
        """End every process."""
        if self._mallory is not None:
            self._mallory.terminate()
            try:
                self._mallory.wait(20)
            except subprocess.TimeoutExpired:
                self._mallory.kill()
                self._mallory.wait()
        self.alliance.close()

    def _cost(self) -> Outcome:
        name, expected = "all of these together: memory of the campaign", f"below {MAX_GROWTH_MIB} MiB"
        ok = self.grew_mib < MAX_GROWTH_MIB
        return Outcome(name, 16, expected, f"{self.grew_mib:.0f} MiB at most", ok, round(self.grew_mib, 1), 0)

    def _out(self) -> Outcome:
        took, denied = self.revoked_after_s, "revoked" in self.told_to_mallory
        got = f"denied after {took:.1f} s" if denied else self.told_to_mallory
        ok = denied and took < 60
        return Outcome("a member that is revoked in mid-campaign", 17, "denied within 60 s", got, ok, 0, round(took, 1))

    def _held(self, number: int) -> None:
        """Until the hostile bank holds the round's answer back."""
        mark = self.alliance.home(MALLORY) / f"holds-{number}"

        def is_held() -> bool:
            for bank, status in self.alliance.snapshot()["banks"].items():
                if status["reason"]:
                    self.reasons[bank].add(status["reason"])
            return mark.exists()

        wait_for(is_held, 300, self.alliance.logs)

    def _bank(self, bank: str) -> dict[str, Any]:
        found: dict[str, Any] = self.alliance.snapshot()["banks"][bank]
        return found

    def _campaigns_process(self) -> int:
        """The one that admits and aggregates, below the one that supervises it."""
        (child,) = psutil.Process(self.alliance._processes["campaign"].pid).children()
        return int(child.pid)

    def _exposed(self) -> list[str]:
        """Processes of the consortium that show a secret to other users of the machine, by argument or environment."""
        secrets = [(self.alliance.coordinator / "operator.token").read_bytes().strip()]
        homes = [self.alliance.coordinator, *(self.alliance.home(bank) for bank in (*HONEST, MALLORY))]
        for path in (key for home in homes for key in home.rglob("*.key")):
            secrets.append(path.read_bytes().splitlines()[1])
        found = []
        for top in (*self.alliance._processes.values(), self._mallory):
            for process in [] if top is None else [psutil.Process(top.pid), *psutil.Process(top.pid).children(True)]:
                told = b"".join(Path(f"/proc/{process.pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
                found += [process.name() for secret in secrets if secret in told]
        assert len(secrets) >= 13, "the secrets were not found"
        return found
