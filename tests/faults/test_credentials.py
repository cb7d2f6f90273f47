"""Rows 18 and 19 of the table of faults: what a person at a bank reads when its certificate or its clock is wrong."""

import datetime
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import flwr.supernode.node_auth_http_interceptor as node_auth
import pytest
from cryptography import x509

sys.path.insert(0, str(Path(__file__).parents[1] / "deployment"))

from consortium import Consortium, wait_for
from pki import Authority
from port_tools import access

import fedbank_client.connection as connection
from fedbank_client.connection import DeniedError, FleetConnection

pytestmark = pytest.mark.slow
DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    made = Consortium(tmp_path_factory.mktemp("credentials"), banks=("bank1", "late", "early", "foreign"))
    made.authority.bank("late", valid=(-2 * DAY, -DAY))
    made.authority.bank("early", valid=(DAY, 2 * DAY))
    other = Authority(made.folder / "other-pki").bank("foreign")
    for mine, theirs in zip(files_of(made, "foreign"), (other.certificate, other.key, other.node_key), strict=True):
        mine.write_bytes(theirs.read_bytes())
    made.roster(made.banks)
    made.start_server()
    yield made
    made.stop()


def files_of(consortium: Consortium, bank: str) -> tuple[Path, Path, Path]:
    paths = consortium.banks[bank]
    return paths.certificate, paths.key, paths.node_key


def end(consortium: Consortium, bank: str) -> None:
    process = consortium.processes.pop(bank)
    process.terminate()
    process.wait(60)


@pytest.mark.fault(18)
@pytest.mark.parametrize(
    ("bank", "words"),
    [("late", "{file} expired on {yesterday}"), ("early", "{file} is not valid before {tomorrow}")],
)
def test_a_bank_whose_certificate_is_out_of_its_time_reads_file_and_date_and_tries_on(
    consortium: Consortium, seen: Callable[[str], None], bank: str, words: str
) -> None:
    consortium.start("bank", bank)
    found = x509.load_pem_x509_certificate(consortium.banks[bank].certificate.read_bytes())
    wanted = words.format(
        file=consortium.banks[bank].certificate,
        yesterday=f"{found.not_valid_after_utc:%Y-%m-%d}",
        tomorrow=f"{found.not_valid_before_utc:%Y-%m-%d}",
    )
    wait_for(lambda: wanted in consortium.status(bank)["last_error"], 60, consortium.log_of(bank))
    assert consortium.status(bank)["state"] == "offline" and consortium.processes[bank].poll() is None
    seen(wanted.replace(str(consortium.banks[bank].certificate), "FILE"))
    end(consortium, bank)


@pytest.mark.fault(18)
def test_a_bank_with_the_certificate_of_another_authority_gets_no_further(consortium: Consortium) -> None:
    consortium.start("bank", "foreign")
    wait_for(lambda: bool(consortium.status("foreign")["last_error"]), 60, consortium.log_of("foreign"))
    assert consortium.status("foreign")["state"] == "offline"
    end(consortium, "foreign")


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("ahead_s", "words"),
    [(30, "s ahead of the coordinator's; at most 4 s are accepted. Set it."), (-400, "s behind the coordinator's")],
)
def test_a_bank_whose_clock_is_wrong_reads_by_how_much(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch, seen: Callable[[str], None], ahead_s: int, words: str
) -> None:
    shift, real = datetime.timedelta(seconds=ahead_s), datetime.datetime

    class Shifted(real):  # type: ignore[misc,valid-type]
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return real.now(tz) + shift

    monkeypatch.setattr(node_auth, "now", lambda: Shifted.now(datetime.UTC))
    monkeypatch.setattr(connection, "datetime", Shifted)
    line = FleetConnection(access(consortium, "bank1"))
    with pytest.raises(DeniedError, match=f"clock is [0-9]+ {words}") as denied:
        line.activate()
    line.close()
    seen(str(denied.value))


@pytest.mark.fault(19)
def test_a_clock_that_is_off_by_less_is_accepted(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    for ahead_s in (3, -200):
        shift = datetime.timedelta(seconds=ahead_s)
        monkeypatch.setattr(node_auth, "now", lambda shift=shift: datetime.datetime.now(datetime.UTC) + shift)
        line = FleetConnection(access(consortium, "bank1"))
        line.deactivate(line.activate())
        line.close()
