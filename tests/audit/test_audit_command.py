"""``fedbank audit`` from its words to figures, page and exit code."""

import json

import numpy as np
import pytest
from rich.console import Console

from fedbank.audit.finding import Bound, Finding
from fedbank.cli import main
from fedbank_simulations.audit.cli import conclude
from fedbank_simulations.audit.page import Audit, write_page

SMALL = ("data.customers=300", "training.rounds=1", "training.local_steps=1", "held_out.fraction=0.3")
KEYS = {"epsilon_lower", "epsilon_claimed", "confidence", "method", "ok", "trials", "auc", "tpr_at_1_fpr"}


def make_audit(lower, claimed=4.0):
    rng = np.random.default_rng(0)
    bounds = (Bound("one run", lower, 0.95, "nothing"), Bound("another", 0.1, 0.95, "nothing"))
    finding = Finding("an attack", claimed, 1e-5, bounds, rng.standard_normal(40) + 1, rng.standard_normal(40))
    return Audit("mechanism", [finding], 1.0)


def printed(capsys):
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("lower", "claimed", "code"), [(3.9, 4.0, 0), (4.1, 4.0, 3), (50.0, None, 0)])
def test_only_a_bound_above_its_claim_is_a_violation(lower, claimed, code, tmp_path, capsys):
    audit = make_audit(lower, claimed)
    page = write_page(audit, tmp_path)
    assert conclude(audit, page, Console(stderr=True), as_json=True) == code
    shown = printed(capsys)
    assert shown.keys() >= KEYS
    assert (shown["ok"], shown["epsilon_lower"], shown["epsilon_claimed"]) == (code == 0, lower, claimed)
    text = page.read_text("utf-8")
    assert ("DOES NOT HOLD" in text) == (code == 3)
    assert text.count("<svg") >= 2 and "src=" not in text and "https://" not in text


def test_no_outcome_is_called_a_proof_of_privacy(tmp_path):
    text = write_page(make_audit(1.0), tmp_path).read_text("utf-8").lower()
    assert "no violation found at this strength" in text and "never prove" in text
    assert "passed" not in text


def test_mechanism_prints_one_object(capsys, tmp_path):
    folder = tmp_path / "page"
    words = ["--trials", "1000", "--workers", "1", "--epsilon", "6", "--confidence", "0.999", "--json"]
    assert main(["audit", "mechanism", *words, f"output={folder}"]) == 0
    shown = printed(capsys)
    assert shown["level"] == "mechanism" and shown["ok"] and len(shown["findings"]) == 2
    assert (folder / "audit.html").is_file() and (folder / "audit.json").is_file()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["everything"],
        ["mechanism", "--trials", "5"],
        ["mechanism", "--sampling-prob", "2"],
        ["mechanism", "--sampling-prob", "0"],
        ["mechanism", "--epsilon", "-1"],
        ["mechanism", "--epsilon", "0"],
        ["mechanism", "--steps", "0"],
        ["mechanism", "--delta", "0.5"],
        ["mechanism", "--confidence", "1"],
        ["mechanism", "banks=3"],
        ["gradient", "--customers", "0"],
        ["gradient", "--canaries", "1"],
        ["canary", "--canaries", "3"],
        ["canary", "privacy=off", "--against", "off"],
        ["canary", "--bank", "nobody"],
        ["canary", "simulation.backend=ray"],
        ["canary", "privacy.unit=record"],
        ["mia", "privacy.unit=record"],
        ["mia", "--shadows", "3"],
        ["mia", "--run", "/nowhere"],
    ],
)
def test_bad_input_is_a_plain_error_with_exit_code_2(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["audit", *words]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and ("Expected" in said or not words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("mechanism --trials 999", "--trials of 1000 or more, got 999."),
        ("mechanism --workers 0", "--workers of 1 or more, got 0."),
        ("mechanism --steps 100000000", "--steps from 1 to 100000, got 100000000."),
        ("mechanism --steps 0", "--steps from 1 to 100000, got 0."),
        ("mechanism --epsilon 100.5", "--epsilon above 0 and at most 100, got 100.5:"),
        ("mechanism --epsilon nan", "--epsilon above 0 and at most 100, got nan:"),
        ("gradient --steps 100000000", "--steps from 1 to 100000, got 100000000."),
        ("gradient --epsilon 101", "--epsilon above 0 and at most 100, got 101:"),
        ("gradient --canaries 0", "--canaries of 2 or more, got 0."),
        ("gradient --customers 0", "--customers of 1 or more, got 0."),
        ("gradient privacy=off", "privacy to be on, whose promise this audit tests, got privacy=off."),
        ("gradient privacy.unit=record", "privacy.unit=customer, whose promise this audit tests, got record."),
        ("canary --canaries 0", "--canaries of 20 or more, got 0."),
    ],
)
def test_a_refusal_names_the_option_and_what_was_given(words, says, capsys):
    assert main(["audit", *words.split()]) == 2
    said = capsys.readouterr()
    assert f"Expected {says}" in said.err and "Training" not in said.out


@pytest.mark.parametrize("level", ["mechanism", "gradient", "canary", "mia", "mia --run run"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_audit_begins(level, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    assert main(["audit", *level.split(), "output=file/page"]) == 2
    said = capsys.readouterr()
    assert "Expected output=file/page to be a folder that can be written, got: Not a directory" in said.err
    assert said.out == "" and [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_canaries_with_and_without_privacy_share_one_page_and_a_finished_run_can_be_attacked(capsys, tmp_path):
    output, again = tmp_path / "canary", tmp_path / "mia"
    words = ["--canaries", "20", "--against", "off", "--json", f"output={output}"]
    assert main(["audit", "canary", *words, *SMALL]) == 0
    private, plain = printed(capsys)["findings"]
    assert private["epsilon_claimed"] == pytest.approx(8, abs=0.05) and plain["epsilon_claimed"] is None
    assert private["trials"] == plain["trials"] == 20
    page = (output / "audit.html").read_text("utf-8")
    assert private["name"] in page and plain["name"] in page
    assert main(["audit", "mia", "--run", str(output), "--shadows", "0", "--json", f"output={again}"]) == 0
    assert printed(capsys)["name"].startswith("loss against the base model")


@pytest.mark.slow
def test_membership_inference_trains_its_own_run_and_shadows(capsys, tmp_path):
    words = ["--candidates", "40", "--shadows", "4", "--json", f"output={tmp_path / 'mia'}"]
    assert main(["audit", "mia", *words, *SMALL]) == 0
    shown = printed(capsys)
    assert [one["name"].split(",")[0] for one in shown["findings"]] == ["LiRA", "loss against reference adapters"]
    assert shown["confidence"] == pytest.approx(0.975)
