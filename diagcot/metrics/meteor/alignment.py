"""METEOR's alignment of two texts (Denkowski and Lavie 2014): all possible matches, and a beam search for the best.

Compiled by numba. Texts are arrays of word numbers into the tables of `diagcot.metrics.meteor.lexicon.Lexicon`. In METEOR's
terms the hypothesis is what is scored and the reference what it is scored against.
"""

from typing import Any

import numpy as np

from diagcot.jobs.environment.compiled import compiled
from diagcot.metrics.meteor.phrases import BUCKET_BITS, FILTER_BITS, phrases

BEAM = 40
FORM, STEM, SYNONYM, PARAPHRASE = range(4)
START, LENGTH, OTHER, OTHER_LENGTH, KIND = range(5)
"""Columns of a match: first word and words in the reference, first word and words in the hypothesis, kind."""
NEXT, LAST, CHOICE = range(3)
"""Columns of a path: next free word of the reference, end of its last match in the hypothesis or -1, last choice."""
_ASKED = 1 << 14
_TOTAL = 1 << 32
"""What a weighted match adds to the merit of a path; a chunk takes 1."""


@compiled()
def counts(
    hyps: Any, hyp_ends: Any, refs: Any, ref_ends: Any, words: Any, begins: Any, synsets: Any, table: Any
) -> Any:
    """METEOR's additive counts of texts laid end to end, (texts, 23)."""
    totals = np.zeros((len(hyp_ends), 23), np.float64)
    asked = np.zeros(_ASKED, np.int64)  # pairs of words whose synsets were compared, with the answer
    for text in range(len(hyp_ends)):
        hyp = hyps[hyp_ends[text - 1] if text else 0 : hyp_ends[text]]
        ref = refs[ref_ends[text - 1] if text else 0 : ref_ends[text]]
        matches = _all_matches(hyp, ref, words, begins, synsets, table, asked)
        _count(hyp, ref, matches, _best(len(hyp), len(ref), matches), words[2], totals[text])
    return totals


@compiled()
def _all_matches(hyp: Any, ref: Any, words: Any, begins: Any, synsets: Any, table: Any, asked: Any) -> Any:
    """All possible matches, (matches, 5), in the order in which METEOR finds those that start at the same word."""
    forms, stems, _, masks, hashes = words
    same = len(hyp) == len(ref)
    for word in range(len(hyp)):
        same = same and forms[hyp[word]] == forms[ref[word]]
    matches, number = np.empty((256, 5), np.int32), 0
    our_forms, our_stems, our_masks = forms[hyp], stems[hyp], masks[hyp]
    near = np.empty(len(hyp) + 1, np.int64)  # words of the hypothesis that may match
    for start in range(len(ref)):
        theirs = ref[start]
        form, stem, mask, found = forms[theirs], stems[theirs], masks[theirs], 0
        for at in range(len(hyp)):
            near[found] = at
            found += (our_forms[at] == form) | (our_stems[at] == stem) | (our_masks[at] & mask != 0)
        for kind in range(1 if same else 3):  # FORM, STEM, SYNONYM
            for at in near[:found]:
                matched = our_forms[at] == form
                if kind == STEM:
                    matched = not matched and our_stems[at] == stem
                elif kind == SYNONYM:
                    matched = not matched and our_masks[at] & mask != 0
                    matched = matched and _are_synonyms(hyp[at], theirs, begins, synsets, asked)
                if matched:
                    matches = _with_match(matches, number, start, 1, at, 1, kind)
                    number += 1
    if same:
        return matches[:number]
    return _with_paraphrases(matches, number, hyp, ref, hashes, table)


@compiled()
def _are_synonyms(ours: int, theirs: int, begins: Any, synsets: Any, asked: Any) -> bool:
    """`_share_synset`, remembered in `asked` until another pair needs the place: reports repeat their words."""
    pair = (np.int64(ours) << 31 | np.int64(theirs)) + 1
    place = (ours * 31 + theirs * 7919) % _ASKED
    if asked[place] >> 1 != pair:
        asked[place] = pair << 1 | _share_synset(ours, theirs, begins, synsets)
    return bool(asked[place] & 1)


@compiled()
def _share_synset(ours: int, theirs: int, begins: Any, synsets: Any) -> bool:
    """True if two words have a synset in common; each word's synsets are sorted."""
    at, to = begins[ours], begins[theirs]
    while at < begins[ours + 1] and to < begins[theirs + 1]:
        if synsets[at] == synsets[to]:
            return True
        if synsets[at] < synsets[to]:
            at += 1
        else:
            to += 1
    return False


@compiled()
def _with_paraphrases(matches: Any, number: int, hyp: Any, ref: Any, hashes: Any, table: Any) -> Any:
    """The matches, and those of phrases of one text that the table puts as phrases of the other."""
    keys, firsts, values, lengths, most = table
    ours, our_filter = phrases(hyp, hashes, most)
    theirs, their_filter = phrases(ref, hashes, most)
    for from_reference in (True, False):
        source, target, known = (theirs, ours, our_filter) if from_reference else (ours, theirs, their_filter)
        for start in range(source.shape[1]):
            for length in range(1, min(most, source.shape[1] - start) + 1):
                phrase = source[length - 1, start]
                bucket = phrase >> np.uint64(64 - BUCKET_BITS)
                for record in range(firsts[bucket], firsts[bucket + np.uint64(1)]):
                    if keys[record] != phrase or not known[values[record] >> np.uint64(64 - FILTER_BITS)]:
                        continue
                    put = lengths[record]
                    for at in range(target.shape[1] - put + 1):
                        if target[put - 1, at] != values[record]:
                            continue
                        if from_reference:
                            matches = _with_match(matches, number, start, length, at, put, PARAPHRASE)
                        else:
                            matches = _with_match(matches, number, at, put, start, length, PARAPHRASE)
                        number += 1
    return matches[:number]


@compiled()
def _with_match(matches: Any, number: int, start: int, length: int, other: int, other_length: int, kind: int) -> Any:
    """The table with a match in row `number`; a larger table if it was full."""
    if number == len(matches):
        larger = np.empty((2 * number, 5), np.int32)
        for row in range(number):
            for column in range(5):
                larger[row, column] = matches[row, column]
        matches = larger
    matches[number, START], matches[number, LENGTH] = start, length
    matches[number, OTHER], matches[number, OTHER_LENGTH], matches[number, KIND] = other, other_length, kind
    return matches


@compiled()
def _best(hyp_length: int, ref_length: int, matches: Any) -> Any:
    """The match that METEOR's beam search chooses at each word of the reference, (ref_length,), or -1.

    A partial alignment is better by weighted matches (those of another form weigh half, rounded down), then by fewer chunks,
    then by a smaller distance; among equals the one found first stays ahead. Paths are kept in this order.
    """
    order, begins = _by_start(ref_length, matches)
    # The words of the hypothesis that a path has used, as bits.
    used = np.zeros((BEAM, (hyp_length + 63) // 64), np.uint64)
    used_next = np.zeros_like(used)
    chosen, certain = _certain(hyp_length, ref_length, matches, order, begins, used)
    paths, paths_next = np.zeros((BEAM, 3), np.int64), np.zeros((BEAM, 3), np.int64)
    merits, merits_next = np.zeros(BEAM, np.int64), np.zeros(BEAM, np.int64)
    distances, distances_next = np.zeros(BEAM, np.int64), np.zeros(BEAM, np.int64)
    parents, taken = (
        np.zeros(BEAM, np.int64),
        np.zeros(BEAM, np.int64),
    )  # of a new path: what it continues, and its match
    choices, choice_count = np.empty((BEAM * ref_length + 1, 2), np.int64), 1  # match, and the choice before it
    paths[0, LAST], alive = -1, 1
    for word in range(ref_length + 1):  # one word more, where nothing matches, closes the last chunk
        number = 0
        for row in range(alive):
            number = _continue(
                paths, merits, distances, row, word, order, begins, certain[word], matches, used,
                merits_next, distances_next, parents, taken, number,
            )  # fmt: skip
        for row in range(number):
            parent, match = parents[row], taken[row]
            for part in range(used.shape[1]):
                used_next[row, part] = used[parent, part]
            paths_next[row, CHOICE] = paths[parent, CHOICE]
            if match >= 0:
                other, other_length = matches[match, OTHER], matches[match, OTHER_LENGTH]
                paths_next[row, NEXT], paths_next[row, LAST] = word + matches[match, LENGTH], other + other_length
                if not certain[word]:
                    _use(used_next, row, other, other_length)
                    choices[choice_count, 0], choices[choice_count, 1] = match, paths[parent, CHOICE]
                    paths_next[row, CHOICE] = choice_count
                    choice_count += 1
            elif word < paths[parent, NEXT]:
                paths_next[row, NEXT], paths_next[row, LAST] = paths[parent, NEXT], paths[parent, LAST]
            else:
                paths_next[row, NEXT], paths_next[row, LAST] = word + 1, -1
        paths, paths_next, used, used_next = paths_next, paths, used_next, used
        merits, merits_next, distances, distances_next = merits_next, merits, distances_next, distances
        alive = number
    choice = paths[0, CHOICE]
    while choice > 0:
        match = choices[choice, 0]
        chosen[matches[match, START]] = match
        choice = choices[choice, 1]
    return chosen


@compiled()
def _by_start(ref_length: int, matches: Any) -> Any:
    """Match numbers in the order of their first word, and where each word's begin, (ref_length + 2,)."""
    begins = np.zeros(ref_length + 2, np.int64)
    for match in range(len(matches)):
        begins[matches[match, START] + 1] += 1
    for word in range(ref_length + 1):
        begins[word + 1] += begins[word]
    order, free = np.empty(len(matches), np.int64), begins.copy()
    for match in range(len(matches)):
        start = matches[match, START]
        order[free[start]] = match
        free[start] += 1
    return order, begins


@compiled()
def _certain(hyp_length: int, ref_length: int, matches: Any, order: Any, begins: Any, used: Any) -> Any:
    """Matches that compete with no other, by word of the reference or -1, and whether a word has one.

    Their words of the hypothesis are marked as used in the first row of `used`.
    """
    covered, other_covered = np.zeros(ref_length, np.int64), np.zeros(hyp_length, np.int64)
    for match in range(len(matches)):
        for word in range(matches[match, START], matches[match, START] + matches[match, LENGTH]):
            covered[word] += 1
        for word in range(matches[match, OTHER], matches[match, OTHER] + matches[match, OTHER_LENGTH]):
            other_covered[word] += 1
    chosen, certain = np.full(ref_length, -1, np.int64), np.zeros(ref_length + 1, np.bool_)
    for start in range(ref_length):
        if begins[start + 1] - begins[start] != 1:
            continue
        match = order[begins[start]]
        alone = True
        for word in range(start, start + matches[match, LENGTH]):
            alone = alone and covered[word] == 1
        for word in range(matches[match, OTHER], matches[match, OTHER] + matches[match, OTHER_LENGTH]):
            alone = alone and other_covered[word] == 1
        if alone:
            chosen[start], certain[start] = match, True
            _use(used, 0, matches[match, OTHER], matches[match, OTHER_LENGTH])
    return chosen, certain


@compiled()
def _continue(
    paths: Any, merits: Any, distances: Any, row: int, word: int, order: Any, begins: Any, certain: bool, matches: Any,
    used: Any, merits_next: Any, distances_next: Any, parents: Any, taken: Any, number: int,
) -> int:  # fmt: skip
    """Rank all paths that continue the path in `row` at a word; returns the number of paths ranked so far.

    merits_next, distances_next, parents, taken, number: the paths ranked so far, the best first.
    """
    merit, distance = merits[row], distances[row]
    if word < paths[row, NEXT]:  # inside a match there is nothing to choose
        return int(_rank(merits_next, distances_next, parents, taken, number, merit, distance, row, -1))
    last = paths[row, LAST]
    for place in range(begins[word], begins[word + 1]):
        match = order[place]
        length, other, other_length = matches[match, LENGTH], matches[match, OTHER], matches[match, OTHER_LENGTH]
        if not certain and _is_used(used, row, other, other_length):
            continue
        moved = abs(word - other)
        weight = length + other_length if matches[match, KIND] == FORM else length // 2 + other_length // 2
        gained = merit + weight * _TOTAL - (last >= 0 and other != last)
        reached = distance + moved if certain else distance
        number = _rank(merits_next, distances_next, parents, taken, number, gained, reached, row, match)
        # The release adds the distance of a choice to the path it left, so to all that follow from there.
        distance += moved
    if certain:
        return number
    merit -= last != -1
    return int(_rank(merits_next, distances_next, parents, taken, number, merit, distance, row, -1))


@compiled()
def _rank(
    merits: Any,
    distances: Any,
    parents: Any,
    taken: Any,
    number: int,
    merit: int,
    distance: int,
    parent: int,
    match: int,
) -> int:
    """Insert a path among the best, behind its equals; returns how many there are."""
    place = number
    if number == BEAM:
        place -= 1
        if merit < merits[place] or (merit == merits[place] and distance >= distances[place]):
            return number
    while place > 0 and (merit > merits[place - 1] or (merit == merits[place - 1] and distance < distances[place - 1])):
        merits[place], distances[place] = merits[place - 1], distances[place - 1]
        parents[place], taken[place] = parents[place - 1], taken[place - 1]
        place -= 1
    merits[place], distances[place], parents[place], taken[place] = merit, distance, parent, match
    return min(number + 1, BEAM)


@compiled()
def _use(bits: Any, row: int, start: int, length: int) -> None:
    for word in range(start, start + length):
        bits[row, word >> 6] |= np.uint64(1) << np.uint64(word & 63)


@compiled()
def _is_used(bits: Any, row: int, start: int, length: int) -> bool:
    found = False
    for word in range(start, start + length):
        found = found or bits[row, word >> 6] >> np.uint64(word & 63) & np.uint64(1) != 0
    return found


@compiled()
def _count(hyp: Any, ref: Any, matches: Any, chosen: Any, function: Any, totals: Any) -> None:
    """Add the chosen matches up in `totals`, (23,): see `diagcot.metrics.meteor.meteor`."""
    totals[0], totals[1] = len(hyp), len(ref)
    for word in hyp:
        totals[2] += function[word]
    for word in ref:
        totals[3] += function[word]
    at, last = 0, -1
    while at < len(ref):
        match = chosen[at]
        if match < 0:
            totals[20] += last != -1
            at, last = at + 1, -1
            continue
        length, other, other_length = matches[match, LENGTH], matches[match, OTHER], matches[match, OTHER_LENGTH]
        kind = 4 + 4 * matches[match, KIND]
        for word in hyp[other : other + other_length]:
            totals[kind + 2 * function[word]] += 1
        for word in ref[at : at + length]:
            totals[kind + 1 + 2 * function[word]] += 1
        totals[20] += last >= 0 and other != last
        totals[21] += other_length
        totals[22] += length
        at, last = at + length, other + other_length
    totals[20] += last != -1
