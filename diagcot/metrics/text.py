"""Overlap of a generated text with its reference: BLEU, ROUGE-L and CIDEr as pycocoevalcap 1.2 defines them.

Every function takes tokenised texts (words joined by blanks: `tokens.words` or `java.tokenize`), each with one reference or
several, and equals pycocoevalcap to rounding; no Java is involved. BLEU comes as additive counts and a function of their sums,
so that one sample, a corpus and a bootstrap draw are computed by the same lines.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Reference = str | Sequence[str]
"""A text, or several that are equally right."""
ORDERS = 4  # n-grams of one to four words
_EPSILON = 0.1  # matches that NLTK's smoothing method 1 puts in place of none
_SIGMA = 6.0  # CIDEr's length penalty, words
_BETA = 1.2  # ROUGE-L's weight of recall


class _Numbers(dict[str, int]):
    """Word -> its number; a word that is new gets the next one."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number

    def of(self, texts: Iterable[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The words of texts laid end to end, and where each text ends."""
        found = [list(map(self.__getitem__, text.split())) for text in texts]
        ends = np.array(list(accumulate(map(len, found))), np.int64)
        return np.fromiter(chain.from_iterable(found), np.int32, int(ends[-1]) if len(ends) else 0), ends


def _pairs(hyps: Sequence[str], refs: Sequence[Reference]) -> Iterable[tuple[str, Sequence[str]]]:
    if len(hyps) != len(refs):
        raise ValueError(f"{len(hyps)} texts cannot be compared with {len(refs)} references: give one reference each")
    return zip(hyps, map(_several, refs), strict=True)


def _several(reference: Reference) -> Sequence[str]:
    return (reference,) if isinstance(reference, str) else reference


def _ends(samples: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Where the texts of each sample end, laid end to end."""
    return np.array(list(accumulate(map(len, samples))), np.int64)


def _nearest(lengths: Sequence[int], size: int) -> int:
    return min(lengths, key=lambda length: (abs(length - size), length))


def bleu_counts(hyps: Sequence[str], refs: Sequence[Reference]) -> Array:
    """BLEU's additive counts, (N, 10): words, reference words, n-grams of order 1-4, clipped matches of order 1-4.

    Of several references the one nearest in length, the shorter of two, gives the length, and each n-gram counts as often as
    in the reference that has it most.
    """
    from diagcot.metrics import ngrams  # numba, which takes a while to import

    numbers, all_texts = _Numbers(), [texts for _, texts in _pairs(hyps, refs)]
    ours, our_ends = numbers.of(hyps)
    theirs, their_ends = numbers.of(chain.from_iterable(all_texts))
    samples = _ends(all_texts)
    sizes, lengths = np.diff(our_ends, prepend=0), np.diff(their_ends, prepend=0).tolist()
    nearest = [
        _nearest(lengths[end - len(texts) : end], size)
        for texts, end, size in zip(all_texts, samples.tolist(), sizes.tolist(), strict=True)
    ]
    counts = np.empty((len(hyps), 2 + 2 * ORDERS))
    counts[:, 0], counts[:, 1] = sizes, nearest
    counts[:, 2 : 2 + ORDERS] = np.maximum(sizes[:, None] - np.arange(ORDERS), 0)
    counts[:, 2 + ORDERS :] = ngrams.matches(ours, our_ends, theirs, their_ends, samples)
    return counts


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


def bleu_method1_of(counts: Array) -> Array:
    """BLEU-1 to 4 of counts: (..., 10) -> (..., 4), with NLTK's smoothing method 1 (Chen and Cherry 2014).

    An order of which nothing matches counts as 0.1 matches; a text without a common word has 0.
    """
    size, reference, matches = counts[..., 0:1], counts[..., 1:2], counts[..., 2 + ORDERS :]
    precision = np.where(matches > 0, matches, _EPSILON) / np.maximum(counts[..., 2 : 2 + ORDERS], 1)
    mean = np.cumprod(precision, axis=-1) ** (1 / np.arange(1, ORDERS + 1))
    brevity = np.exp(np.minimum(0, 1 - reference / np.maximum(size, 1)))
    scores: Array = np.where(matches[..., 0:1] > 0, mean * brevity, 0.0)
    return scores


def sentence_bleu_method1(hyps: Sequence[str], refs: Sequence[Reference]) -> Array:
    """`bleu_method1_of` of every sample, shape (N, 4)."""
    return bleu_method1_of(bleu_counts(hyps, refs))


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


@dataclass(frozen=True)
class Rarity:
    """In how many references of a corpus each n-gram occurs: the weights of CIDEr.

    Evaluation takes it from the references scored. A reward takes it from the training references, since CIDEr of a
    single pair over its own reference is always 0.
    """

    documents: int
    words: Mapping[str, int]
    """Numbers of the words that are in a reference."""
    tree: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]
    """The n-grams of the references, see `ngrams.documents`."""

    @staticmethod
    def of(refs: Sequence[Reference]) -> "Rarity":
        """The rarity of n-grams in these references, tokenised texts; several references of a sample are one document."""
        from diagcot.metrics import ngrams

        numbers, texts = _Numbers(), [_several(ref) for ref in refs]
        tree = ngrams.documents(*numbers.of(chain.from_iterable(texts)), _ends(texts))
        return Rarity(len(refs), dict(numbers), tree)


def cider(hyps: Sequence[str], refs: Sequence[Reference], rarity: Rarity | None = None) -> Array:
    """CIDEr-D, n = 4, sigma = 6 (Vedantam 2015), of every sample: (N,), 0 to 10; the corpus score is the mean.

    Of several references it is the mean.
    """
    from diagcot.metrics import ngrams

    all_texts = [texts for _, texts in _pairs(hyps, refs)]
    rarity = rarity or Rarity.of(refs)
    numbers = _Numbers(rarity.words)
    log_documents = math.log(rarity.documents) if rarity.documents else 0.0
    scores: Array = ngrams.consensus(
        *numbers.of(hyps),
        *numbers.of(chain.from_iterable(all_texts)),
        _ends(all_texts),
        rarity.tree,
        log_documents,
        _SIGMA,
    )
    return scores
