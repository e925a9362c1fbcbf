"""Text overlap equals pycocoevalcap."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from diagcot.metrics.text import Rarity, bleu, cider, rouge_l, sentence_bleu
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


def test_sides_of_different_length_are_refused():
    with pytest.raises(ValueError, match="one reference each"):
        bleu(["a"], ["a", "b"])


def test_words():
    assert words("Heart size is normal. No effusion, 1.5 cm well-defined nodule (right)!") == (
        "heart size is normal no effusion 1.5 cm well-defined nodule -lrb- right -rrb-"
    )
