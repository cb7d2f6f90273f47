"""What the operator sees of a consortium: the same record as a table, a page, JSON and metrics; nobody else sees it."""

import asyncio
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from numeric_bank import key_of
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from fedbank.adapter.update import Disclosure
from fedbank.errors import RunError
from fedbank.membership.request import node_key_line
from fedbank.sealing.keys import SigningKey
from fedbank.sealing.roster import Member, Roster, sign_roster
from fedbank_server.authority import create_consortium
from fedbank_server.consortium import Files
from fedbank_server.overview import BankView, Expected, Overview, RoundView, read_overview
from fedbank_server.snapshot import BankState, BankStatus, CampaignStatus
from fedbank_server.status_command import render
from fedbank_server.status_pages import StatusPages

TOKEN = "an-operators-token-of-a-test-0123456789"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SINCE = "2026-03-01T11:59:00+00:00"


def view(bank: str, state: str = "sent", **changes: object) -> BankView:
    fields = {
        "joined": SINCE,
        "revoked": None,
        "since": SINCE,
        "reason": "",
        "epsilon": 8.0,
        "epsilon_spent": None,
        "epsilon_total": None,
        "rounds": 1,
        "elapsed_s": None,
        "usual_s": 30.0,
        "expected": None,
    }
    return BankView(bank=bank, state=state, **{**fields, **changes})  # type: ignore[arg-type]


OVERVIEW = Overview(
    "Alliance <b>",
    7,
    (
        view("bank-a", epsilon_spent=1.5, epsilon_total=4.25),
        view("bank-b", "training", elapsed_s=12.0, expected=Expected(8, 20, "2026-03-01T12:00:18+00:00")),
        view("bank-c", "refused", epsilon=None, reason="<script>alert(1)</script>"),
        view("bank-d", "revoked", revoked=SINCE, epsilon=None),
    ),
    CampaignStatus(
        "spring-0123456789abcdef",
        2,
        12,
        1,
        "ab" * 32,
        2,
        "collecting",
        2,
        "2026-03-01T13:00:00+00:00",
        {"bank-a": BankStatus(BankState.SENT, SINCE)},
        "below the quorum",
        SINCE,
        20,
    ),
    (RoundView(1, SINCE, 31.5, 3, 0, 1, 0, {"bank-a": 1.5}),),
    "",
    SINCE,
)


def get(path: str, method: str = "GET", overview: Overview | Exception = OVERVIEW, **headers: str) -> httpx.Response:
    def read(now: datetime) -> Overview:
        if isinstance(overview, Exception):
            raise overview
        return overview

    async def fetch() -> httpx.Response:
        transport = httpx.ASGITransport(app=StatusPages(read, TOKEN))
        async with httpx.AsyncClient(transport=transport, base_url="https://coordinator") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(fetch())


BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics", "/anything"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": TOKEN},
        {"cookie": "fedbank_operator=wrong"},
        {"cookie": ";;="},
    ],
)
def test_nobody_without_the_token_sees_anything(path: str, headers: dict[str, str]) -> None:
    reply = get(path, **headers)
    assert reply.status_code == 401
    assert "bank-a" not in reply.text and "fedbank server status --url" in reply.text


def test_a_browser_trades_the_token_for_a_cookie_once() -> None:
    reply = get(f"/?token={TOKEN}")
    assert reply.status_code == 303 and reply.headers["location"] == "/"
    cookie = reply.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "Secure", "SameSite=Strict"))
    assert get("/status.json", cookie=cookie.split(";")[0]).status_code == 200
    assert get("/?token=wrong").status_code == 401


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(method: str) -> None:
    assert get("/status.json", method, **BEARER).status_code == 405


def test_the_page_names_nothing_outside_itself() -> None:
    reply = get("/", **BEARER)
    assert reply.status_code == 200 and "default-src 'none'" in reply.headers["content-security-policy"]
    assert "//" not in reply.text.replace("http://www.w3.org/2000/svg", "")
    assert "innerHTML" not in reply.text, "what banks say is text, never markup"


def test_the_state_as_json_is_the_whole_record() -> None:
    assert get("/status.json", **BEARER).json() == json.loads(json.dumps(OVERVIEW.as_json()))


def test_the_state_as_metrics() -> None:
    families = {family.name: family for family in text_string_to_metric_families(get("/metrics", **BEARER).text)}
    values = {name: family.samples[0].value for name, family in families.items()}
    assert (values["fedbank_members"], values["fedbank_campaign_rounds_committed"]) == (3, 1)
    states = {tuple(s.labels.values()): s.value for s in families["fedbank_bank_state"].samples}
    assert states["bank-b", "training"] == 1 and states["bank-b", "sent"] == 0

    def of_banks(name: str) -> dict[str, float]:
        return {s.labels["bank"]: s.value for s in families[f"fedbank_bank_{name}"].samples}

    assert of_banks("epsilon") == {"bank-a": 8.0, "bank-b": 8.0}
    assert (of_banks("epsilon_spent"), of_banks("epsilon_total")) == ({"bank-a": 1.5}, {"bank-a": 4.25})
    assert (of_banks("expected_step"), of_banks("expected_steps")) == ({"bank-b": 8}, {"bank-b": 20})
    assert of_banks("expected_end_timestamp_seconds") == {"bank-b": NOW.timestamp() + 18}


def test_what_cannot_be_read_is_said() -> None:
    reply = get("/status.json", overview=RunError("Expected a roster, got none."), **BEARER)
    assert reply.status_code == 503 and "Expected a roster" in reply.text


def test_the_table_says_who_is_where() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(OVERVIEW))
    text = console.export_text()
    for words in (
        "round 2 of 12 collecting, attempt 2",
        "quorum 2",
        "deadline 2026-03-01T13:00:00 UTC",
        "about step 8 of 20, end expected 12:00:18",
        "1.50 of 8.00 (4.25)",
        "not told, of 8.00",
    ):
        assert words in text
    assert "<script>" in text and "below the quorum" in text


def test_a_consortium_without_a_campaign_has_a_state(tmp_path: Path) -> None:
    folder = tmp_path / "coordinator"
    create_consortium(folder, "Alliance", NOW, hosts=("localhost",), port=8443, passphrase=None)
    overview = read_overview(folder, NOW)
    assert (overview.consortium, overview.banks, overview.campaign, overview.problem) == ("Alliance", (), None, "")


def test_the_overview_shows_what_banks_disclosed_and_expects_the_end_of_who_trains(
    tmp_path: Path, make_consortium: Callable[..., Any]
) -> None:
    """The files of a campaign that was run, looked at while its third round is collected."""
    c = make_consortium(rounds=3)
    c.banks["bank-1"].act = lambda update: replace(update, disclosed=Disclosure(update.round / 2, 4.0 + update.round))
    c.banks["bank-2"].seconds = 0.3
    c.run()
    at_work = next(s for s in c.seen.statuses if s.round == 3 and s.banks["bank-2"].state is BankState.ASKED)
    at_work.save(c.folder / "campaign" / "status.json")
    folder = tmp_path / "coordinator"
    create_consortium(folder, "Alliance", NOW, hosts=("localhost",), port=8443, passphrase=None)
    campaign = folder / "campaigns" / "spring-0123456789abcdef"
    campaign.parent.mkdir()
    (c.folder / "campaign").rename(campaign)
    (campaign.parent / "current").write_text(campaign.name)
    key = SigningKey.load(Files(folder).coordinator_key)
    node_keys = {bank: node_key_line(ec.generate_private_key(ec.SECP384R1()).public_key()) for bank in c.banks}
    members = {
        bank: Member(bank, key_of(bank).public, node_keys[bank], hashlib.sha256(bank.encode()).hexdigest(), SINCE, None)
        for bank in c.banks
    }
    Files(folder).roster.write_bytes(sign_roster(Roster("Alliance", 2, key.public, members), key))

    since = datetime.fromisoformat(at_work.banks["bank-2"].since)
    overview = read_overview(folder, since)
    found = {bank.bank: bank for bank in overview.banks}
    assert (found["bank-1"].epsilon_spent, found["bank-1"].epsilon_total) == (1.5, 7.0)
    assert (found["bank-2"].epsilon_spent, found["bank-2"].epsilon_total) == (None, None)
    assert [view.epsilon for view in overview.rounds] == [{"bank-1": 0.5}, {"bank-1": 1.0}, {"bank-1": 1.5}]
    assert "banks" not in overview.as_json()["campaign"]
    usual = found["bank-2"].usual_s
    assert found["bank-2"].state == "training" and usual is not None
    later = read_overview(folder, since + timedelta(seconds=usual / 2)).banks[1].expected
    assert later is not None and (later.step, later.num_steps) == (
        c.terms.num_local_steps // 2,
        c.terms.num_local_steps,
    )
    overdue = read_overview(folder, since + timedelta(seconds=100 * usual)).banks[1].expected
    assert overdue is not None and overdue.step == c.terms.num_local_steps


def test_a_damaged_campaign_is_a_problem_and_not_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "coordinator"
    create_consortium(folder, "Alliance", NOW, hosts=("localhost",), port=8443, passphrase=None)
    campaign = folder / "campaigns" / "spring-0123456789abcdef"
    campaign.mkdir(parents=True)
    (campaign.parent / "current").write_text(campaign.name)
    (campaign / "status.json").write_text("{")
    overview = read_overview(folder, NOW)
    assert overview.campaign is None and "status of a campaign" in overview.problem
