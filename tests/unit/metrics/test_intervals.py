"""Bootstrap intervals: coverage, clusters, pairing."""

import numpy as np
import pytest

from diagcot.metrics.intervals import LEAST_STUDIES, Additive, Bootstrap, holm, mean
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


def test_p_values_are_adjusted_as_holm_says():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.parametrize("studies", [5, LEAST_STUDIES, 40])
def test_of_rows_without_a_difference_at_most_one_in_twenty_shows_one(studies):
    rng = np.random.default_rng(studies)
    tables, columns, false = 100, 9, 0
    names = [str(i) for i in range(studies)]
    zero = mean(np.zeros(studies))
    for seed in range(tables):
        values = 0.7 * rng.normal(0, 1, (studies, 1)) + 0.7 * rng.normal(0, 1, (studies, columns))
        boot = Bootstrap(names, draws=200, seed=seed)
        false += min(holm([boot.p_value(mean(values[:, place]), zero) for place in range(columns)])) < 0.05
    assert false <= (0 if studies < LEAST_STUDIES else 11)  # 5 are expected; 12 or more come once in 200 times


def test_a_clear_difference_is_found_from_the_least_number_on():
    rng = np.random.default_rng(0)
    boot = Bootstrap([str(i) for i in range(LEAST_STUDIES)])
    assert max(holm([boot.p_value(mean(rng.normal(2, 1, LEAST_STUDIES)), mean(np.zeros(10)))] * 9)) < 0.05
    always = boot.p_value(mean(np.ones(10)), mean(np.zeros(10)))
    assert always == 2.0**-9  # no study says otherwise, which ten studies alone cannot show more surely
    assert Bootstrap(["a"]).p_value(mean([1.0]), mean([0.0])) == 1.0
