"""The page of a run: true to the figures, self-contained, safe to open, honest about privacy."""

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from run_folder import BANKS, FINAL, HOSTILE, edit_results, write_run

from fedbank.errors import RunError
from fedbank_simulations.report import plots, write_run_report
from fedbank_simulations.report.load import Evaluation, load_run

BANNER = "NO PRIVACY GUARANTEE"


class Elements(HTMLParser):
    """Every tag with its attributes, and the visible text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def page(folder):
    return write_run_report(folder).read_text(encoding="utf-8")


def visible(html):
    return Elements(html).text.replace("\u202f", " ")


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The page of an ordinary run, drawn once."""
    return page(write_run(tmp_path_factory.mktemp("report") / "run"))


def test_page_loads_nothing(html):
    for tag, attributes in Elements(html).tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "img", "base"}
        for name in {"src", "href", "xlink:href", "srcset", "action", "poster", "data"} & attributes.keys():
            assert attributes[name].startswith("#"), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "default-src 'none'" in html


def test_page_is_accessible(html):
    tags = Elements(html).tags
    assert ("html", {"lang": "en"}) in tags
    assert ("dd", {"class": "question", "lang": "zh"}) in tags
    drawings = [attributes for tag, attributes in tags if tag == "svg" and "mix" not in attributes.get("class", "")]
    assert all(one.get("aria-label") or one.get("aria-hidden") for one in drawings)
    repeated = Counter(attributes["id"] for _, attributes in tags if "id" in attributes)
    assert all(count == 1 for count in repeated.values())


def test_figures_are_those_of_the_results(html):
    text = visible(html)
    for nll, exact_match in FINAL.values():
        assert f"{nll:.3f}" in text
        assert f"{100 * exact_match:.1f} %" in text
    for figure in (
        "ε ≤ 3.97",
        "1e-5",
        "1.137",
        "0.0625",
        "23.6 MB",
        "47.2 MB",
        "1 h 10 min",
        "6.2 GB",
        "5 213",
        "2.13.0",
    ):
        assert figure in text
    assert "epsilon 3.97 at delta 1e-05" in text
    assert "AutoTokenizer.from_pretrained(base)" in text
    assert 'base = "Qwen/Qwen2.5-0.5B-Instruct"' in text
    assert "alpha: 0.5" in text


def test_every_plot_is_there(html):
    for name in (
        "Loss (nats",
        "Exact match on held-out",
        "Cumulative epsilon",
        "Exact match on the bank",
        "Loss below",
    ):
        assert f'aria-label="{name}' in html
    for label in (
        "Base model",
        "Bank alone, mean and range",
        "Federated, no privacy",
        "Centralized",
        "Target ε = 3.97",
    ):
        assert f">{label}</text>" in html


def test_customers_and_banks_cannot_inject(run):
    edit_results(
        run,
        lambda document: document["per_bank"].update(
            {
                "</text><script>x</script> $\\frac$": {
                    "base": {"nll": 2.0, "exact_match": 0.1, "n": 5},
                    "federated": {"nll": 1.0, "exact_match": 0.2, "n": 5},
                }
            }
        ),
    )
    html = page(run)
    assert "<script" not in html
    assert "<img" not in html
    text = visible(html)
    assert HOSTILE in text
    assert "fees & <b>" in text
    assert "</text><script>x</script> $\\frac$" in text


def test_answers_are_labelled_in_words(html):
    text = " ".join(visible(html).split())
    assert "Before<img src=http://evil.example/x> ✗ incorrect" in text
    assert "After年费可减免 ✓ correct" in text


def test_comparisons_may_be_missing(tmp_path):
    folder = write_run(tmp_path / "run", comparisons=False)

    def only_federated(document):
        document["evaluation"] = dict.fromkeys(FINAL) | {"federated": document["evaluation"]["federated"]}
        document["per_bank"], document["examples"] = {}, []

    edit_results(folder, only_federated)
    html = page(folder)
    assert "Nothing to compare with." in html
    assert "Centralized</text>" not in html
    assert "Answers before and after" not in html


def test_privacy_off_is_loud(html, tmp_path):
    without = page(write_run(tmp_path / "run", epsilon=None))
    assert BANNER in without
    assert "trained without privacy" in without
    assert "ε ≤" not in without
    assert "Cumulative epsilon" not in without
    assert BANNER not in html
    assert "trained without privacy" not in html


def test_a_run_without_rounds_or_evaluation_has_a_page(tmp_path):
    folder = write_run(tmp_path / "run", comparisons=False)
    (folder / "rounds.jsonl").unlink()
    edit_results(folder, lambda document: document.update(evaluation={}, per_bank={}))
    assert "The federated adapter was not evaluated." in page(folder)


def test_a_diverged_run_has_a_page(tmp_path):
    folder = write_run(tmp_path / "run", final=(float("nan"), 0.0))
    assert "not comparable with the base model" in page(folder)


def test_the_mean_alone_is_over_questions_and_the_range_over_what_banks_learn(run, monkeypatch):
    """Two banks with questions of different difficulty that learn the same: a mean, and a range of width zero."""
    drawn = {}
    monkeypatch.setattr(
        "fedbank_simulations.report.plots._draw_curve", lambda _, name, found, **__: drawn.update({name: found})
    )
    axes = SimpleNamespace(fill_between=lambda rounds, low, high, **_: drawn.update(rounds=rounds, low=low, high=high))
    rounds = load_run(run).rounds[:2]

    def bank(n, *losses):
        scored = zip(rounds, losses, strict=True)
        return [replace(one, evaluation=Evaluation(nll, 0.5, n)) for one, nll in scored]

    plots._draw_alone(axes, [bank(10, 2.0, 1.0), bank(30, 1.0, 0.0)], "nll")
    assert drawn["local_only"] == [(0, pytest.approx(1.25)), (1, pytest.approx(0.25))]
    assert drawn["low"] == pytest.approx([1.25, 0.25])
    assert drawn["high"] == pytest.approx([1.25, 0.25])


def test_many_banks_are_drawn_as_a_range(run):
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        line["epsilon"] = {f"bank-{index}": line["round"] + index / 10 for index in range(30)}
    (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "Range of 30 banks</text>" in page(run)


def test_page_is_the_same_every_time_and_replaced_whole(run, monkeypatch):
    first = page(run)
    assert page(run) == first
    monkeypatch.setattr("fedbank_simulations.report.page.render", lambda *_: "\ud800")
    with pytest.raises(UnicodeEncodeError):
        write_run_report(run)
    assert (run / "report.html").read_text(encoding="utf-8") == first
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []


def test_a_run_can_be_read_back(run):
    loaded = load_run(run)
    assert set(loaded.local_only) == set(BANKS)
    assert set(loaded.comparisons) == {"federated_nonprivate", "centralized"}
    assert [one.number for one in loaded.rounds] == list(range(7))
    assert loaded.setting("aggregation.rule") == "fedsvd"
    assert loaded.setting("aggregation.rule.no.such") is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "results.json").unlink(), "no results.json"),
        (lambda run: (run / "config.yaml").unlink(), "no config.yaml"),
        (lambda run: (run / "results.json").write_text("{"), "Expected JSON in"),
        (lambda run: (run / "results.json").write_bytes(b"\xff"), "readable UTF-8 file"),
        (lambda run: (run / "results.json").write_text("[]"), "Expected a mapping"),
        (lambda run: (run / "config.yaml").write_text("a: [", encoding="utf-8"), "Expected YAML in"),
        (lambda run: (run / "rounds.jsonl").write_text('{"round": 1}\nx\n'), "rounds.jsonl:2"),
        (lambda run: (run / "rounds.jsonl").write_text('{"round": 1.5}\n'), "a whole number at"),
        (lambda run: edit_results(run, lambda d: d.update(private="yes")), "true or false at"),
        (
            lambda run: edit_results(run, lambda d: d["banks"]["bank-1"].pop("records")),
            r"banks\.bank-1\.records, got nothing",
        ),
        (lambda run: edit_results(run, lambda d: d.update(seconds=True)), "a number at"),
        (lambda run: edit_results(run, lambda d: d.update(examples={})), "a list at"),
        (
            lambda run: edit_results(run, lambda d: d["examples"][0].update(before=3)),
            r"a text at .*examples\[0\]\.before",
        ),
    ],
)
def test_what_is_not_a_finished_run_is_refused(run, damage, message):
    damage(run)
    with pytest.raises(RunError, match=message):
        write_run_report(run)
    assert not (run / "report.html").exists()


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"no config\.yaml and no results\.json"):
        write_run_report(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
