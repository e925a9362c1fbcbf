"""How much a text repeats itself."""

import re
from collections.abc import Hashable, Sequence
from itertools import pairwise

_SENTENCE_END = re.compile(r"[.!?]+")
_SENTENCE_OR_LINE_END = re.compile(r"[.!?\n]+")


def variety(text: str) -> float:
    """1 for a text that never repeats itself, down to 0; 1 for an empty text.

    0.5 (1 - repeated sentences) + 0.3 (1 - repeated trigrams) + 0.15 (1 - repeated bigrams) + 0.05 (1 - words that
    repeat the word before), each a share of 0 to 1. A line end ends a sentence, and one sentence can repeat its words.
    """
    return _variety(text, _SENTENCE_OR_LINE_END)


def variety_as_released(text: str) -> float:
    """The repetition term of DiagCoT's reward variant, 0 to 1: as `variety`, but a line end does not end a sentence, and a
    single sentence never repeats itself. Source: the constants in the compiled reward module of TMLSIAT/DiagCoT-main.
    """
    return _variety(text, _SENTENCE_END) if len(_sentences(text, _SENTENCE_END)) > 1 else 1.0


def distinct_trigrams(text: str) -> float:
    """Share of distinct ones among the trigrams of a text, 0 to 1; 1 for a text of fewer than three words."""
    return 1 - _share_repeated(_trigrams(text.lower().split()))


def _variety(text: str, end: re.Pattern[str]) -> float:
    words = text.lower().split()
    bigrams = list(pairwise(words))
    trigrams = _trigrams(words)
    doubled = sum(first == second for first, second in bigrams) / max(1, len(bigrams))
    return (
        0.5 * (1 - _share_repeated(_sentences(text, end)))
        + 0.3 * (1 - _share_repeated(trigrams))
        + 0.15 * (1 - _share_repeated(bigrams))
        + 0.05 * (1 - doubled)
    )


def _trigrams(words: Sequence[str]) -> list[tuple[str, str, str]]:
    return list(zip(words, words[1:], words[2:], strict=False))


def _sentences(text: str, end: re.Pattern[str]) -> list[str]:
    return [part.strip().lower() for part in end.split(text) if part.strip()]


def _share_repeated(items: Sequence[Hashable]) -> float:
    return 1 - len(set(items)) / len(items) if items else 0.0
