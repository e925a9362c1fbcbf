"""AUC, average precision, thresholds and calibration against scikit-learn, with ties, doubt and weights."""

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagcot.metrics import labels, ranking
from diagcot.metrics.intervals import Bootstrap


def cases(seed, samples=60, columns=3, levels=6):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (samples, columns)).astype(float)
    truth[rng.random(truth.shape) < 0.1] = np.nan
    truth[:2] = [[0.0] * columns, [1.0] * columns]
    scores = (
        np.round(np.clip(0.3 * np.nan_to_num(truth, nan=0.5) + rng.random(truth.shape) * 0.7, 0, 1) * levels) / levels
    )
    return scores, truth


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_areas_are_those_of_scikit_learn(seed):
    from sklearn import metrics as reference

    scores, truth = cases(seed)
    times = np.random.default_rng(seed).integers(0, 4, (3, len(scores))).astype(float)
    times[:, :2] = 1
    group = np.arange(len(scores))
    areas: dict[Literal["auc", "ap"], Any] = {
        "auc": reference.roc_auc_score,
        "ap": reference.average_precision_score,
    }
    for kind, area in areas.items():
        found = ranking.Ranking(scores, truth, kind, (0, 1, 2)).under(times, group)
        for weights, value in zip(times, found, strict=True):
            known = np.isfinite(truth)
            each = [
                area(truth[known[:, c], c], scores[known[:, c], c], sample_weight=weights[known[:, c]])
                for c in range(3)
            ]
            assert value == pytest.approx(np.mean(each), abs=1e-12)


def test_a_draw_without_a_class_leaves_the_label_out():
    scores, truth = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.3]]), np.array([[1.0, 0], [0, 1], [0, 0]])
    metric = ranking.Ranking(scores, truth, "auc", (0, 1))
    times = np.array([[1.0, 0, 1], [0, 0, 2]])  # the second label, then both, have one class only
    found = metric.under(times, np.arange(3))
    assert found[0] == 1.0 and np.isnan(found[1])
    boot = Bootstrap(["a", "b", "c"], draws=200)
    interval = boot.interval(metric)
    assert interval.low <= interval.value == 1.0 and np.isfinite(interval.low)


def test_a_rank_of_chance_is_a_half():
    rng = np.random.default_rng(0)
    truth = (rng.random((2000, 1)) < 0.3).astype(float)
    found = Bootstrap([str(i) for i in range(2000)], draws=300).interval(
        ranking.Ranking(rng.random((2000, 1)), truth, "auc", (0,))
    )
    assert found.low < 0.5 < found.high and found.high - found.low < 0.08


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_no_other_threshold_is_better(seed):
    from sklearn import metrics as reference

    scores, truth = cases(seed)
    at = ranking.thresholds(scores, truth)
    for column in range(3):
        known = np.isfinite(truth[:, column])
        mine, present = scores[known, column], truth[known, column]
        precision, recall, _ = reference.precision_recall_curve(present, mine)
        best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
        assert reference.f1_score(present, mine >= at[column]) == pytest.approx(best)


def test_hard_decisions():
    from sklearn import metrics as reference

    scores, truth = cases(3)
    claimed = scores >= 0.5
    counts = ranking.confusion(claimed, truth)
    each = []
    for column in range(3):
        known = np.isfinite(truth[:, column])
        each.append(reference.balanced_accuracy_score(truth[known, column], claimed[known, column]))
    assert ranking.balanced_accuracy(counts.sum(axis=0)) == pytest.approx(np.mean(each))
    assert labels.micro_f1(ranking.decisions(scores, truth, np.full(3, 0.5)).sum(axis=0)) == pytest.approx(
        reference.f1_score(truth[np.isfinite(truth)], claimed[np.isfinite(truth)])
    )


def test_calibration_error_and_brier_score_by_hand():
    scores, truth = np.array([[0.9], [0.9], [0.1], [0.6]]), np.array([[1.0], [0.0], [0.0], [np.nan]])
    boot = Bootstrap(["a", "b", "c", "d"], draws=100)
    assert boot.value(ranking.calibration_error(scores, truth)) == pytest.approx((0.8 + 0.1) / 3)
    assert boot.value(ranking.brier(scores, truth)) == pytest.approx((0.01 + 0.81 + 0.01) / 3)


def test_groups_by_frequency_leave_out_labels_of_one_class():
    truth = np.zeros((20, 5))
    for column, count in enumerate((1, 10, 5, 20, 0)):
        truth[:count, column] = 1
    assert ranking.by_frequency(truth, "abcde") == {"head": (1,), "medium": (2,), "tail": (0,)}


def test_a_missing_score_is_as_wrong_as_can_be():
    rng = np.random.default_rng(1)
    truth = (rng.random((200, 2)) < 0.3).astype(float)
    scores = np.clip(0.15 + 0.3 * truth + 0.1 * rng.normal(size=truth.shape), 0, 1)
    boot = Bootstrap([str(i) for i in range(200)], draws=100)
    for metric in (ranking.brier, ranking.calibration_error):
        before = boot.value(metric(scores, truth))
        for share in (0.05, 0.5, 0.9):
            lost = np.where(rng.random((200, 1)) < share, np.nan, scores)
            assert boot.value(metric(lost, truth)) > before
        assert boot.value(metric(np.full_like(scores, np.nan), truth)) == 1.0
