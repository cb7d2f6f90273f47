"""What an attacker tries on the coordinator's two ports and what it gets; the coordinator lives on and stays small."""

import json
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
from attempt import MAX_GROWTH_MIB, MIB, Attempt, attempt, rss
from consortium import TOKEN, Consortium, exchange, payload_of, wait_for
from port_attempts import ATTEMPTS
from port_tools import access, client, denied, joined, revoked_after, start, still_serves

from fedbank.certificates import CertificateError
from fedbank_client.connection import Access, DeniedError, FleetConnection
from fedbank_server.listeners import Identity, private_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    made = start(tmp_path_factory.mktemp("attacked"))
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def survives(attacked: Consortium) -> Iterator[None]:
    """After every attack an honest bank can still report for duty."""
    yield
    assert attacked.processes["serve"].poll() is None
    wait_for(lambda: still_serves(attacked), 30, attacked.log_of("serve"))


@pytest.mark.parametrize(
    "tried",
    [pytest.param(one, id=one.name, marks=[] if one.row is None else [pytest.mark.fault(one.row)]) for one in ATTEMPTS],
)
def test_an_attempt_gets_what_it_should_and_costs_little(
    attacked: Consortium, tried: Attempt[Consortium], seen: Callable[[str], None]
) -> None:
    outcome = attempt(tried, attacked, attacked.processes["serve"].pid)
    assert outcome.ok, outcome
    seen(outcome.got)


@pytest.mark.fault(16)
def test_all_attempts_together_cost_little(attacked: Consortium, seen: Callable[[str], None]) -> None:
    server, before = attacked.processes["serve"].pid, rss(attacked.processes["serve"].pid)
    worst = max((attempt(one, attacked, server) for one in ATTEMPTS if one.row == 16), key=lambda one: one.grew_mib)
    kept = (rss(server) - before) / MIB
    assert worst.grew_mib < MAX_GROWTH_MIB and kept < MAX_GROWTH_MIB / 2
    seen(f"at most {worst.grew_mib:.0f} MiB more ({worst.name}), {max(kept, 0):.0f} MiB when all are over")


@pytest.mark.fault(20)
def test_the_private_port_is_on_loopback_and_serves_its_operator(attacked: Consortium) -> None:
    listening = [
        connection.laddr.ip
        for connection in psutil.Process(attacked.processes["serve"].pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == attacked.private
    ]
    assert listening == ["127.0.0.1"]
    with client(attacked, None, attacked.private) as operator:
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert operator.post("/v1/control/list-runs", headers=headers).status_code == 200
        assert operator.get("/health").status_code == 200


@pytest.mark.fault(17)
def test_a_revoked_bank_is_out_at_once_on_a_connection_that_it_has(
    attacked: Consortium, seen: Callable[[str], None]
) -> None:
    line = joined(attacked, "bank3")
    assert line.pull() is None
    took = revoked_after(attacked, "bank3", line)
    assert took < 60
    seen(f"a revoked bank is out after {took:.1f} s")
    assert denied(line, line.pull) == "denied: revoked"


@pytest.mark.fault(17)
def test_a_bank_that_is_revoked_in_the_middle_of_an_exchange_sends_nothing_more(attacked: Consortium) -> None:
    mallory = attacked.authority.bank("mallory")
    attacked.banks["mallory"] = mallory
    attacked.roster(attacked.banks)
    attacked.start("bank", "mallory")
    attacked.start("bank", "bank1")
    with attacked.grid(unreachable_after_s=3.0) as grid:
        wait_for(lambda: {"mallory", "bank1"} <= grid.banks().keys(), 60, attacked.log_of("mallory"))
        nodes = grid.banks()
        del attacked.banks["mallory"]
        attacked.roster(attacked.banks)
        wait_for(lambda: attacked.status("mallory")["state"] == "denied", 60, attacked.log_of("mallory"))
        replies = exchange(grid, {nodes["mallory"]: b"secret", nodes["bank1"]: b"secret"})
        assert payload_of(replies[nodes["bank1"]]) == b"secret"
        assert replies[nodes["mallory"]].has_error()
    assert "revoked" in attacked.status("mallory")["last_error"]
    assert not (attacked.folder / "mallory" / "calls").exists()
    for bank in ("mallory", "bank1"):  # gone before the next attempt is in its name
        process = attacked.processes.pop(bank)
        process.terminate()
        process.wait(60)


def test_a_flood_of_refusals_is_told_once_a_minute(attacked: Consortium) -> None:
    with client(attacked, attacked.banks["bank1"]) as attacker:
        for _ in range(30):
            assert attacker.post("/v1/control/start-run").status_code == 404
    events = [json.loads(line) for line in (attacked.folder / "events").read_text().splitlines()]
    told = [event for event in events if event["kind"] == "refused" and event["status"] == 404]
    assert [event["who"] for event in told] == ["bank1"]


def test_a_revoked_bank_is_out_even_if_nobody_can_be_told(attacked: Consortium) -> None:
    for leaver in ("leaver1", "leaver2"):  # twice: the watch itself must live on
        attacked.banks[leaver] = attacked.authority.bank(leaver)
        attacked.roster(attacked.banks)
        wait_for(lambda leaver=leaver: not refused(access(attacked, leaver)), 60)
        (attacked.folder / "no-more-events").touch()
        left = access(attacked, leaver)
        del attacked.banks[leaver]
        attacked.roster(attacked.banks)
        wait_for(lambda left=left: refused(left), 60)
    (attacked.folder / "no-more-events").unlink()


def test_a_roster_that_cannot_be_read_changes_nothing(attacked: Consortium) -> None:
    (attacked.folder / "roster.json").write_text("{")
    time.sleep(1.2)
    line = FleetConnection(access(attacked, "bank1"))
    line.deactivate(line.activate())
    line.close()
    attacked.roster(attacked.banks)


@pytest.mark.fault(38)
def test_a_coordinator_whose_key_others_can_read_does_not_start(attacked: Consortium) -> None:
    attacked.server.key.chmod(0o644)
    try:
        with pytest.raises(CertificateError, match=r"owner's only, got mode 0644. Run: chmod 600"):
            private_server(nobody, 0, Identity(attacked.server.certificate, attacked.server.key, attacked.authority.ca))
    finally:
        attacked.server.key.chmod(0o600)


async def nobody(*_: object) -> None:
    """An application that is never reached."""


def refused(who: Access) -> bool:
    time.sleep(0.25)  # faster would be slowed down
    line = FleetConnection(who)
    try:
        line.deactivate(line.activate())
    except DeniedError:
        return True
    finally:
        line.close()
    return False
