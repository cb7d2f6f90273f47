"""What limits a bank's influence reaches the rounds: from consortium.yaml, and from the plans that banks accepted."""

import json
import math
import re
from pathlib import Path

import pytest
from whole_consortium import WholeConsortium

from fedbank.config import load_campaign
from fedbank_server.consortium import Files
from fedbank_server.history import History
from fedbank_server.run import campaign_terms, prepare

SETTINGS = (
    *("training.rounds=1", "training.local_steps=2", "training.expected_batch=16", "training.momentum=0.5"),
    *("privacy.epsilon=8", "aggregation.weights=declared"),
)


@pytest.mark.slow
def test_a_deployed_campaign_goes_by_the_consortiums_share_and_the_accepted_plans(tmp_path: Path) -> None:
    made = WholeConsortium(tmp_path)
    settings = Files(made.coordinator).settings
    settings.write_text(re.sub(r"(?m)^max_share: .*$", "max_share: 0.45", settings.read_text("utf-8")), "utf-8")
    made.run(*SETTINGS)
    (kept,) = (made.coordinator / "campaigns").glob("campaign-*")
    (line,) = History(kept / "history.jsonl").lines()
    assert {found["weight"] for found in line.accepted.values()} == {1.0}  # of two nobody has 0.45: they count alike

    prepared = prepare(made.coordinator, load_campaign([*SETTINGS, "patience_s=20"]))
    terms = campaign_terms(prepared, prepared.kept.accepted(), "r" * 64)
    assert terms.max_share == 0.45
    counts = math.hypot(1.5, 1.0)  # the first of two steps counts one and a half times with a momentum of a half
    size, rate = prepared.spec.num_trainable(), prepared.proposal.terms.training.learning_rate
    assert terms.noise_norms.keys() == set(made.banks)
    for bank, norm in terms.noise_norms.items():
        plan = json.loads(json.loads((kept / "accepted" / f"{bank}.json").read_bytes())["plan"])
        std = plan["noise_multiplier"] * plan["clip_norm"] / plan["sampling"]["expected_batch_size"]
        assert norm == pytest.approx(rate * std * math.sqrt(size) * counts)
        assert 0.8 * norm < line.accepted[bank]["norm"] < 1.5 * norm
