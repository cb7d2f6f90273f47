"""ROC curve, its area and the rate at few false alarms."""

import numpy as np
import pytest
from scipy.special import ndtr

from fedbank.audit.roc import curve, summarise


def test_area_of_two_normals_is_known_and_inside_its_interval():
    rng = np.random.default_rng(0)
    attack = summarise(rng.standard_normal(4000) + 1, rng.standard_normal(4000))
    assert attack.auc == pytest.approx(ndtr(1 / np.sqrt(2)), abs=0.02)
    low, high = attack.auc_interval
    assert low < ndtr(1 / np.sqrt(2)) < high and high - low < 0.03


def test_ties_count_half():
    assert summarise(np.array([1.0, 1.0]), np.array([1.0, 1.0])).auc == 0.5


def test_rate_at_one_percent_counts_only_scores_above_all_but_one_percent():
    others = np.arange(200.0)
    attack = summarise(np.array([150.0, 197.5, 198.5, 300.0]), others)
    assert attack.tpr_at_1_fpr == 0.75
    low, high = attack.tpr_at_1_fpr_interval
    assert low < 0.75 < high


def test_perfect_separation_is_not_called_certain():
    attack = summarise(np.ones(30), np.zeros(30))
    assert attack.auc == 1.0 and attack.auc_interval[0] == pytest.approx(0.9)


def test_curve_runs_from_nobody_to_everybody_and_has_the_area():
    rng = np.random.default_rng(1)
    scores_in, scores_out = rng.standard_normal(300) + 1, rng.standard_normal(200)
    false, true = curve(scores_in, scores_out)
    assert (false[0], true[0], false[-1], true[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert np.trapezoid(true, false) == pytest.approx(summarise(scores_in, scores_out).auc)
