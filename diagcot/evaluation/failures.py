"""Requests that got no answer. They are the worst that an answer can be in every figure, so that no failure improves one."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from diagcot.tasks.predictions import Prediction


def failed(rows: Sequence[Prediction]) -> NDArray[np.bool_]:
    """Which of the requests (N,) failed."""
    return np.array([row.finish == "error" for row in rows], dtype=bool)


def words_of(row: Prediction, words: Mapping[str, str]) -> str:
    """The words of an answer; of a request that failed as many as the reference has, of which none matches.

    An empty text would leave the precision of a corpus as it is.
    """
    return unmatched(words[row.reference]) if row.finish == "error" else words[row.answer]


def unmatched(reference: str) -> str:
    """A tokenised text of the reference's length that has no word in common with any report."""
    return " ".join(f"unmatched{place}" for place in range(len(reference.split())))
