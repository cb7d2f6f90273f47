"""Rows 11 to 17, 20, 21, 37 and 38 of the table of faults in one real campaign: a member sends whatever it likes."""

import json
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "deployment"))

from alliance import Alliance, _command
from attempt import MAX_GROWTH_MIB
from consortium import wait_for
from hostile_bank import MALLORY, TRICKS, Trick
from hostile_campaign import AT_LIMIT, HONEST, REVOKED, ROUNDS, HostileCampaign

from fedbank.evidence.verify import verify_log
from fedbank.privacy.ledger import LEDGER, read_ledger
from fedbank.sealing.keys import PublicKey

pytestmark = pytest.mark.slow
Seen = Callable[[str], None]
PLAYED = [(number, trick) for number, trick in enumerate(TRICKS, start=1) if trick is not None]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileCampaign]:
    made = HostileCampaign(tmp_path_factory.mktemp("hostile"))
    try:
        made.run()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    ("number", "trick"),
    [pytest.param(number, trick, id=trick.name, marks=pytest.mark.fault(trick.row)) for number, trick in PLAYED],
)
def test_a_hostile_update_is_refused_and_the_round_goes_on(
    campaign: HostileCampaign, number: int, trick: Trick, seen: Seen
) -> None:
    ((bank, check, reason),) = campaign.refused(number)
    assert (bank, check) == (MALLORY, trick.check)
    assert reason.startswith("Expected") and len(reason) <= 400
    accepted = campaign.alliance.history()[number - 1]["accepted"]
    assert set(HONEST) <= set(accepted)
    assert MALLORY not in accepted or trick.check == "late", "it may answer once more after a replay, and honestly"
    seen(f"{check}: {reason[:90]}")


@pytest.mark.fault(11)
def test_the_campaign_has_every_round_once_and_its_evidence_verifies(campaign: HostileCampaign) -> None:
    alliance = campaign.alliance
    assert [line["round"] for line in alliance.history()] == list(range(1, ROUNDS + 1))
    key = PublicKey.from_hex((alliance.coordinator / "coordinator.pub").read_text().strip()).raw
    verify_log(alliance.coordinator / "evidence.jsonl", key)
    charged = Counter(charge.round for charge in read_ledger(alliance.home("bank-a") / "training" / LEDGER).charges)
    assert charged == Counter(range(1, ROUNDS + 1))


@pytest.mark.fault(14)
def test_status_shows_the_operator_why_a_bank_was_refused(campaign: HostileCampaign, seen: Seen) -> None:
    said = " ".join(campaign.shown.split())
    assert "mallory: Expected 14 fp32 tensors of the agreed names and shapes, got 50014" in said
    assert len(campaign.reasons[MALLORY]) >= 5 and not campaign.reasons["bank-a"]
    seen("server status: mallory: Expected 14 fp32 tensors of the agreed names and shapes, got 50014 ...")


@pytest.mark.fault(16)
def test_hostile_updates_cost_the_campaigns_process_little_memory(campaign: HostileCampaign, seen: Seen) -> None:
    assert campaign.grew_mib < MAX_GROWTH_MIB
    seen(f"all hostile updates: at most {campaign.grew_mib:.0f} MiB more in the campaign's process")


@pytest.mark.fault(17)
def test_a_member_that_is_revoked_in_mid_campaign_is_out_within_a_minute(campaign: HostileCampaign, seen: Seen) -> None:
    assert campaign.revoked_after_s < 60
    assert "client.pem" in campaign.told_to_mallory and "revoked" in campaign.told_to_mallory
    for line in campaign.alliance.history()[REVOKED:]:
        assert set(line["accepted"]) == set(HONEST)
    seen(f"server revoke: out after {campaign.revoked_after_s:.1f} s, the campaign goes on")


@pytest.mark.fault(37)
def test_a_bank_whose_budget_is_used_up_refuses_and_stays_and_the_campaign_goes_on(
    campaign: HostileCampaign, seen: Seen
) -> None:
    at_limit, after = campaign.alliance.history()[AT_LIMIT : AT_LIMIT + 2]
    assert "bank-b" not in at_limit["accepted"] and "bank-b" in after["accepted"]
    assert "the bank's privacy rules do not allow" in " ".join(campaign.reasons["bank-b"])
    assert "bank-b: refused: the bank's privacy rules do not allow this round" in campaign.shown_at_limit
    (refused,) = entries(campaign.alliance, "bank-b", "round-refused")
    assert "at most 0.01, as this bank's policy.yaml says" in refused and "max_epsilon_total" in refused
    charged = {c.round for c in read_ledger(campaign.alliance.home("bank-b") / "training" / LEDGER).charges}
    assert charged == set(range(1, ROUNDS + 1)) - {at_limit["round"]}
    seen("bank-b: refused: the bank's privacy rules do not allow this round; nothing charged; back when raised")


@pytest.mark.fault(20)
@pytest.mark.parametrize("path", ["/v1/control/list-runs", "/v1/control/start-run", "/v1/runtime/acquire-task"])
def test_a_members_own_certificate_opens_no_route_of_the_operator(
    campaign: HostileCampaign, path: str, seen: Seen
) -> None:
    got = [ask(campaign.alliance, listener, path) for listener in ("public", "private")]
    assert got == [404, 401]
    seen("a member's certificate: 404 outside, 401 on loopback")


@pytest.mark.fault(21)
def test_a_campaign_without_noise_is_refused_by_every_policy_and_the_banks_stay_up(
    campaign: HostileCampaign, seen: Seen
) -> None:
    alliance = campaign.alliance
    where = ("--dir", str(alliance.coordinator))
    said = refusal(alliance, "server", "run", *where, "name=quiet", "privacy=off", "patience_s=12")
    assert "Expected 2 banks to accept the campaign, got []" in " ".join(said.split())
    for bank in HONEST:
        assert alliance.bank_status(bank)["state"] in ("online", "working")
        wait_for(lambda bank=bank: bool(entries(alliance, bank, "campaign-refused")), 30, alliance.logs)
        assert "epsilon" in entries(alliance, bank, "campaign-refused")[0]
    seen("server run privacy=off: Expected 2 banks to accept the campaign, got []; both stay online")


@pytest.mark.fault(38)
def test_no_process_of_a_consortium_shows_a_secret_to_other_users(campaign: HostileCampaign, seen: Seen) -> None:
    assert campaign.exposed == []
    seen("no key and no token in the arguments or the environment of any process")


@pytest.mark.fault(38)
@pytest.mark.parametrize("name", ["operator.token", "server.key"])
def test_a_server_with_a_secret_that_others_can_read_does_not_start(
    campaign: HostileCampaign, seen: Seen, name: str
) -> None:
    campaign.close()
    path = campaign.alliance.coordinator / name
    path.chmod(0o644)
    try:
        said = refusal(campaign.alliance, "server", "start", "--dir", str(campaign.alliance.coordinator))
    finally:
        path.chmod(0o600)
    assert str(path) in said and "chmod 600" in said and "Traceback" not in said
    seen("server start: ... Run: chmod 600 FILE")


@pytest.mark.fault(38)
@pytest.mark.parametrize("name", ["tls.key"])
def test_a_bank_with_a_key_that_others_can_read_does_not_start(
    campaign: HostileCampaign, seen: Seen, name: str
) -> None:
    path = campaign.alliance.home(MALLORY) / "keys" / name
    path.chmod(0o644)
    try:
        said = refusal(campaign.alliance, "client", "start", "--dir", str(campaign.alliance.home(MALLORY)))
    finally:
        path.chmod(0o600)
    assert str(path) in said and "chmod 600" in said and "Traceback" not in said
    assert "Base model" not in said, "nothing is loaded before"
    seen("client start: ... Run: chmod 600 FILE")


def entries(alliance: Alliance, bank: str, action: str) -> list[str]:
    """What a bank's evidence says of all that it did of a kind."""
    shown = (alliance.home(bank) / "evidence.jsonl").read_bytes().splitlines()
    return [entry["result"] for entry in map(json.loads, shown) if entry["action"] == action]


def ask(alliance: Alliance, listener: str, path: str) -> int:
    """The status of a POST with a member's certificate."""
    home = alliance.home("bank-a")
    settings = (alliance.coordinator / "consortium.yaml").read_text()
    address = next(line for line in settings.splitlines() if line.strip().startswith(f"{listener}:"))
    port = address.rpartition(":")[2].strip('"')
    context = ssl.create_default_context(cafile=str(alliance.coordinator / "ca.pem"))
    context.load_cert_chain(home / "client.pem", home / "keys" / "tls.key")
    with httpx.Client(verify=context, timeout=20) as member:
        return member.post(f"https://localhost:{port}{path}").status_code


def refusal(alliance: Alliance, *words: str) -> str:
    """What a command says that ends with 2."""
    done = subprocess.run(_command(*words), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, f"{words}: {done.returncode} {done.stdout}{done.stderr}{alliance.logs()}"
    return done.stdout + done.stderr
