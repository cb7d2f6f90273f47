"""``fedbank client budget``: figures for a person and for a program, and a check that says where a chain breaks."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedbank.cli import main
from fedbank.errors import FedBankError, PrivacyError, RunError
from fedbank.privacy.accounting import PrivacyEvent, compute_epsilon
from fedbank.privacy.budget import Budget, Moment
from fedbank.privacy.ledger import Charge, Ledger
from fedbank.sealing.keys import SigningKey
from fedbank_client.cli import client_command
from fedbank_client.home import TRAINING, Home, write_home
from fedbank_client.plot import draw, write_page
from fedbank_client.policy import POLICY, TEMPLATE

DELTA = 1e-5


def charge(ledger: Ledger, campaign: str, number: int, mechanism: tuple[float, float], steps: int = 5) -> None:
    ledger.charge(Charge(campaign, number, f"b{number}", f"d-{campaign}", *mechanism, steps, None), max_steps=1000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bank with two campaigns; round 2 of the first was executed twice."""
    ledger = Ledger(tmp_path / "run" / "banks" / "bank-a" / "ledger.jsonl", "bank-a")
    for number in (1, 2, 2):
        charge(ledger, "spring", number, (0.05, 1.1))
    for number in (1, 2, 3, 4):
        charge(ledger, "autumn", number, (0.2, 3.0))
    return tmp_path / "run" / "banks" / "bank-a"


@pytest.fixture
def deployed(tmp_path: Path) -> Path:
    """A member's folder: limits of 3 and 2 at delta 1e-6 in its policy, and a ledger with one campaign."""
    home = tmp_path / "bank-a"
    home.mkdir()
    key = SigningKey.derived("coordinator").public
    write_home(Home(home, "bank-a", "Test Consortium", ("localhost:9443",), key), home)
    policy = TEMPLATE.replace("campaign: 4.0", "campaign: 2.0").replace("total: 8.0", "total: 3.0")
    (home / POLICY).write_text(policy.replace("delta: 1.0e-5", "delta: 1.0e-6"))
    charge(Ledger(home / TRAINING / "ledger.jsonl", "bank-a"), "spring", 1, (0.05, 1.1))
    return home


def epsilon(*events: tuple[float, float, int]) -> float:
    return compute_epsilon([PrivacyEvent(*event) for event in events], DELTA)


def test_json_tells_what_is_spent_and_left(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["budget", str(folder), "--json", "--max-epsilon", "3", "--max-epsilon-per-campaign", "2"]
    assert client_command(words) == 0
    printed = json.loads(capsys.readouterr().out)
    own, total = epsilon((0.05, 1.1, 15)), epsilon((0.05, 1.1, 15), (0.2, 3.0, 20))
    assert (printed["bank"], printed["delta"], printed["unit"]) == ("bank-a", 1e-5, "customer")
    assert (printed["max_epsilon"], printed["max_epsilon_per_campaign"], printed["charges"]) == (3.0, 2.0, 7)
    spring, autumn = printed["campaigns"]
    assert (spring["campaign"], spring["rounds"], spring["charges"], spring["steps"]) == ("spring", 2, 3, 15)
    assert (autumn["campaign"], autumn["rounds"], autumn["steps"]) == ("autumn", 4, 20)
    for row, exact, limit in ((spring, own, 2.0), (printed["total"], total, 3.0)):
        assert exact <= row["epsilon"] <= exact + 1e-4
        assert min(limit, 3.0 - total + own) - exact - 1e-4 <= row["epsilon_left"] <= limit - exact
    assert (
        spring["steps_left"]
        == Budget(3.0, 2.0, DELTA).left(Ledger(folder / "ledger.jsonl", "bank-a").charges(), "spring").steps
    )
    assert [moment["campaign"] for moment in printed["over_time"]] == ["spring"] * 3 + ["autumn"] * 4
    assert printed["over_time"][-1]["epsilon"] == printed["total"]["epsilon"]


LIMITS = ("max_epsilon", "max_epsilon_per_campaign", "delta")


@pytest.mark.parametrize(
    ("words", "limits"),
    [
        ([], (3.0, 2.0, 1e-6)),
        (["--max-epsilon", "5"], (5.0, 2.0, 1e-6)),
        (["--max-epsilon-per-campaign", "2.5", "--delta", "1e-7"], (3.0, 2.5, 1e-7)),
    ],
    ids=["policy", "total", "campaign and delta"],
)
def test_a_members_limits_are_those_of_its_policy_unless_options_say_otherwise(
    deployed: Path, words: list[str], limits: tuple[float, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert client_command(["budget", str(deployed), "--json", *words]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert tuple(printed[name] for name in LIMITS) == limits
    left = printed["campaigns"][0]["epsilon_left"]
    assert left == pytest.approx(limits[1] - printed["campaigns"][0]["epsilon"], abs=2e-4)


def test_a_member_without_its_policy_is_told_so(deployed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (deployed / POLICY).unlink()
    assert main(["client", "budget", str(deployed)]) == 2
    assert POLICY in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["verify"]], ids=["budget", "verify"])
def test_the_folder_may_be_given_as_in_all_other_commands(
    deployed: Path, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client_command(["budget", *words, str(deployed), "--json"]) == 0
    named = capsys.readouterr().out
    assert client_command(["budget", *words, "--dir", str(deployed), "--json"]) == 0
    assert capsys.readouterr().out == named
    monkeypatch.setenv("FEDBANK_HOME", str(deployed))
    assert client_command(["budget", *words, "--json"]) == 0
    assert capsys.readouterr().out == named
    with pytest.raises(SystemExit):
        client_command(["budget", *words, str(deployed), "--dir", str(deployed)])


@pytest.mark.parametrize("words", [[], ["verify"]], ids=["budget", "verify"])
def test_a_members_folder_with_the_ledger_of_another_bank_is_refused(
    deployed: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ledger.jsonl", "ledger.head"):
        (deployed / TRAINING / name).unlink()
    charge(Ledger(deployed / TRAINING / "ledger.jsonl", "bank-z"), "spring", 1, (0.05, 1.1))
    assert main(["client", "budget", *words, str(deployed)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "ledger of bank-a" in said.err and "that of bank-z" in said.err


def test_a_person_reads_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert client_command(["budget", str(folder), "--max-epsilon", "3"]) == 0
    printed = capsys.readouterr().out
    rows = {
        name: line for line in printed.splitlines() for name in ("spring", "autumn", "all together") if name in line
    }
    assert f"{epsilon((0.05, 1.1, 15)) + 5e-5:.4f}"[:5] in rows["spring"]
    assert rows["all together"].split()[3:6] == ["│", "6", "│"]
    assert "Privacy spent by every customer of bank-a" in printed
    assert "1 rounds were executed again" in printed
    assert client_command(["budget", str(folder)]) == 0
    assert capsys.readouterr().out.count("no limit") == 3


def test_an_epsilon_without_bound_is_said_to_be_infinite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    charge(Ledger(tmp_path / "ledger.jsonl", "bank-a"), "spring", 1, (1.0, 0.05))
    assert client_command(["budget", str(tmp_path)]) == 0
    assert "infinite" in capsys.readouterr().out
    assert client_command(["budget", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["epsilon"] is None


def test_a_bank_that_was_never_charged_has_spent_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(b"")
    assert client_command(["budget", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["campaigns"], printed["total"]["epsilon"], printed["unit"]) == ([], 0.0, None)
    assert client_command(["budget", str(tmp_path), "--plot", str(tmp_path / "p.html")]) == 0
    assert "Nothing has been charged yet" in (tmp_path / "p.html").read_text()
    assert client_command(["budget", "verify", str(tmp_path)]) == 0


class Page(HTMLParser):
    """Whether tags are closed, and what is referred to."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.texts: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.outside += [f"{name}={value}" for name, value in attributes if name in ("src", "href") or name[:2] == "on"]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_plot_is_one_page_with_the_curve_and_the_limit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder.parent / "budget.html"
    assert client_command(["budget", str(folder), "--max-epsilon", "3", "--plot", str(file)]) == 0
    assert str(file) in capsys.readouterr().out.replace("\n", "")
    content = file.read_text("utf-8")
    page = Page(content)
    assert (page.open, page.outside) == ([], [])
    assert "<script" not in content and "http" not in content
    assert any("limit ε = 3" in text for text in page.texts)
    assert content.count("<circle") == 7
    assert re.search(rf"autumn: ε = {epsilon((0.05, 1.1, 15), (0.2, 3.0, 20)):.4f}", content)
    assert client_command(["budget", str(folder), "--plot", str(file)]) == 0
    assert "limit" not in file.read_text("utf-8")


def test_a_plot_needs_a_folder_that_is_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = folder.parent / "new" / "budget.html"
    assert main(["client", "budget", str(folder), "--plot", str(new)]) == 2
    assert "a folder that exists" in capsys.readouterr().err and not new.parent.exists()
    assert main(["client", "budget", str(folder), "--plot", str(folder.parent)]) == 2
    assert "the name of a file" in capsys.readouterr().err


def test_how_a_simulation_continues_is_said_of_simulations_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    impossible = "x" * 300  # ENAMETOOLONG
    assert main(["client", "budget", str(folder), "--plot", impossible]) == 2
    said = capsys.readouterr().err
    assert "File name too long" in said and said.endswith("mend the permissions.\n")
    assert main(["simulate", f"output={impossible}"]) == 2
    said = capsys.readouterr().err
    assert "File name too long" in said and said.endswith("fedbank simulate resume=DIR.\n")


def test_names_in_a_plot_are_text(tmp_path: Path) -> None:
    moments = [Moment("2026-01-01T00:00:00+00:00", "<b>&", 1.0), Moment("2026-01-02T00:00:00+00:00", "x", 2.0)]
    write_page(tmp_path / "p.html", "<i>bank", Budget(None, None, DELTA), moments)
    content = (tmp_path / "p.html").read_text()
    assert Page(content).open == []
    assert "&lt;b&gt;&amp;" in content and "&lt;i&gt;bank" in content


@pytest.mark.parametrize("epsilons", [[1e-7], [0.3, 0.9], [1.0, 250.0], [2.0, float("inf")]], ids=str)
@pytest.mark.parametrize("limit", [None, 8.0])
def test_a_plot_keeps_every_point_inside_its_frame(epsilons: list[float], limit: float | None) -> None:
    moments = [Moment(f"2026-01-0{n + 1}T00:00:00+00:00", "a", value) for n, value in enumerate(epsilons)]
    drawn = draw(moments, limit)
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', drawn)]
    assert heights == sorted(heights, reverse=True)
    assert all(20 <= y <= 330 for y in heights)
    assert all(60 <= float(x) <= 701 for x in re.findall(r'cx="([\d.]+)"', drawn))
    assert 3 <= drawn.count('text-anchor="end"') <= 9


def test_an_intact_ledger_is_said_to_be_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert client_command(["budget", "verify", str(folder)]) == 0
    sentence = capsys.readouterr().out
    assert re.fullmatch(r"The ledger of bank-a is intact: 7 charges, last hash [0-9a-f]{64}\.\n", sentence)
    assert client_command(["budget", "verify", str(folder), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["intact"] is True and printed["hash"] in sentence and printed["lines"] == 8


def test_a_hash_that_was_written_down_finds_a_ledger_that_was_replaced(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """File and head replaced together by older copies verify; the hash kept elsewhere does not agree with them."""
    files = [folder / "ledger.jsonl", folder / "ledger.head"]
    old = [file.read_bytes() for file in files]
    charge(Ledger(folder / "ledger.jsonl", "bank-a"), "autumn", 5, (0.2, 3.0))
    client_command(["budget", "verify", str(folder), "--json"])
    noted = json.loads(capsys.readouterr().out)["hash"]
    charge(Ledger(folder / "ledger.jsonl", "bank-a"), "autumn", 6, (0.2, 3.0))
    assert client_command(["budget", "verify", str(folder), "--contains", noted]) == 0
    for file, content in zip(files, old, strict=True):
        file.write_bytes(content)
    assert client_command(["budget", "verify", str(folder)]) == 0
    with pytest.raises(RunError, match="replaced since"):
        client_command(["budget", "verify", str(folder), "--contains", noted])


@pytest.mark.parametrize("given", ["", "none", "ab" * 31, "ab" * 33, "zz" * 32])
def test_a_hash_that_is_none_is_not_held_against_the_ledger(
    folder: Path, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["client", "budget", "verify", str(folder), "--contains", given]) == 2
    said = capsys.readouterr().err
    assert "64 hex digits" in said and "replaced" not in said


DAMAGE = {
    "edited": lambda path: path.write_text(path.read_text().replace('"num_steps": 5', '"num_steps": 1', 1)),
    "cut": lambda path: path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1])),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize(
    ("damage", "says"), [("edited", "line 3"), ("cut", "8 lines"), ("gone", "the ledger is lost")], ids=DAMAGE.keys()
)
def test_a_broken_ledger_is_exit_code_2_and_where_it_breaks(folder: Path, damage: str, says: str) -> None:
    DAMAGE[damage](folder / "ledger.jsonl")
    for words in (["verify"], []):
        with pytest.raises(PrivacyError, match=says):
            client_command(["budget", *words, str(folder)])
    script = "import sys; from fedbank.cli import main, COMMANDS\n"
    script += "COMMANDS['client'] = ('fedbank_client.cli:client_command', '')\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "client", "budget", "verify", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr and "Traceback" not in done.stderr


def test_a_folder_without_a_ledger_is_an_error_with_a_hint(folder: Path) -> None:
    with pytest.raises(RunError, match=r"give .*banks/bank-a, for example"):
        client_command(["budget", str(folder.parents[1])])
    with pytest.raises(RunError, match=r"Expected a bank's folder with ledger\.jsonl, got .*/banks without one\.$"):
        client_command(["budget", "verify", str(folder.parent)])


@pytest.mark.parametrize("words", [["--max-epsilon", "0"], ["--delta", "2"], ["--max-epsilon-per-campaign", "nan"]])
def test_limits_that_are_none_are_refused(folder: Path, words: list[str]) -> None:
    with pytest.raises(FedBankError, match="Expected"):
        client_command(["budget", str(folder), *words])


def test_help_and_wrong_words(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["help"]):
        assert client_command(words) == 0
        assert "budget verify DIR" in capsys.readouterr().out
    for words in (["budget", "--help"], ["budget", "verify", "--help"]):
        with pytest.raises(SystemExit) as left:
            client_command(words)
        assert left.value.code == 0
        assert "ledger" in capsys.readouterr().out
    assert client_command(["bank"]) == 2
    assert "got 'bank'" in capsys.readouterr().err


def test_the_command_starts_without_torch(folder: Path) -> None:
    script = "import sys\nfrom fedbank_client.cli import client_command\n"
    script += f"client_command(['budget', 'verify', {str(folder)!r}])\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0
