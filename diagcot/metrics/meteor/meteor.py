"""METEOR 1.5 (Denkowski and Lavie 2014) without Java: matches counted by `lexicon` and `alignment`, scored here.

Words match by form, stem, WordNet synonym and paraphrase table; the counts are additive and the score is a function of
their sums. So one sample, a corpus and a bootstrap draw are computed by the same lines. Counts equal those of the Java
program that pycocoevalcap runs (`-l en -norm`).
"""

import threading
import zipfile
import zlib
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diagcot.jobs.state import reading
from diagcot.metrics.java import JavaError, jar, one_line

if TYPE_CHECKING:
    from diagcot.metrics.meteor.lexicon import Lexicon

Array = NDArray[np.float64]
COUNTS = 23  # lengths 4, matches 4 for each of 4 kinds, chunks, matched words 2

# The English parameters of METEOR 1.5.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_KINDS = np.array([1.0, 0.6, 0.8, 0.6])  # weights of matches by form, stem, synonym, paraphrase
_loading = threading.Lock()


class MeteorError(RuntimeError):
    """METEOR's files are missing or broken, or its code cannot be compiled; the message says what to do."""


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
    fragments = share(chunks, (matched + reference_matched) / 2)
    return mean * (1 - _GAMMA * fragments**_BETA)


def counts(hyps: Sequence[str], refs: Sequence[str]) -> Array:
    """Additive counts of tokenised texts against one reference each, (N, 23). Raises MeteorError."""
    if len(hyps) != len(refs):
        raise ValueError(f"{len(hyps)} texts for {len(refs)} references: give one reference each")
    found = load().counts([_clean(text) for text in hyps], [_clean(text) for text in refs])
    # A text that matches as a whole is not fragmented at all: its one chunk does not count, in sums neither.
    whole = (found[:, 21] == found[:, 0]) & (found[:, 22] == found[:, 1]) & (found[:, 20] == 1)
    found[whole, 20] = 0
    return found


def load() -> "Lexicon":
    """What METEOR knows of words, once for a process: some seconds the first time. Raises as `read_lexicon`."""
    with _loading:
        return _cached_lexicon()


def read_lexicon() -> "Lexicon":
    """Read METEOR's tables of words and compile its code. Raises MeteorError if a part is missing or damaged.

    Raises StorageError if the machine or its storage cannot read them: then nothing is to be installed.
    """
    try:
        from diagcot.metrics.meteor.lexicon import (
            Lexicon,  # compiles: some ten seconds the first time after an installation
        )

        found = Lexicon(jar("meteor/meteor-1.5.jar"))
        found.counts(["a text"], ["the text"])
    except (ImportError, OSError, EOFError, LookupError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        reading.check_storage(getattr(error, "filename", None) or "METEOR's files", error)
        reason = f"{type(error).__name__}: {error}"
    except (JavaError, RuntimeError) as error:  # numba raises RuntimeError where it may keep nothing
        reason = str(error)
    else:
        return found
    raise MeteorError(f"METEOR cannot be computed ({reason[:300]}): install pycocoevalcap again (`make env` does)")


_cached_lexicon = cache(read_lexicon)


def _clean(text: str) -> str:
    """`|||` separates the fields of METEOR's own input, so no text holds it."""
    return " ".join(one_line(text).replace("|||", " ").split())
