"""The page of many runs: seeds become one point with a right interval, and nothing is left out silently."""

import json
import math

import pytest
from run_folder import edit_results, write_run

from fedbank.errors import RunError
from fedbank_simulations.report import write_run_report, write_sweep_report
from fedbank_simulations.report.curves import CurvePoint, utility_plot
from fedbank_simulations.report.estimates import estimate


def sweep(dirs, output):
    page = write_sweep_report(dirs, output)
    return page.read_text(encoding="utf-8"), json.loads(page.with_name("sweep.json").read_text(encoding="utf-8"))


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the drawings out where only the figures matter."""
    monkeypatch.setattr("fedbank_simulations.report.sweep.utility_plot", lambda *_: "")


def test_interval_is_students():
    # Mean 0.9, s = 0.1, t(0.975, 2) = 4.302653 from a printed table: half-width 4.302653 · 0.1 / √3.
    found = estimate([0.8, 0.9, 1.0])
    assert found.mean == pytest.approx(0.9)
    assert (found.low, found.high) == pytest.approx((0.651586, 1.148414), abs=1e-6)
    # Two values: t(0.975, 1) = 12.706205, s = 0.1·√2/2.
    assert estimate([0.5, 0.6]).high == pytest.approx(0.55 + 12.706205 * 0.05, abs=1e-6)


@pytest.mark.parametrize("values", [[0.5], [0.5, math.nan], [math.inf, 0.5]])
def test_no_interval_without_two_finite_values(values):
    assert (estimate(values).low, estimate(values).high) == (None, None)


def test_runs_that_differ_in_their_seed_are_one_point(tmp_path, undrawn):
    for seed, nll in enumerate((0.8, 0.9, 1.0)):
        write_run(tmp_path / "many" / str(seed), seed=seed, final=(nll, 0.5 + nll / 10))
    html, document = sweep([tmp_path / "many"], tmp_path / "many" / "sweep.html")
    (group,) = document["groups"]
    assert group["nll"]["mean"] == pytest.approx(0.9)
    assert (group["nll"]["low"], group["nll"]["high"]) == pytest.approx((0.651586, 1.148414), abs=1e-6)
    assert group["exact_match"]["mean"] == pytest.approx(0.59)
    assert group["seeds"] == ["0", "1", "2"]
    assert group["epsilon"] == pytest.approx(3.97)
    assert group["target"] == 3.97
    assert "0.652 to 1.148" in html
    assert "3 runs, 1 setting<" in html
    assert str(tmp_path) not in json.dumps(document)


def test_one_line_per_rule_and_levels_without_privacy(tmp_path):
    for rule in ("fedavg", "fedsvd"):
        for epsilon in (2.0, 8.0, None):
            write_run(tmp_path / f"{rule}-{epsilon}", rule=rule, epsilon=epsilon)
    html, document = sweep([tmp_path], tmp_path / "out")
    points = [(group["line"], group["private"], group["epsilon"]) for group in document["groups"]]
    assert points == [
        (rule, epsilon is not None, epsilon) for rule in ("fedavg", "fedsvd") for epsilon in (2.0, 8.0, None)
    ]
    for label in ("fedavg", "fedsvd", "fedavg, no privacy", "fedsvd, no privacy", "Base model"):
        assert html.count(f">{label}</text>") == 2
    assert "aggregation.rule" in html
    assert "NO PRIVACY GUARANTEE" in html


def test_no_banner_when_every_run_is_private(tmp_path, undrawn):
    write_run(tmp_path / "run")
    assert "NO PRIVACY GUARANTEE" not in sweep([tmp_path / "run"], tmp_path / "out")[0]


def test_several_varying_settings_are_named(tmp_path, undrawn):
    write_run(tmp_path / "a", rule="fedavg")
    write_run(tmp_path / "b", rule="fedsvd")
    text = (tmp_path / "b" / "config.yaml").read_text()
    (tmp_path / "b" / "config.yaml").write_text(text.replace("r: 8", "r: 16"))
    _, document = sweep([tmp_path], tmp_path / "out")
    assert [group["line"] for group in document["groups"]] == ["r 16, rule fedsvd", "r 8, rule fedavg"]


def test_how_a_run_was_executed_is_not_a_setting(tmp_path, undrawn):
    write_run(tmp_path / "a", seed=1)
    write_run(tmp_path / "b", seed=2)
    text = (tmp_path / "b" / "config.yaml").read_text()
    (tmp_path / "b" / "config.yaml").write_text(text.replace("backend: processes", "backend: ray"))
    assert len(sweep([tmp_path], tmp_path / "out")[1]["groups"]) == 1


def test_the_same_run_counts_once(tmp_path, undrawn):
    run = write_run(tmp_path / "many" / "run")
    _, document = sweep([run, tmp_path / "many", run.parent / "." / "run"], tmp_path / "out")
    assert [group["seeds"] for group in document["groups"]] == [["1"]]
    assert document["groups"][0]["nll"]["low"] is None


def test_unfinished_runs_are_named(tmp_path, undrawn):
    write_run(tmp_path / "many" / "run")
    (write_run(tmp_path / "many" / "stopped <b>", seed=2) / "results.json").unlink()
    html, document = sweep([tmp_path / "many"], tmp_path / "many")
    assert document["skipped"] == ["stopped <b>"]
    assert "<li>stopped &lt;b&gt;</li>" in html


def test_links_lead_to_the_runs_pages(tmp_path):
    write_run_report(write_run(tmp_path / "many" / "a%b c"))
    html, _ = sweep([tmp_path / "many"], tmp_path / "out")
    assert 'href="../many/a%25b%20c/report.html"' in html


def test_a_diverged_run_is_null_in_json(tmp_path):
    write_run(tmp_path / "a", seed=1, final=(float("nan"), 0.1))
    write_run(tmp_path / "b", seed=2)
    (group,) = sweep([tmp_path], tmp_path / "out")[1]["groups"]
    assert group["nll"]["mean"] is None
    assert group["nll"]["low"] is None
    assert group["exact_match"]["low"] is not None


def test_page_loads_nothing_and_is_the_same_every_time(tmp_path):
    write_run(tmp_path / "run")
    html, _ = sweep([tmp_path / "run"], tmp_path / "out")
    assert "<script" not in html
    assert "default-src 'none'" in html
    assert sweep([tmp_path / "run"], tmp_path / "out")[0] == html


def test_what_cannot_be_compared_is_refused(tmp_path, undrawn):
    output = tmp_path / "out"
    with pytest.raises(RunError, match="at least one finished run, got 0 folders"):
        write_sweep_report([], output)
    with pytest.raises(RunError, match=r"no config\.yaml and no results\.json"):
        write_sweep_report([tmp_path / "nowhere"], output)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="finished run"):
        write_sweep_report([tmp_path / "empty"], output)
    run = write_run(tmp_path / "runs" / "a")
    write_run(tmp_path / "runs" / "b")
    with pytest.raises(RunError, match=r"got seed 1 in .*runs/a and in .*runs/b"):
        write_sweep_report([tmp_path / "runs"], output)
    edit_results(run, lambda document: document["evaluation"].update(federated=None))
    with pytest.raises(RunError, match=r"Expected evaluation\.federated"):
        write_sweep_report([run], output)
    assert not output.exists()


def test_an_interval_ends_where_values_must():
    wide = estimate([0.9, 0.7], bounds=(0.0, 1.0))
    assert wide.high == 1.0 and wide.low == 0.0


def test_a_bar_ends_where_its_interval_does():
    """Two seeds far apart: the interval is the whole range, and the axis shows no share below nothing."""
    wide = estimate([0.22, 0.33], bounds=(0.0, 1.0))
    drawn = utility_plot([CurvePoint("fedsvd", 8.0, wide, 0.05)], "exact_match")
    assert wide.low == 0.0 and "20 %" in drawn
    assert "-20 %" not in drawn and "\N{MINUS SIGN}20 %" not in drawn
