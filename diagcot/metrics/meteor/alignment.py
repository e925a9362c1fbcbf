"""METEOR's alignment of two texts (Denkowski and Lavie 2014): all possible matches, and a beam search for the best.

Compiled by numba. Texts are arrays of word numbers into the tables of `diagcot.metrics.meteor.lexicon.Lexicon`.
"""

from typing import Any

import numpy as np
from numba import njit

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


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add(matches: Any, number: int, start: int, length: int, other: int, other_length: int, kind: int) -> Any:
    """Append (start and length in the reference, start and length in the hypothesis, kind)."""
    if number == len(matches):
        grown = np.empty((2 * number, 5), np.int32)
        for row in range(number):
            for column in range(5):
                grown[row, column] = matches[row, column]
        matches = grown
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
    for word in range(len(hyp)):
        same = same and forms[hyp[word]] == forms[ref[word]]
    for kind in range(1 if same else 3):
        for start in range(len(ref)):
            for at in range(len(hyp)):
                one, two = hyp[at], ref[start]
                fits = forms[one] == forms[two]
                if kind == STEM:
                    fits = not fits and stems[one] == stems[two]
                elif kind == SYNONYM:
                    fits = not fits and masks[one] & masks[two] != 0 and _share(one, two, begins, synsets)
                if fits:
                    matches = _add(matches, number, start, 1, at, 1, kind)
                    number += 1
    if same:
        return matches[:number]
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
                        here, there = (start, at) if side == 0 else (at, start)
                        long, other = (length, put) if side == 0 else (put, length)
                        matches = _add(matches, number, here, long, there, other, PARAPHRASE)
                        number += 1
    return matches[:number]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _best(hyp_length: int, ref_length: int, matches: Any) -> Any:
    """The match that METEOR's beam search chooses at each word of the reference, (ref_length,), or -1.

    A partial alignment is better by weighted matches (those that are not of the same form weigh half, rounded down),
    then by fewer chunks, then by a smaller distance; among equals the earlier found stays ahead.
    """
    # One word more, where nothing matches, closes the last chunk.
    firsts, order = np.zeros(ref_length + 2, np.int64), np.empty(len(matches), np.int64)
    covered, other_covered = np.zeros(ref_length, np.int64), np.zeros(hyp_length, np.int64)
    for number in range(len(matches)):
        firsts[matches[number, 0] + 1] += 1
        for at in range(matches[number, 1]):
            covered[matches[number, 0] + at] += 1
        for at in range(matches[number, 3]):
            other_covered[matches[number, 2] + at] += 1
    for word in range(ref_length + 1):
        firsts[word + 1] += firsts[word]
    for number in range(len(matches) - 1, -1, -1):  # from the back: afterwards firsts[word + 1] is where word begins
        start = matches[number, 0]
        firsts[start + 1] -= 1
        order[firsts[start + 1]] = number
    # A row for each path: weighted matches, chunks, next word, end of its last match or -1, distance, last choice; and
    # while it is new, the row it comes from and the match it chose or -1. Its used words of the hypothesis are bits.
    paths, coming = np.zeros((BEAM, 8), np.int64), np.zeros((BEAM, 8), np.int64)
    size = (hyp_length + 63) // 64
    used, used_next = np.zeros((BEAM, size), np.uint64), np.zeros((BEAM, size), np.uint64)
    ranks, ranks_next = np.zeros(BEAM, np.int64), np.zeros(BEAM, np.int64)  # rows, the best first
    choices, choice_count = np.zeros((BEAM * ref_length + 1, 2), np.int64), 1  # match, and the choice before it
    chosen, certain = np.full(ref_length, -1, np.int64), np.zeros(ref_length + 1, np.bool_)
    for start in range(ref_length):  # a match that competes with no other is certain
        if firsts[start + 2] - firsts[start + 1] != 1:
            continue
        index = order[firsts[start + 1]]
        alone = True
        for at in range(matches[index, 1]):
            alone = alone and covered[start + at] == 1
        for at in range(matches[index, 3]):
            alone = alone and other_covered[matches[index, 2] + at] == 1
        if alone:
            chosen[start] = index
            certain[start] = True
            _use(used, 0, matches[index, 2], matches[index, 3])
    paths[0, 3], alive = -1, 1
    for word in range(ref_length + 1):
        number = 0
        begin, end = firsts[word + 1], firsts[min(word + 2, ref_length + 1)]
        for rank in range(alive):
            row = ranks[rank]
            distance = paths[row, 4]
            # Each match that starts here, then none; inside a match, and at a certain one, there is nothing to choose.
            inside = word < paths[row, 2]
            for place in range(end if inside else begin, end if certain[word] and not inside else end + 1):
                total, chunks, following, last = paths[row, 0], paths[row, 1], paths[row, 2], paths[row, 3]
                after, index, moved = distance, -1, 0
                if place < end:
                    index = order[place]
                    length, other, other_length = matches[index, 1], matches[index, 2], matches[index, 3]
                    if not certain[word] and _is_used(used, row, other, other_length):
                        continue
                    whole = matches[index, 4] == FORM
                    total += length + other_length if whole else length // 2 + other_length // 2
                    chunks += last != -1 and other != last
                    following, last = word + length, other + other_length
                    moved = abs(word - other)
                    after += moved if certain[word] else 0
                elif not inside:
                    chunks += last != -1
                    following, last = word + 1, -1
                number = _rank(
                    coming, ranks_next, number, total, chunks, following, last, after, paths[row, 5], row,
                    -1 if certain[word] else index,
                )  # fmt: skip
                # The release adds the distance of a choice to the path it left, so to all that follow from there.
                distance += moved
        for rank in range(number):
            row = ranks_next[rank]
            for part in range(size):
                used_next[row, part] = used[coming[row, 6], part]
            index = coming[row, 7]
            if index >= 0:
                _use(used_next, row, matches[index, 2], matches[index, 3])
                choices[choice_count, 0], choices[choice_count, 1] = index, coming[row, 5]
                coming[row, 5] = choice_count
                choice_count += 1
        paths, coming, ranks, ranks_next, used, used_next = coming, paths, ranks_next, ranks, used_next, used
        alive = number
    choice = paths[ranks[0], 5]
    while choice > 0:
        chosen[matches[choices[choice, 0], 0]] = choices[choice, 0]
        choice = choices[choice, 1]
    return chosen


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _use(bits: Any, row: int, start: int, length: int) -> None:
    for word in range(start, start + length):
        bits[row, word >> 6] |= np.uint64(1) << np.uint64(word & 63)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _is_used(bits: Any, row: int, start: int, length: int) -> bool:
    found = False
    for word in range(start, start + length):
        found = found or bits[row, word >> 6] >> np.uint64(word & 63) & np.uint64(1) != 0
    return found


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _rank(
    paths: Any, ranks: Any, number: int, total: int, chunks: int, following: int, last: int, distance: int,
    choice: int, parent: int, match: int,
) -> int:  # fmt: skip
    """Put a path among the best, behind its equals; returns how many there are."""
    place = number
    while place > 0:
        rival = ranks[place - 1]
        gain = total - paths[rival, 0]
        if gain == 0:
            gain = paths[rival, 1] - chunks
        if gain == 0:
            gain = paths[rival, 4] - distance
        if gain <= 0:
            break
        place -= 1
    if place == BEAM:
        return number
    row = number if number < BEAM else ranks[BEAM - 1]
    for at in range(min(number, BEAM - 1), place, -1):
        ranks[at] = ranks[at - 1]
    ranks[place] = row
    paths[row, 0], paths[row, 1], paths[row, 2], paths[row, 3] = total, chunks, following, last
    paths[row, 4], paths[row, 5], paths[row, 6], paths[row, 7] = distance, choice, parent, match
    return min(number + 1, BEAM)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def counts(
    hyps: Any, hyp_ends: Any, refs: Any, ref_ends: Any, words: Any, begins: Any, synsets: Any, table: Any
) -> Any:
    """METEOR's additive counts of texts laid end to end, (texts, 23)."""
    found = np.zeros((len(hyp_ends), 23), np.float64)
    for number in range(len(hyp_ends)):
        hyp = hyps[hyp_ends[number - 1] if number else 0 : hyp_ends[number]]
        ref = refs[ref_ends[number - 1] if number else 0 : ref_ends[number]]
        matches = _matches(hyp, ref, words, begins, synsets, table)
        _sum(hyp, ref, matches, _best(len(hyp), len(ref), matches), words[2], found[number])
    return found


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sum(hyp: Any, ref: Any, matches: Any, chosen: Any, function: Any, counts: Any) -> None:
    """Sum the chosen matches up into `counts`, (23,)."""
    counts[0], counts[1] = len(hyp), len(ref)
    for word in hyp:
        counts[2] += function[word]
    for word in ref:
        counts[3] += function[word]
    at, last = 0, -1
    while at < len(ref):
        index = chosen[at]
        if index < 0:
            counts[20] += last != -1
            at, last = at + 1, -1
            continue
        length, other, other_length = matches[index, 1], matches[index, 2], matches[index, 3]
        kind = 4 + 4 * matches[index, 4]
        for word in range(other, other + other_length):
            counts[kind + 2 * function[hyp[word]]] += 1
        for word in range(at, at + length):
            counts[kind + 1 + 2 * function[ref[word]]] += 1
        counts[20] += last != -1 and other != last
        counts[21] += other_length
        counts[22] += length
        at, last = at + length, other + other_length
    counts[20] += last != -1
