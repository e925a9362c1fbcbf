"""Bootstrap intervals: coverage, clusters, pairing."""

import numpy as np
import pytest

from diagcot.metrics.intervals import LEAST_STUDIES, Additive, Bootstrap, holm, mean, mean_of
from diagcot.metrics.text import bleu, bleu_counts, bleu_of


def test_a_mean_has_the_interval_of_the_normal_law():
    values = np.random.default_rng(0).normal(3, 1, 400)
    found = Bootstrap([str(i) for i in range(400)], draws=2000).interval(mean(values))
    few = Bootstrap([str(i) for i in range(200)], draws=2000).interval(mean(values[:200]))
    assert few.high - few.value == pytest.approx(1.97 * values[:200].std(ddof=1) / 200**0.5, rel=0.06)
    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.015)
    assert found.high == pytest.approx(values.mean() + half, abs=0.015)


@pytest.mark.parametrize("studies", [LEAST_STUDIES, 60])
def test_intervals_hold_the_truth_nineteen_times_in_twenty(studies):
    """A skewed score, a share and an F1, over clusters of one to four alike samples: 93 to 97 %, within the error of 250 sets."""
    rng = np.random.default_rng(studies)
    sets, hits = 250, np.zeros(3)
    true = (3.0, 0.25, 0.75)
    for _ in range(sets):
        sizes = rng.integers(1, 5, studies)
        names = np.repeat(np.arange(studies), sizes)
        alike = np.repeat(rng.exponential(2.0, studies), sizes) + rng.exponential(1.0, len(names))
        share = (np.repeat(rng.random(studies), sizes) * 0.8 + rng.random(len(names)) * 0.2 < 0.3).astype(float)
        kind = np.repeat(rng.choice(3, studies, p=(0.3, 0.2, 0.5)), sizes)  # a hit, a false alarm or miss, neither
        f1 = Additive(np.stack([2.0 * (kind == 0), 2.0 * (kind == 0) + (kind == 1)], axis=-1), mean_of)
        boot = Bootstrap([str(name) for name in names], draws=200)
        found = [boot.interval(metric) for metric in (mean(alike), mean(share), f1)]
        hits += [one.low <= value <= one.high for one, value in zip(found, true, strict=True)]
    error = 2 * (0.05 * 0.95 / sets) ** 0.5
    assert (0.93 - error <= hits / sets).all() and (hits / sets <= 0.97 + error).all(), hits / sets


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


def test_metrics_drawn_together_have_the_draws_of_each_by_itself():
    rng = np.random.default_rng(5)
    counts = rng.integers(0, 9, (60, 3, 2)).astype(float)
    metrics = [
        Additive(counts, lambda sums: mean_of(sums)[..., 0]),
        Additive(counts, lambda sums: mean_of(sums)[..., 2]),
        mean(rng.normal(size=60)),
    ]
    studies = [str(row // 2) for row in range(60)]
    together, alone = Bootstrap(studies), Bootstrap(studies)
    together.draw(metrics)
    for metric in metrics:
        np.testing.assert_allclose(together.draws(metric), alone.draws(metric), atol=1e-12, rtol=0)
        assert together.value(metric) == pytest.approx(alone.value(metric), abs=1e-12)
        weights = np.array([alone._times[:, alone._study[row]] for row in range(60)]).T  # of each row in each draw
        sums = np.einsum("dr,r...->d...", weights, metric.counts)
        np.testing.assert_allclose(together.draws(metric), metric.score(sums), atol=1e-12, rtol=0)


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
    assert (found.low, found.high) == (1.5, 1.5)  # of no width, which tables do not show
    with pytest.raises(ValueError, match="1 rows of counts for 2 samples"):
        Bootstrap(["a", "b"]).interval(mean([1.0]))


def test_p_values_are_adjusted_as_holm_says():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_a_clear_difference_is_found_from_the_least_number_on():
    rng = np.random.default_rng(0)
    boot = Bootstrap([str(i) for i in range(LEAST_STUDIES)])
    assert max(holm([boot.p_value(mean(rng.normal(2, 1, LEAST_STUDIES)), mean(np.zeros(LEAST_STUDIES)))] * 9)) < 0.05
    always = boot.p_value(mean(np.ones(LEAST_STUDIES)), mean(np.zeros(LEAST_STUDIES)))
    assert always == 2.0 ** (1 - LEAST_STUDIES)  # no study says otherwise, which so few cannot show more surely
    assert Bootstrap(["a"]).p_value(mean([1.0]), mean([0.0])) == 1.0
