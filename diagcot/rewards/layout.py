"""The layout of an output: think and answer tags, alone or interleaved, and how much a text repeats itself."""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

_FLAGS = re.DOTALL
_INNER = r"(?:(?!</?(?:think|answer)>).)*?"  # text without any of the four tags
_ONE_AS_RELEASED = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", _FLAGS)
_ONE = re.compile(rf"\s*<think>({_INNER})</think>\s*<answer>({_INNER})</answer>\s*", _FLAGS)
_PAIR_AS_RELEASED = re.compile(r"<think>(.*?)</think>\s*<answer>(.*?)</answer>", _FLAGS | re.IGNORECASE)
_PAIRS_AS_RELEASED = re.compile(r"\s*(?:<think>.*?</think>\s*<answer>.*?</answer>\s*)+", _FLAGS)
_PAIRS = re.compile(rf"\s*(?:<think>{_INNER}</think>\s*<answer>{_INNER}</answer>\s*)+", _FLAGS)
_SENTENCE = re.compile(r"[.!?\n]+")


@dataclass(frozen=True)
class Pair:
    """One step of an interleaved trace."""

    think: str
    answer: str


def single_as_released(output: str) -> bool:
    """Whether the whole output matches think then answer; further tags inside either are overlooked (method.md 5.3)."""
    return _ONE_AS_RELEASED.fullmatch(output) is not None


def single(output: str) -> bool:
    """Whether the output is exactly one think and one answer, both with words in them, and nothing else."""
    found = _ONE.fullmatch(output)
    return found is not None and bool(found.group(1).strip()) and bool(found.group(2).strip())


def pairs(output: str) -> list[Pair]:
    """The think-answer pairs of an interleaved trace in order, text outside them left aside (method.md 8.3)."""
    return [Pair(think.strip(), answer.strip()) for think, answer in _PAIR_AS_RELEASED.findall(output)]


def interleaved_as_released(output: str) -> bool:
    return _PAIRS_AS_RELEASED.fullmatch(output) is not None


def interleaved(output: str) -> bool:
    """Whether the output is pairs alone, each think with words of its own: an empty or copied think earns no format."""
    if not _PAIRS.fullmatch(output):
        return False
    thinks = [" ".join(pair.think.lower().split()) for pair in pairs(output)]
    return all(thinks) and len(set(thinks)) == len(thinks)


def _share_repeated(items: Sequence[Hashable]) -> float:
    return 1 - len(set(items)) / len(items) if items else 0.0


def variety(text: str) -> float:
    """1 for a text that never repeats itself, down to 0: DiagCoT's repetition measure (method.md 5.3).

    0.5 (1 - repeated sentences) + 0.3 (1 - repeated trigrams) + 0.15 (1 - repeated bigrams) + 0.05 (1 - words that
    repeat the word before); 1 for an empty text or a single sentence.
    """
    sentences = [part.strip().lower() for part in _SENTENCE.split(text) if part.strip()]
    if len(sentences) <= 1:
        return 1.0
    words = text.lower().split()
    bigrams = list(pairwise(words))
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    doubled = sum(one == two for one, two in bigrams) / max(1, len(bigrams))
    value = (
        0.5 * (1 - _share_repeated(sentences))
        + 0.3 * (1 - _share_repeated(trigrams))
        + 0.15 * (1 - _share_repeated(bigrams))
        + 0.05 * (1 - doubled)
    )
    return min(1.0, max(0.0, value))
