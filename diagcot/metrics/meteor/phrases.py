"""Hashes of phrases, and METEOR's paraphrase table read as hashes. Compiled by numba."""

from typing import Any

import numpy as np

from diagcot.jobs.environment.compiled import compiled

BUCKET_BITS = 22
"""Bits of a phrase's hash that find its bucket in the table."""
FILTER_BITS = 12
"""Bits of a phrase's hash that show in one look whether a text may have it."""

_FNV_START, _FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3


@compiled(inline="always")
def joined(phrase: Any, word: Any) -> Any:
    """Hash of a phrase and one more word, 64 bits."""
    mixed = (phrase ^ word) * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(32))


@compiled()
def word_hash(letters: Any) -> Any:
    """Hash of a word's UTF-8 bytes, 64 bits (FNV-1a)."""
    digest = np.uint64(_FNV_START)
    for letter in letters:
        digest = (digest ^ np.uint64(letter)) * np.uint64(_FNV_PRIME)
    return digest


@compiled()
def phrases(text: Any, hashes: Any, most: int) -> Any:
    """Hashes of all phrases of up to `most` words, (most, words), and a filter that shows which may occur."""
    digests = np.zeros((most, len(text)), np.uint64)
    known = np.zeros(1 << FILTER_BITS, np.bool_)
    for start in range(len(text)):
        phrase = np.uint64(0)
        for length in range(min(most, len(text) - start)):
            phrase = joined(phrase, hashes[text[start + length]])
            digests[length, start] = phrase
            known[phrase >> np.uint64(64 - FILTER_BITS)] = True
    return digests, known


@compiled()
def scan(text: Any, keys: Any, values: Any, lengths: Any) -> Any:
    """Read a paraphrase table: records of three lines, a probability, a phrase, and its paraphrase.

    Fills the hashes of both phrases and the second one's length in words; returns the number of records and the most words
    of a phrase.
    """
    line, record, most, count = 0, 0, 0, 0
    inside = False
    phrase, word = np.uint64(0), np.uint64(0)
    for letter in text:
        if letter > 32:
            if line:
                if not inside:
                    word, inside = np.uint64(_FNV_START), True
                word = (word ^ np.uint64(letter)) * np.uint64(_FNV_PRIME)
            continue
        if inside:
            phrase, inside = joined(phrase, word), False
            count += 1
        if letter != 10:
            continue
        if line == 1:
            keys[record] = phrase
        elif line == 2:
            values[record], lengths[record] = phrase, count
            record += 1
        most = max(most, count)
        line, phrase, count = (line + 1) % 3, np.uint64(0), 0
    return record, most


@compiled()
def buckets(keys: Any) -> Any:
    """Where each bucket of the sorted hashes begins, (2**22 + 1,)."""
    begins = np.zeros((1 << BUCKET_BITS) + 1, np.int32)
    for key in keys:
        begins[(key >> np.uint64(64 - BUCKET_BITS)) + np.uint64(1)] += 1
    for place in range(1 << BUCKET_BITS):
        begins[place + 1] += begins[place]
    return begins
