"""Bootstrap intervals: coverage, clusters, pairing."""

import numpy as np
import pytest

from diagcot.metrics.intervals import Additive, Bootstrap, mean
from diagcot.metrics.text import bleu, bleu_counts, bleu_of


def test_a_mean_has_the_interval_of_the_normal_law():
    values = np.random.default_rng(0).normal(3, 1, 400)
    found = Bootstrap([str(i) for i in range(400)], draws=2000).interval(mean(values))
    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.015)
    assert found.high == pytest.approx(values.mean() + half, abs=0.015)


def test_intervals_cover_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        found = Bootstrap([str(i) for i in range(60)], draws=300).interval(mean(rng.normal(0, 1, 60)))
        hits += found.low <= 0 <= found.high
    assert 0.90 <= hits / 200 <= 0.99


def test_views_of_one_study_move_together():
    values = np.repeat(np.random.default_rng(2).normal(0, 1, 100), 4)
    apart = Bootstrap([str(i) for i in range(400)]).interval(mean(values))
    together = Bootstrap([str(i // 4) for i in range(400)]).interval(mean(values))
    assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(2, abs=0.3)


def test_the_draws_of_bleu_are_corpus_bleu():
    hyps = ["the heart is large", "clear lungs are seen", "no effusion is seen here"]
    refs = ["the heart is big", "the lungs are clear", "no effusion is seen"]
    boot = Bootstrap(["a", "b", "c"], draws=50, seed=3)
    draws = boot.draws(Additive(bleu_counts(hyps, refs), lambda sums: bleu_of(sums)[..., 1]))
    for times, drawn in zip(boot._times.astype(int), draws, strict=True):
        picked = [i for i, n in enumerate(times) for _ in range(n)]
        assert drawn == pytest.approx(bleu([hyps[i] for i in picked], [refs[i] for i in picked])[1])


def test_a_paired_difference_is_tighter_than_its_sides():
    rng = np.random.default_rng(4)
    hard = rng.normal(0, 1, 200)
    boot = Bootstrap([str(i) for i in range(200)])
    ours, theirs = mean(hard + 0.1 + rng.normal(0, 0.05, 200)), mean(hard)
    found = boot.difference(ours, theirs)
    assert 0 < found.low < found.value < found.high < boot.interval(ours).high - boot.interval(ours).low
    same = boot.difference(theirs, theirs)
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_the_same_seed_gives_the_same_interval():
    values = mean(np.arange(30.0, dtype=np.float64))
    names = [str(i) for i in range(30)]
    assert Bootstrap(names, seed=5).interval(values) == Bootstrap(names, seed=5).interval(values)
    assert Bootstrap(names, seed=5).interval(values) != Bootstrap(names, seed=6).interval(values)


def test_one_study_and_missing_rows():
    found = Bootstrap(["a", "a"]).interval(mean([1.0, 2.0]))
    assert (found.low, found.high) == (1.5, 1.5)
    with pytest.raises(ValueError, match="1 rows of counts for 2 samples"):
        Bootstrap(["a", "b"]).interval(mean([1.0]))
