"""Text overlap equals pycocoevalcap."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from diagcot.metrics.text import Rarity, bleu, cider, rouge_l, sentence_bleu, sentence_bleu_method1
from diagcot.metrics.tokens import words

TEXT = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "heart", "lung", "clear"]), max_size=14).map(" ".join)


def pycoco(scorer, hyps, refs, *verbose):
    gold, ours = {i: [ref] for i, ref in enumerate(refs)}, {i: [hyp] for i, hyp in enumerate(hyps)}
    return scorer.compute_score(gold, ours, *verbose)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=2, max_size=8))
def test_equals_pycocoevalcap(pairs):
    hyps, refs = [hyp for hyp, _ in pairs], [ref for _, ref in pairs]
    corpus, samples = pycoco(Bleu(4), hyps, refs, 0)
    np.testing.assert_allclose(bleu(hyps, refs), corpus, atol=1e-12)
    np.testing.assert_allclose(sentence_bleu(hyps, refs), np.array(samples).T, atol=1e-12)
    np.testing.assert_allclose(rouge_l(hyps, refs), pycoco(Rouge(), hyps, refs)[1], atol=1e-12)
    if any(refs):  # pycocoevalcap fails where no reference has a word
        np.testing.assert_allclose(cider(hyps, refs), pycoco(Cider(), hyps, refs)[1], atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=4)), min_size=2, max_size=6))
def test_several_references_are_scored_as_in_pycocoevalcap(samples):
    hyps, refs = [hyp for hyp, _ in samples], [texts for _, texts in samples]
    gold, ours = dict(enumerate(refs)), {place: [hyp] for place, hyp in enumerate(hyps)}
    corpus, each = Bleu(4).compute_score(gold, ours, 0)
    np.testing.assert_allclose(bleu(hyps, refs), corpus, atol=1e-12)
    np.testing.assert_allclose(sentence_bleu(hyps, refs), np.array(each).T, atol=1e-12)
    np.testing.assert_allclose(rouge_l(hyps, refs), Rouge().compute_score(gold, ours)[1], atol=1e-12)
    if any(map(any, refs)):
        np.testing.assert_allclose(cider(hyps, refs), Cider().compute_score(gold, ours)[1], atol=1e-12)


def test_a_large_corpus_of_several_references_and_one_endless_text():
    rng = random.Random(0)
    words = [f"w{number}" for number in range(60)]
    texts = [[" ".join(rng.choices(words, k=rng.randint(1, 40))) for _ in range(rng.randint(1, 3))] for _ in range(80)]
    hyps = [" ".join(rng.choices([*words, "new"], k=rng.randint(1, 40))) for _ in texts]
    hyps[7] = "w1 w2 w3 " * 3000
    gold, ours = dict(enumerate(texts)), {place: [hyp] for place, hyp in enumerate(hyps)}
    np.testing.assert_allclose(
        sentence_bleu(hyps, texts), np.array(Bleu(4).compute_score(gold, ours, 0)[1]).T, atol=1e-12
    )
    np.testing.assert_allclose(cider(hyps, texts), Cider().compute_score(gold, ours)[1], atol=1e-12)
    rarity = Rarity.of(texts)
    assert len(rarity.tree[2]) > 5000  # the table has grown
    np.testing.assert_array_equal(cider(hyps[:1], texts[:1], rarity), cider(hyps, texts)[:1])


def test_cider_of_one_pair_needs_a_corpus():
    pair = ["the heart is enlarged"], ["the heart is enlarged"]
    assert cider(*pair)[0] == 0
    corpus = ["the heart is enlarged", "the lungs are clear", "a nodule is seen", "no effusion is found"]
    assert cider(*pair, rarity=Rarity.of(corpus))[0] == pytest.approx(10)


def test_perfect_and_empty_texts():
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcdefgh", k=12)) for _ in range(5)]
    np.testing.assert_allclose(bleu(texts, texts), 1, atol=1e-8)
    np.testing.assert_allclose(rouge_l(texts, texts), 1)
    assert not bleu([""] * 5, texts).any()
    assert not cider([""] * 5, texts).any()


def test_smoothing_method_1_by_hand():
    """Of NLTK's sentence_bleu with SmoothingFunction().method1 (0.1 matches in place of none), worked by hand."""
    found = sentence_bleu_method1(
        ["the heart is large", "large", "lungs clear", "", "the heart is large and there is no effusion"],
        ["the heart is big", "the heart is large", "no effusion", "no effusion", "the heart is large"],
    )
    assert found[0] == pytest.approx([3 / 4, (3 / 4 * 2 / 3) ** (1 / 2), (3 / 4 * 2 / 3 / 2) ** (1 / 3),
                                      (3 / 4 * 2 / 3 / 2 * 0.1) ** (1 / 4)])  # fmt: skip
    short = math.exp(1 - 4)  # one word of four
    assert found[1] == pytest.approx([short, short * 0.1**0.5, short * 0.01 ** (1 / 3), short * 0.001**0.25])
    assert (found[2:4] == 0).all()
    assert found[4] == pytest.approx([4 / 9, (4 / 9 * 3 / 8) ** 0.5, (4 / 9 * 3 / 8 * 2 / 7) ** (1 / 3),
                                      (4 / 9 * 3 / 8 * 2 / 7 * 1 / 6) ** 0.25])  # fmt: skip


def test_sides_of_different_length_are_refused():
    with pytest.raises(ValueError, match="one reference each"):
        bleu(["a"], ["a", "b"])


def test_words():
    assert words("Heart size is normal. No effusion, 1.5 cm well-defined nodule (right)!") == (
        "heart size is normal no effusion 1.5 cm well-defined nodule -lrb- right -rrb-"
    )
