"""Overlap of a generated text with its reference: BLEU, ROUGE-L and CIDEr as pycocoevalcap 1.2 defines them.

Every function takes tokenised texts (words joined by blanks: `tokens.words` or `java.tokenize`), each with one reference or
several, and equals pycocoevalcap to rounding; no Java is involved. BLEU comes as additive counts and a function of their sums,
so that one sample, a corpus and a bootstrap draw are computed by the same lines.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from operator import or_

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Reference = str | Sequence[str]
"""A text, or several that are equally right."""
ORDERS = 4  # n-grams of one to four words
_EPSILON = 0.1  # matches that NLTK's smoothing method 1 puts in place of none
_SIGMA = 6.0  # CIDEr's length penalty, words
_BETA = 1.2  # ROUGE-L's weight of recall


@lru_cache(maxsize=8192)  # a reference meets many hypotheses: five models, or the rollouts of a group
def ngrams(text: str) -> tuple[Counter[tuple[str, ...]], ...]:
    """Counts of the text's n-grams, one counter for each order 1 to 4. They are cached and must not be changed."""
    tokens = text.split()
    return tuple(Counter(zip(*(tokens[i:] for i in range(n)), strict=False)) for n in range(1, ORDERS + 1))


def _pairs(hyps: Sequence[str], refs: Sequence[Reference]) -> Iterable[tuple[str, Sequence[str]]]:
    if len(hyps) != len(refs):
        raise ValueError(f"{len(hyps)} texts cannot be compared with {len(refs)} references: give one reference each")
    return zip(hyps, map(_several, refs), strict=True)


def _several(reference: Reference) -> Sequence[str]:
    return (reference,) if isinstance(reference, str) else reference


def bleu_counts(hyps: Sequence[str], refs: Sequence[Reference]) -> Array:
    """BLEU's additive counts, (N, 10): words, reference words, n-grams of order 1-4, clipped matches of order 1-4.

    Of several references the one nearest in length, the shorter of two, gives the length, and each n-gram counts as often as
    in the reference that has it most.
    """
    rows = []
    for hyp, texts in _pairs(hyps, refs):
        size = len(hyp.split())
        reference = min((len(text.split()) for text in texts), key=lambda length: (abs(length - size), length))
        most = (
            ngrams(texts[0])
            if len(texts) == 1
            else [reduce(or_, orders) for orders in zip(*map(ngrams, texts), strict=True)]
        )
        matches = [
            sum(min(count, theirs[gram]) for gram, count in ours.items() if gram in theirs)
            for ours, theirs in zip(ngrams(hyp), most, strict=True)
        ]
        rows.append([size, reference, *(max(0, size - n) for n in range(ORDERS)), *matches])
    return np.array(rows, dtype=np.float64).reshape(-1, 2 + 2 * ORDERS)


def bleu_of(counts: Array) -> Array:
    """BLEU-1 to 4 of summed counts: (..., 10) -> (..., 4), each 0 to 1 (Papineni 2002; smoothing of pycocoevalcap)."""
    size, reference = counts[..., 0:1], counts[..., 1:2]
    precision = (counts[..., 2 + ORDERS :] + 1e-15) / (counts[..., 2 : 2 + ORDERS] + 1e-9)
    mean = np.cumprod(precision, axis=-1) ** (1 / np.arange(1, ORDERS + 1))
    ratio = (size + 1e-15) / (reference + 1e-9)
    with np.errstate(over="ignore"):  # an empty text: 1 - 1/ratio is hugely negative and the penalty is 0
        scores: Array = mean * np.where(ratio < 1, np.exp(np.minimum(0, 1 - 1 / ratio)), 1.0)
    return scores


def bleu(hyps: Sequence[str], refs: Sequence[Reference]) -> Array:
    """Corpus BLEU-1 to 4, shape (4,)."""
    return bleu_of(bleu_counts(hyps, refs).sum(axis=0))


def sentence_bleu(hyps: Sequence[str], refs: Sequence[Reference]) -> Array:
    """BLEU-1 to 4 of every sample by itself, shape (N, 4); TMLSIAT/DiagCoT-main reports their mean."""
    return bleu_of(bleu_counts(hyps, refs))


def sentence_bleu_method1(hyps: Sequence[str], refs: Sequence[Reference]) -> Array:
    """BLEU-1 to 4 of every sample, shape (N, 4), with NLTK's smoothing method 1 (Chen and Cherry 2014).

    An order of which nothing matches counts as 0.1 matches; a sample without a common word has 0.
    """
    counts = bleu_counts(hyps, refs)
    size, reference, matches = counts[:, 0:1], counts[:, 1:2], counts[:, 2 + ORDERS :]
    precision = np.where(matches > 0, matches, _EPSILON) / np.maximum(counts[:, 2 : 2 + ORDERS], 1)
    mean = np.cumprod(precision, axis=-1) ** (1 / np.arange(1, ORDERS + 1))
    brevity = np.exp(np.minimum(0, 1 - reference / np.maximum(size, 1)))
    scores: Array = np.where(matches[:, 0:1] > 0, mean * brevity, 0.0)
    return scores


def common_subsequence(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence, a row of the table held in one integer (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for position, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << position
    full = (1 << len(first)) - 1
    row = full
    for token in second:
        match = row & places.get(token, 0)
        row = (row + match | row - match) & full
    return len(first) - row.bit_count()


def rouge_l(hyps: Sequence[str], refs: Sequence[Reference]) -> Array:
    """ROUGE-L F, recall weighted by 1.2 (Lin 2004), of every sample: (N,), 0 to 1; the corpus score is the mean.

    Of several references the best precision and the best recall count.
    """
    scores = []
    for hyp, texts in _pairs(hyps, refs):
        ours, all_theirs = hyp.split(" "), [text.split(" ") for text in texts]  # an empty text is one empty word
        common = [common_subsequence(ours, theirs) for theirs in all_theirs]
        precision = max(common) / len(ours)
        recall = max(count / len(theirs) for count, theirs in zip(common, all_theirs, strict=True))
        weighted = recall + _BETA**2 * precision
        scores.append((1 + _BETA**2) * precision * recall / weighted if weighted else 0.0)
    return np.array(scores, dtype=np.float64)


Vectors = tuple[list[dict[tuple[str, ...], float]], list[float]]


@dataclass(frozen=True)
class Rarity:
    """In how many references of a corpus each n-gram occurs: the weights of CIDEr.

    Evaluation takes it from the references scored. A reward takes it from the training references, since CIDEr of a
    single pair over its own reference is always 0.
    """

    documents: int
    frequency: dict[tuple[str, ...], int]

    @staticmethod
    def of(refs: Sequence[Reference]) -> "Rarity":
        """The rarity of n-grams in these references, tokenised texts; several references of a sample are one document."""
        frequency: Counter[tuple[str, ...]] = Counter()
        for ref in refs:
            frequency.update({gram for text in _several(ref) for order in ngrams(text) for gram in order})
        return Rarity(len(refs), dict(frequency))

    @cached_property
    def vectors(self) -> Callable[[str], Vectors]:
        """A text as n-grams weighed by rarity, one vector for each order, and the vectors' lengths. Cached."""
        documents = math.log(self.documents) if self.documents else 0.0
        weights = {count: documents - math.log(count) for count in set(self.frequency.values())}
        frequency = self.frequency

        @lru_cache(maxsize=2048)
        def vectors(text: str) -> Vectors:
            parts = [
                {
                    gram: count * (weights[frequency[gram]] if gram in frequency else documents)
                    for gram, count in order.items()
                }
                for order in ngrams(text)
            ]
            return parts, [math.sqrt(sum(weight * weight for weight in part.values())) for part in parts]

        return vectors

    def __reduce__(self) -> tuple[type, tuple[int, dict[tuple[str, ...], int]]]:
        return Rarity, (self.documents, self.frequency)


def cider(hyps: Sequence[str], refs: Sequence[Reference], rarity: Rarity | None = None) -> Array:
    """CIDEr-D, n = 4, sigma = 6 (Vedantam 2015), of every sample: (N,), 0 to 10; the corpus score is the mean.

    Of several references it is the mean.
    """
    vectors = (rarity or Rarity.of(refs)).vectors
    scores = [sum(_consensus(hyp, text, vectors) for text in texts) / len(texts) for hyp, texts in _pairs(hyps, refs)]
    return np.array(scores, dtype=np.float64)


def _consensus(hyp: str, ref: str, vectors: Callable[[str], Vectors]) -> float:
    (ours, our_norms), (theirs, their_norms) = vectors(hyp), vectors(ref)
    # pycocoevalcap measures length in bigrams.
    delta = max(0, len(hyp.split()) - 1) - max(0, len(ref.split()) - 1)
    total = 0.0
    for order in range(ORDERS):
        there = theirs[order]
        dot = sum(min(weight, there[gram]) * there[gram] for gram, weight in ours[order].items() if gram in there)
        if our_norms[order] and their_norms[order]:
            dot /= our_norms[order] * their_norms[order]
        total += dot
    return 10 * total / ORDERS * math.exp(-(delta**2) / (2 * _SIGMA**2))
