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
from fedbank_client.adoption import score_apart
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
def test_scores_are_computed_again_and_a_worse_adapter_is_not_signed(
    release: Path, suite: Path, scores: Scores, tmp_path: Path
) -> None:
    assert scores.suite == hashlib.sha256(suite.read_bytes()).hexdigest() and scores.records > 0
    found = look(tmp_path, release, suite, scores.fields())
    lines = {check.name: check for check in found.checks}
    assert lines["suite"].passed and "differ by at most 0" in lines["suite"].said
    assert scores.adapter["nll"] > scores.base["nll"]
    assert not lines["own customers"].passed and not found.passed
    assert [check.name for check in found.checks if not check.passed] == ["own customers"]


@pytest.mark.slow
def test_a_base_model_that_is_not_here_is_a_check_that_failed(release: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="Expected an adapter that loads and answers, got: Expected"):
        score_apart(release, (*DATA, "model=path", f"model.path={tmp_path}"))


_SAYS = """
import json, os, sys
if "evaluate" in sys.orig_argv:
    os.write(1, json.dumps({suite!r} if "--suite" in sys.orig_argv else {own!r}).encode())
    os._exit(0)
"""
SUITE = manifest_of("spring-1", 0.5).evaluation["suite"]
NAN = float("nan")
ROWS: list[tuple[str, tuple[float, float], dict[str, Any], list[str]]] = [
    # nll on own customers: base, adapter; what the suite gives; checks that fail
    ("all comes out again", (2.0, 1.5), {}, []),
    ("no better and no worse", (2.0, 2.0), {}, []),
    ("worse on own customers", (2.0, 2.01), {}, ["own customers"]),
    ("no number on own customers", (2.0, NAN), {}, ["own customers"]),
    ("within rounding", (2.0, 1.5), {"adapter": {"nll": 1.9705}}, []),
    ("the adapter is worse than said", (2.0, 1.5), {"adapter": {"nll": 1.98}}, ["suite"]),
    ("the base is better than said", (2.0, 1.5), {"base": {"nll": 2.2}}, ["suite"]),
    ("no number on the suite", (2.0, 1.5), {"adapter": {"nll": NAN}}, ["suite"]),
    ("a score that the release does not give", (2.0, 1.5), {"base": {"nll": 2.31, "exact_match": 0.5}}, ["suite"]),
    ("fewer records than said", (2.0, 1.5), {"records": 39}, ["suite"]),
    ("a score that only the release gives", (2.0, 1.5), {"base": {}, "adapter": {}}, ["suite"]),
    ("another suite", (2.0, 1.5), {"suite": "0" * 64}, ["suite"]),
]


@pytest.mark.parametrize(("own", "on_suite", "failed"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_scores_that_do_not_come_out_again_are_not_signed(
    own: tuple[float, float],
    on_suite: dict[str, Any],
    failed: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process that scores is one that says these figures."""
    ours = {"suite": "", "records": 20, "base": {"nll": own[0]}, "adapter": {"nll": own[1]}}
    theirs = {"suite": SUITE, "records": 40, "base": {"nll": 2.31}, "adapter": {"nll": 1.97}} | on_suite
    code = "NaN = nan = float('nan')\n" + _SAYS.format(own=ours, suite=theirs)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(code, "utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    world = World(tmp_path / "world")
    bank = MemberBank(world, tmp_path / "member")
    drafted = draft_of_release(world, "spring-1", privacy={**privacy_of(), "banks": {}})
    found = review(bank.home, drafted, policy(), None, (), suite=tmp_path / "suite.jsonl")
    assert [check.name for check in found.checks if not check.passed] == failed, found.checks


def test_what_is_scored_is_what_was_read_even_if_the_draft_is_exchanged_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a share somebody may put another adapter there for as long as the scoring takes, and then the first again."""
    world = World(tmp_path / "world")
    bank, seen = MemberBank(world, tmp_path / "member"), list[bytes]()
    drafted = draft_of_release(world, "spring-1", privacy={**privacy_of(), "banks": {}})
    weights = drafted.folder / "files" / "releases" / "spring-1" / WEIGHTS
    signed = weights.read_bytes()

    def score(adapter: Path, overrides: object) -> Scores:
        weights.write_bytes(b"a better one")
        seen.append((adapter / WEIGHTS).read_bytes())
        weights.write_bytes(signed)
        return Scores("", 20, {"nll": 2.0}, {"nll": 1.5})

    monkeypatch.setattr("fedbank_client.release_review.score_apart", score)
    assert review(bank.home, drafted, policy(), None, (), suite=None).passed and seen == [signed]
