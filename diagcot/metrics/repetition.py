"""How much a text repeats itself."""

import re
from collections.abc import Hashable, Sequence
from itertools import pairwise

_SENTENCE_END = re.compile(r"[.!?\n]+")


def variety(text: str) -> float:
    """1 for a text that never repeats itself, down to 0: the repetition term of DiagCoT's reward variant.

    0.5 (1 - repeated sentences) + 0.3 (1 - repeated trigrams) + 0.15 (1 - repeated bigrams) + 0.05 (1 - words that
    repeat the word before), each a share of 0 to 1; 1 for an empty text or a single sentence. Source: the constants in the
    compiled reward module of TMLSIAT/DiagCoT-main.
    """
    sentences = [part.strip().lower() for part in _SENTENCE_END.split(text) if part.strip()]
    if len(sentences) <= 1:
        return 1.0
    words = text.lower().split()
    bigrams = list(pairwise(words))
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    doubled = sum(first == second for first, second in bigrams) / max(1, len(bigrams))
    value = (
        0.5 * (1 - _share_repeated(sentences))
        + 0.3 * (1 - _share_repeated(trigrams))
        + 0.15 * (1 - _share_repeated(bigrams))
        + 0.05 * (1 - doubled)
    )
    return min(1.0, max(0.0, value))


def _share_repeated(items: Sequence[Hashable]) -> float:
    return 1 - len(set(items)) / len(items) if items else 0.0
