"""METEOR's alignment of two texts (Denkowski and Lavie 2014): all possible matches, and a beam search for the best.

Compiled by numba. Texts are arrays of word numbers into the tables of `diagcot.metrics.lexicon.Lexicon`.
"""

from typing import Any

import numpy as np
from numba import njit

COUNTS = 23  # lengths 4, matches 4 for each of 4 kinds, chunks, matched words 2
BEAM = 40
FORM, STEM, SYNONYM, PARAPHRASE = range(4)
_BUCKETS = 22  # bits of a phrase's hash that find its bucket
_SEEN = 12  # bits of a phrase's hash that tell in one look whether a text has it at all


@njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def joined(phrase: Any, word: Any) -> Any:
    """Hash of a phrase and one word more, 64 bits."""
    mixed = (phrase ^ word) * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(32))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def word_hash(letters: Any) -> Any:
    """Hash of a word's UTF-8 bytes, 64 bits (FNV-1a)."""
    found = np.uint64(0xCBF29CE484222325)
    for letter in letters:
        found = (found ^ np.uint64(letter)) * np.uint64(0x100000001B3)
    return found


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def scan(text: Any, keys: Any, values: Any, lengths: Any) -> Any:
    """Read a paraphrase table: records of three lines, a probability, a phrase, and what it may be put as.

    Fills the hashes of both phrases and the second one's length in words; returns how many records there are and the
    most words of a phrase.
    """
    line, record, most, count = 0, 0, 0, 0
    inside = False
    phrase, word = np.uint64(0), np.uint64(0)
    for letter in text:
        if letter > 32:
            if line:
                if not inside:
                    word, inside = np.uint64(0xCBF29CE484222325), True
                word = (word ^ np.uint64(letter)) * np.uint64(0x100000001B3)
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


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def buckets(keys: Any) -> Any:
    """Where each bucket of the sorted hashes begins, (2**22 + 1,)."""
    begins = np.zeros((1 << _BUCKETS) + 1, np.int32)
    for key in keys:
        begins[(key >> np.uint64(64 - _BUCKETS)) + np.uint64(1)] += 1
    for place in range(1 << _BUCKETS):
        begins[place + 1] += begins[place]
    return begins


@njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _add(matches: Any, number: int, start: int, length: int, other: int, other_length: int, kind: int) -> Any:
    """Append (start and length in the reference, start and length in the hypothesis, kind)."""
    if number == len(matches):
        matches = np.concatenate((matches, np.empty_like(matches)))
    matches[number, 0], matches[number, 1] = start, length
    matches[number, 2], matches[number, 3], matches[number, 4] = other, other_length, kind
    return matches


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _phrases(text: Any, hashes: Any, most: int) -> Any:
    """Hashes of all phrases of up to `most` words, (most, words), and a table that tells which may occur."""
    found = np.zeros((most, len(text)), np.uint64)
    seen = np.zeros(1 << _SEEN, np.bool_)
    for start in range(len(text)):
        phrase = np.uint64(0)
        for length in range(min(most, len(text) - start)):
            phrase = joined(phrase, hashes[text[start + length]])
            found[length, start] = phrase
            seen[phrase >> np.uint64(64 - _SEEN)] = True
    return found, seen


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _share(one: int, two: int, begins: Any, synsets: Any) -> bool:
    """Whether two words have a synset in common; each word's synsets are sorted."""
    at, to = begins[one], begins[two]
    while at < begins[one + 1] and to < begins[two + 1]:
        if synsets[at] == synsets[to]:
            return True
        if synsets[at] < synsets[to]:
            at += 1
        else:
            to += 1
    return False


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _matches(hyp: Any, ref: Any, words: Any, begins: Any, synsets: Any, table: Any) -> Any:
    """All possible matches, (number, 5), in the order in which METEOR finds those that start at the same word."""
    forms, stems, _, masks, hashes = words
    keys, firsts, values, lengths, most = table
    matches, number = np.empty((64, 5), np.int32), 0
    same = len(hyp) == len(ref)
    for i in range(len(ref)):
        for j in range(len(hyp)):
            if forms[hyp[j]] == forms[ref[i]]:
                matches = _add(matches, number, i, 1, j, 1, FORM)
                number += 1
        same = same and forms[hyp[i]] == forms[ref[i]]
    if same:
        return matches[:number]
    for i in range(len(ref)):
        for j in range(len(hyp)):
            if stems[hyp[j]] == stems[ref[i]] and forms[hyp[j]] != forms[ref[i]]:
                matches = _add(matches, number, i, 1, j, 1, STEM)
                number += 1
    for i in range(len(ref)):
        for j in range(len(hyp)):
            one, two = hyp[j], ref[i]
            if masks[one] & masks[two] and forms[one] != forms[two] and _share(one, two, begins, synsets):
                matches = _add(matches, number, i, 1, j, 1, SYNONYM)
                number += 1
    ours, ours_seen = _phrases(hyp, hashes, most)
    theirs, theirs_seen = _phrases(ref, hashes, most)
    for side in range(2):
        source, target, seen = (theirs, ours, ours_seen) if side == 0 else (ours, theirs, theirs_seen)
        for start in range(source.shape[1]):
            for length in range(1, min(most, source.shape[1] - start) + 1):
                phrase = source[length - 1, start]
                bucket = phrase >> np.uint64(64 - _BUCKETS)
                for record in range(firsts[bucket], firsts[bucket + np.uint64(1)]):
                    if keys[record] != phrase or not seen[values[record] >> np.uint64(64 - _SEEN)]:
                        continue
                    put = lengths[record]
                    for at in range(target.shape[1] - put + 1):
                        if target[put - 1, at] != values[record]:
                            continue
                        if side == 0:
                            matches = _add(matches, number, start, length, at, put, PARAPHRASE)
                        else:
                            matches = _add(matches, number, at, put, start, length, PARAPHRASE)
                        number += 1
    return matches[:number]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _best(hyp_length: int, ref_length: int, matches: Any) -> Any:
    """The match that METEOR's beam search chooses at each word of the reference, (ref_length,), or -1.

    A partial alignment is better by weighted matches (those that are not of the same form weigh half, rounded down),
    then by fewer chunks, then by a smaller distance; among equals the earlier found stays ahead.
    """
    firsts = np.zeros(ref_length + 1, np.int64)
    covered, other_covered = np.zeros(ref_length, np.int64), np.zeros(hyp_length, np.int64)
    for match in matches:
        firsts[match[0] + 1] += 1
        covered[match[0] : match[0] + match[1]] += 1
        other_covered[match[2] : match[2] + match[3]] += 1
    firsts = np.cumsum(firsts)
    order, filled = np.empty(len(matches), np.int64), firsts.copy()
    for number in range(len(matches)):
        order[filled[matches[number, 0]]] = number
        filled[matches[number, 0]] += 1

    chosen = np.full(ref_length, -1, np.int64)
    used = np.zeros((BEAM, hyp_length), np.bool_)
    taken = np.zeros(ref_length, np.bool_)
    for start in range(ref_length):  # a match that competes with no other is certain
        if firsts[start + 1] - firsts[start] != 1:
            continue
        match = matches[order[firsts[start]]]
        alone = (covered[start : start + match[1]] == 1).all()
        if alone and (other_covered[match[2] : match[2] + match[3]] == 1).all():
            chosen[start] = order[firsts[start]]
            taken[start : start + match[1]] = True
            used[0, match[2] : match[2] + match[3]] = True

    # What a path is: matches of either side, chunks, distance, next word, end of the last match or -1, its last choice.
    paths, coming = np.zeros((BEAM, 7), np.int64), np.zeros((BEAM, 7), np.int64)
    came, picked = np.zeros(BEAM, np.int64), np.zeros(BEAM, np.int64)
    used_next = np.zeros((BEAM, hyp_length), np.bool_)
    choices, choice_count = np.full((BEAM * ref_length + 1, 2), -1, np.int64), 1
    paths[0, 5], alive = -1, 1
    for word in range(ref_length + 1):
        number = 0
        for rank in range(alive):
            path = paths[rank]
            ours, theirs, chunks, distance = path[0], path[1], path[2], path[3]
            following, last, choice = path[4], path[5], path[6]
            if word == ref_length:
                number = _rank(coming, came, picked, number, ours, theirs, chunks + (last != -1), distance,
                               following, last, choice, rank, -1)  # fmt: skip
                continue
            if word < following:
                number = _rank(coming, came, picked, number, ours, theirs, chunks, distance,
                               following, last, choice, rank, -1)  # fmt: skip
                continue
            certain = taken[word]
            for place in range(firsts[word], firsts[word + 1]):
                index = order[place]
                match = matches[index]
                start, length, other, other_length = match[0], match[1], match[2], match[3]
                if not certain and used[rank, other : other + other_length].any():
                    continue
                weight = 2 if match[4] == FORM else 1
                moved = abs(start - other)
                number = _rank(coming, came, picked, number, ours + other_length * weight // 2,
                               theirs + length * weight // 2, chunks + (last != -1 and other != last),
                               distance + (moved if certain else 0), start + length, other + other_length,
                               choice, rank, -1 if certain else index)  # fmt: skip
                # The release adds the distance of a choice to the path it left, so to all that follow from there.
                distance += moved
            if not certain:
                number = _rank(coming, came, picked, number, ours, theirs, chunks + (last != -1), distance,
                               following + 1, -1, choice, rank, -1)  # fmt: skip
        for rank in range(number):
            used_next[rank] = used[came[rank]]
            if picked[rank] >= 0:
                match = matches[picked[rank]]
                used_next[rank, match[2] : match[2] + match[3]] = True
                choices[choice_count, 0], choices[choice_count, 1] = picked[rank], coming[rank, 6]
                coming[rank, 6] = choice_count
                choice_count += 1
        paths, coming = coming, paths
        used, used_next = used_next, used
        alive = number
    choice = paths[0, 6]
    while choice > 0:
        chosen[matches[choices[choice, 0], 0]] = choices[choice, 0]
        choice = choices[choice, 1]
    return chosen


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _rank(
    coming: Any, came: Any, picked: Any, number: int, ours: int, theirs: int, chunks: int, distance: int,
    following: int, last: int, choice: int, rank: int, match: int,
) -> int:  # fmt: skip
    """Put a path among the best, behind its equals; returns how many there are."""
    place = number
    while place > 0:
        rival = coming[place - 1]
        gain = ours + theirs - rival[0] - rival[1]
        if gain == 0:
            gain = rival[2] - chunks
        if gain == 0:
            gain = rival[3] - distance
        if gain <= 0:
            break
        place -= 1
    if place == BEAM:
        return number
    for at in range(min(number, BEAM - 1), place, -1):
        coming[at] = coming[at - 1]
        came[at], picked[at] = came[at - 1], picked[at - 1]
    row = coming[place]
    row[0], row[1], row[2], row[3], row[4], row[5], row[6] = ours, theirs, chunks, distance, following, last, choice
    came[place], picked[place] = rank, match
    return min(number + 1, BEAM)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def count(hyp: Any, ref: Any, words: Any, begins: Any, synsets: Any, table: Any) -> Any:
    """METEOR's additive counts of one hypothesis and one reference, (23,)."""
    matches = _matches(hyp, ref, words, begins, synsets, table)
    chosen = _best(len(hyp), len(ref), matches)
    function = words[2]
    counts = np.zeros(COUNTS, np.float64)
    counts[0], counts[1] = len(hyp), len(ref)
    for word in hyp:
        counts[2] += function[word]
    for word in ref:
        counts[3] += function[word]
    at, last = 0, -1
    while at < len(ref):
        if chosen[at] < 0:
            counts[20] += last != -1
            at, last = at + 1, -1
            continue
        match = matches[chosen[at]]
        length, other, other_length, kind = match[1], match[2], match[3], match[4]
        for word in hyp[other : other + other_length]:
            counts[4 + 4 * kind + 2 * function[word]] += 1
        for word in ref[at : at + length]:
            counts[5 + 4 * kind + 2 * function[word]] += 1
        counts[20] += last != -1 and other != last
        counts[21] += other_length
        counts[22] += length
        at, last = at + length, other + other_length
    counts[20] += last != -1
    return counts
