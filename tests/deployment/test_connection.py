"""What a person reads when the line to the coordinator does not work."""

import datetime
import re
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
from pki import Authority, Paths

from fedbank import flower
from fedbank.errors import RunError
from fedbank.rates import Rate
from fedbank_client import flower_hooks
from fedbank_client.connection import Access, DeniedError, FleetConnection, _refusal, _silence, tls_context

DAY = datetime.timedelta(days=1)


def access(authority: Authority, paths: Paths) -> Access:
    return Access("127.0.0.1:1", authority.ca, paths.certificate, paths.key, paths.node_key)


@pytest.mark.parametrize(
    ("ahead_s", "words"),
    [(30, "3[01] s ahead of"), (-400, "(400|399) s behind"), (1, "does not accept this node's signature")],
)
@pytest.mark.fault(19)
def test_a_wrong_clock_is_named_when_a_signature_is_refused(tmp_path: Path, ahead_s: float, words: str) -> None:
    authority = Authority(tmp_path)
    theirs = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=ahead_s)
    error = _refusal(
        httpx.Response(401, headers={"date": format_datetime(theirs)}), access(authority, authority.bank("a"))
    )
    assert isinstance(error, DeniedError)
    assert re.search(words, str(error))


@pytest.mark.parametrize(
    ("valid", "words"), [((-2 * DAY, -DAY), "expired on"), ((DAY, 2 * DAY), "is not valid before")]
)
@pytest.mark.fault(18)
def test_a_certificate_out_of_its_time_is_named_with_file_and_date(
    tmp_path: Path, valid: tuple[datetime.timedelta, datetime.timedelta], words: str
) -> None:
    authority = Authority(tmp_path)
    paths = authority.bank("a", valid=valid)
    said = _silence(httpx.ReadError("closed"), access(authority, paths))
    assert str(paths.certificate) in said
    assert words in said


@pytest.mark.fault(38)
def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    paths = authority.bank("a")
    paths.node_key.chmod(0o644)
    with pytest.raises(RunError, match="chmod 600"):
        FleetConnection(access(authority, paths))


def test_files_that_are_not_certificates_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    paths = authority.bank("a")
    paths.certificate.write_text("nonsense")
    with pytest.raises(RunError, match="Run client join again"):
        tls_context(access(authority, paths))


def test_another_version_of_flower_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower, "version", lambda name: "1.42.0")
    with pytest.raises(RunError, match=r"Expected Flower \(flwr\) 1.41.x, got 1.42.0"):
        flower_hooks.check_flower()


def test_a_changed_function_of_flower_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_hooks, "_SIGNATURES", ((flower_hooks.make_client, ("self", "request")),))
    with pytest.raises(RunError, match="Expected Flower's make_client to take self, request, got address"):
        flower_hooks.check_flower()


def test_one_bank_does_not_use_up_another_banks_rate() -> None:
    now = 0.0
    rate = Rate(per_second=2.0, burst=3, clock=lambda: now)
    assert [rate.allows("a") for _ in range(4)] == [True, True, True, False]
    assert rate.allows("b")
    now = 0.5
    assert [rate.allows("a") for _ in range(2)] == [True, False]
