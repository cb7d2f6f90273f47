"""What a bank computes again before it signs: the adapter on its own customers, and the public suite."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from bank_world import MemberBank, policy
from draft_world import draft_of_release, privacy_of, travelling
from release_world import World, manifest_of
from tiny_release import write_tiny_release

from fedbank.data.synthetic import SyntheticSpec, generate
from fedbank.release.build import Scores, write_release
from fedbank.release.contents import MANIFEST, WEIGHTS
from fedbank.release.errors import ReleaseError
from fedbank.release.manifest import Manifest
from fedbank_client.adoption import load_apart, score_apart
from fedbank_client.release_review import Review, review

DATA = ("data.customers=20", "threads=1")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "suite.jsonl"
    rows = generate(SyntheticSpec(4), seed=99)
    fields = ({"question": row.question, "answer": row.answer, "customer": row.customer} for row in rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in fields), "utf-8")
    return path


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of random weights: far worse than the base model."""
    made = tmp_path_factory.mktemp("made") / "tiny-1"
    write_tiny_release(made)
    return made


@pytest.fixture(scope="module")
def scores(release: Path, suite: Path) -> Scores:
    return score_apart(release, DATA, "--suite", str(suite))


def look(folder: Path, release: Path, suite: Path, evaluation: dict[str, Any]) -> Review:
    """The review of a draft with the adapter of ``release`` and another word on its scores."""
    said = Manifest.from_bytes((release / MANIFEST).read_bytes())
    fields = {name: getattr(said, name) for name in ("base", "adapter")}
    privacy = {**privacy_of(), "banks": {}}
    made = folder / "tiny-1"
    manifest = manifest_of("tiny-1", 0.5, **fields, privacy=privacy, evaluation=evaluation)
    write_release(made, manifest, (release / WEIGHTS).read_bytes())
    world = World(folder)
    bank = MemberBank(world, folder / "member")
    drafted = travelling(folder / "draft", *world.release_change(made))
    return review(bank.home, drafted, policy(), None, DATA, suite=suite)


@pytest.mark.slow
def test_scores_are_computed_again_and_a_worse_adapter_is_shown_to_be_one(
    release: Path, suite: Path, scores: Scores, tmp_path: Path
) -> None:
    assert scores.suite == hashlib.sha256(suite.read_bytes()).hexdigest() and scores.records > 0
    found = look(tmp_path, release, suite, scores.fields())
    lines = {check.name: check for check in found.checks}
    assert lines["suite"].passed and "differ by at most 0" in lines["suite"].said
    assert scores.adapter["nll"] > scores.base["nll"]
    assert found.passed and found.own is not None and "WORSE with the adapter" in found.own.sentence()


@pytest.mark.slow
def test_a_base_model_that_is_not_here_is_a_check_that_failed(release: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="Expected an adapter that loads and answers, got: Expected"):
        score_apart(release, (*DATA, "model=path", f"model.path={tmp_path}"))


@pytest.mark.slow
def test_what_decides_whether_an_adapter_loads_reads_no_customer(release: Path, tmp_path: Path) -> None:
    """The customers' file is not even there."""
    data = ("data=csv", f"data.path={tmp_path / 'no.csv'}", "threads=1")
    load_apart(release, data)
    with pytest.raises(ReleaseError, match="Expected an adapter that loads and answers, got: Expected"):
        score_apart(release, data)


_SAYS = """
import json, os, sys
if "evaluate" in sys.orig_argv:
    says = {suite!r} if "--suite" in sys.orig_argv else {made_up!r} if "--made-up" in sys.orig_argv else {own!r}
    os.write(1, json.dumps(says).encode())
    os._exit(0)
"""
SUITE = manifest_of("spring-1", 0.5).evaluation["suite"]
NAN = float("nan")
ROWS: list[tuple[str, dict[str, Any], list[str]]] = [
    # what the suite gives; checks that fail
    ("all comes out again", {}, []),
    ("within rounding", {"adapter": {"nll": 1.9705}}, []),
    ("the adapter is worse than said", {"adapter": {"nll": 1.98}}, ["suite"]),
    ("the base is better than said", {"base": {"nll": 2.2}}, ["suite"]),
    ("no number on the suite", {"adapter": {"nll": NAN}}, ["suite"]),
    ("a score that the release does not give", {"base": {"nll": 2.31, "exact_match": 0.5}}, ["suite"]),
    ("fewer records than said", {"records": 39}, ["suite"]),
    ("a score that only the release gives", {"base": {}, "adapter": {}}, ["suite"]),
    ("another suite", {"suite": "0" * 64}, ["suite"]),
]
OWN: list[tuple[str, tuple[float, float], str]] = [
    # nll on own customers: base, adapter; what a person reads
    ("better", (2.0, 1.5), "nll 2.0000 -> 1.5000, 20 records: better with the adapter"),
    ("no better and no worse", (2.0, 2.0), "nll 2.0000 -> 2.0000, 20 records: the same with the adapter"),
    ("worse", (2.0, 2.01), "nll 2.0000 -> 2.0100, 20 records: WORSE with the adapter. We would not take it"),
    ("no number", (2.0, NAN), "NO NUMBER: the adapter does not answer them. We would not take it"),
]


def reviewed(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: tuple[float, float],
    on_suite: dict[str, Any],
    *,
    public: float = 1.5,
    suite: bool = True,
    shown: bool = True,
) -> Review:
    """The process that scores is one that says these figures."""
    ours = {"suite": "", "records": 20, "base": {"nll": own[0]}, "adapter": {"nll": own[1]}}
    theirs = {"suite": SUITE, "records": 40, "base": {"nll": 2.31}, "adapter": {"nll": 1.97}} | on_suite
    made_up = {"suite": "", "records": 9, "base": {"nll": 2.0}, "adapter": {"nll": public}}
    says = _SAYS.format(own=ours, suite=theirs, made_up=made_up)
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text("inf, NaN = float('inf'), float('nan')\nnan = NaN\n" + says)
    monkeypatch.setenv("PYTHONPATH", f"{folder / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    world = World(folder / "world")
    bank = MemberBank(world, folder / "member")
    drafted = draft_of_release(world, "spring-1", privacy={**privacy_of(), "banks": {}})
    file = folder / "suite.jsonl" if suite else None
    return review(bank.home, drafted, policy(), None, (), suite=file, own=shown)


@pytest.mark.parametrize(("on_suite", "failed"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_scores_that_do_not_come_out_again_are_not_signed(
    on_suite: dict[str, Any], failed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = reviewed(tmp_path, monkeypatch, (2.0, 1.5), on_suite)
    assert [check.name for check in found.checks if not check.passed] == failed, found.checks


@pytest.mark.parametrize(("own", "said"), [row[1:] for row in OWN], ids=[row[0] for row in OWN])
def test_figures_on_own_customers_are_shown_and_fail_nothing(
    own: tuple[float, float], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = reviewed(tmp_path, monkeypatch, own, {})
    assert found.passed and found.own is not None and said in found.own.sentence()
    assert not any("20 records" in check.said for check in found.checks)


def test_whoever_asks_for_no_figures_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reviewed(tmp_path, monkeypatch, (2.0, 1.5), {}, shown=False).own is None


@pytest.mark.parametrize(("public", "passed"), [(1.5, True), (9.0, True), (NAN, False), (float("inf"), False)])
def test_without_a_suite_it_must_load_and_answer_made_up_customers_with_numbers(
    public: float, passed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = reviewed(tmp_path, monkeypatch, (2.0, 1.5), {}, public=public, suite=False)
    (line,) = [check for check in found.checks if check.name == "load"]
    assert line.passed is passed is found.passed


def test_what_is_scored_is_what_was_read_even_if_the_draft_is_exchanged_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a share somebody may put another adapter there for as long as the scoring takes, and then the first again."""
    world = World(tmp_path / "world")
    bank, seen = MemberBank(world, tmp_path / "member"), list[bytes]()
    drafted = draft_of_release(world, "spring-1", privacy={**privacy_of(), "banks": {}})
    weights = drafted.folder / "files" / "releases" / "spring-1" / WEIGHTS
    signed = weights.read_bytes()

    def score(adapter: Path, overrides: object, *words: str) -> Scores:
        weights.write_bytes(b"a better one")
        seen.append((adapter / WEIGHTS).read_bytes())
        weights.write_bytes(signed)
        return Scores("", 20, {"nll": 2.0}, {"nll": 1.5})

    monkeypatch.setattr("fedbank_client.adoption.score_apart", score)
    monkeypatch.setattr("fedbank_client.own_customers.score_apart", score)
    assert review(bank.home, drafted, policy(), None, (), suite=None).passed and seen == [signed, signed]
