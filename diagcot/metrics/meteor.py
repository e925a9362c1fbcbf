"""METEOR 1.5 (Denkowski and Lavie 2014): matches counted by its Java program, scored here from the counts.

The Java program aligns words by form, stem, WordNet synonym and paraphrase table, and answers with additive counts; the
score is a function of their sums. So one sample, a corpus and a bootstrap draw are computed by the same lines, as
pycocoevalcap does through a second call of Java.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diagcot.metrics.java import JavaError, JavaLines, jar, one_line

Array = NDArray[np.float64]
COUNTS = 23  # lengths 4, matches 4 for each of 4 kinds, chunks, matched words 2

# The English parameters of METEOR 1.5.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_KINDS = np.array([1.0, 0.6, 0.8, 0.6])  # weights of matches by form, stem, synonym, paraphrase


def meteor_of(counts: Array) -> Array:
    """METEOR of summed counts: (..., 23) -> (...), 0 to 1."""
    length, reference, function, reference_function = (counts[..., i] for i in range(4))
    # kind of match x (content words of ours, of theirs, function words of ours, of theirs)
    matches = counts[..., 4:20].reshape(*counts.shape[:-1], 4, 4)
    ours = (_DELTA * matches[..., 0] + (1 - _DELTA) * matches[..., 2]) @ _KINDS
    theirs = (_DELTA * matches[..., 1] + (1 - _DELTA) * matches[..., 3]) @ _KINDS
    chunks, matched, reference_matched = counts[..., 20], counts[..., 21], counts[..., 22]

    def share(part: Array, whole: Array) -> Array:
        return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)

    precision = share(ours, _DELTA * (length - function) + (1 - _DELTA) * function)
    recall = share(theirs, _DELTA * (reference - reference_function) + (1 - _DELTA) * reference_function)
    mean = share(precision * recall, _ALPHA * precision + (1 - _ALPHA) * recall)
    # Texts that match as a whole are not fragmented at all.
    whole = (matched == length) & (reference_matched == reference) & (chunks == 1)
    fragments = np.where(whole, 0.0, share(chunks, (matched + reference_matched) / 2))
    return mean * (1 - _GAMMA * fragments**_BETA)


class Meteor:
    """A live METEOR process: some ten seconds to get ready, in the background, and up to 2 GB. Use one and close it.

    Raises JavaError where it cannot be started.
    """

    def __init__(self, start_s: float = 180, answer_s: float = 30) -> None:
        command = ["-Xmx2G", "-jar", str(jar("meteor/meteor-1.5.jar")), "-", "-", "-stdio", "-l", "en", "-norm"]
        self._lines = JavaLines(command, "METEOR")
        self._deadline_s, self._answer_s = start_s, answer_s

    def counts(self, hyps: Sequence[str], refs: Sequence[str]) -> Array:
        """Additive counts of tokenised texts against one reference each, (N, 23). Raises JavaError."""
        if len(hyps) != len(refs):
            raise ValueError(f"{len(hyps)} texts for {len(refs)} references: give one reference each")
        pairs = list(dict.fromkeys(zip(hyps, refs, strict=True)))
        answers = self._lines.ask(
            [f"SCORE ||| {_clean(ref)} ||| {_clean(hyp)}" for hyp, ref in pairs], self._deadline_s
        )
        self._deadline_s = self._answer_s  # it is up: from now on an answer comes at once
        rows = {}
        for pair, answer in zip(pairs, answers, strict=True):
            try:
                rows[pair] = [float(number) for number in answer.split()]
            except ValueError:
                rows[pair] = []
            if len(rows[pair]) != COUNTS:
                self.close()
                raise JavaError(f"METEOR answered {len(answer.split())} words where {COUNTS} numbers were due")
        return np.array([rows[pair] for pair in zip(hyps, refs, strict=True)], dtype=np.float64).reshape(-1, COUNTS)

    def close(self) -> None:
        self._lines.close()

    def __enter__(self) -> "Meteor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _clean(text: str) -> str:
    """`|||` separates the fields of a line."""
    return " ".join(one_line(text).replace("|||", " ").split())
