"""N-grams of one to four words, counted and compared: what BLEU and CIDEr count. Compiled by numba.

Texts are numbers of words laid end to end. N-grams are the nodes of a tree: that of words 1 to n is the child of that of
words 1 to n - 1, found in a table by the number of its parent and of its last word. Nothing is compared by a hash alone.
"""

import math
from typing import Any

import numpy as np

from diagcot.jobs.environment.compiled import compiled

ORDERS = 4
ROOT = 0
_SMALLEST = 1 << 10  # places of a table


@compiled()
def key_of(parent: int, word: int) -> Any:
    """The key of the child of a node; never 0."""
    return np.int64(parent) << 32 | np.int64(word) + 1


@compiled()
def place_of(keys: Any, parent: int, word: int) -> Any:
    """Where a table has the child of a node, or has room for it: keys (a power of two,), 0 where there is room."""
    key = key_of(parent, word)
    mixed = key * np.int64(-0x61C8864680B583EB)
    last = len(keys) - 1
    place = (mixed ^ mixed >> 32) & last
    while keys[place] != 0 and keys[place] != key:
        place = (place + 1) & last
    return place


@compiled()
def _room(hyp_ends: Any, ref_ends: Any, samples: Any) -> int:
    """Places for all n-grams of any sample, twice over, as a power of two."""
    most, before = 0, 0
    for sample in range(len(samples)):
        words = hyp_ends[sample] + ref_ends[samples[sample] - 1]
        most, before = max(most, words - before), words
    room = _SMALLEST
    while room < 2 * (ORDERS * most + 1):
        room *= 2
    return room


@compiled()
def _clear(keys: Any, places: Any, number: int) -> None:
    """Empty the table of its nodes, whose places these are."""
    for node in range(ROOT + 1, number):
        keys[places[node]] = 0


@compiled()
def _add(words: Any, keys: Any, nodes: Any, number: int, orders: Any, places: Any, counts: Any) -> int:
    """Count the n-grams of a text in `counts`, by node; returns the number of nodes, the new ones included."""
    for start in range(len(words)):
        node = ROOT
        for order in range(min(ORDERS, len(words) - start)):
            place = place_of(keys, node, words[start + order])
            if keys[place] == 0:
                keys[place], nodes[place] = key_of(node, words[start + order]), number
                orders[number], places[number] = order, place
                number += 1
            node = nodes[place]
            counts[node] += 1
    return number


@compiled()
def matches(hyps: Any, hyp_ends: Any, refs: Any, ref_ends: Any, samples: Any) -> Any:
    """Clipped matches of n-grams of order 1 to 4 of each sample's text with its references, (N, 4).

    samples: where each sample's references end in `ref_ends`.
    """
    room = _room(hyp_ends, ref_ends, samples)
    keys, nodes = np.zeros(room, np.int64), np.zeros(room, np.int32)
    orders, places = np.zeros(room, np.int8), np.zeros(room, np.int64)
    ours, theirs, most = np.zeros(room, np.int32), np.zeros(room, np.int32), np.zeros(room, np.int32)
    found = np.zeros((len(samples), ORDERS), np.float64)
    for sample in range(len(samples)):
        hyp = hyps[hyp_ends[sample - 1] if sample else 0 : hyp_ends[sample]]
        number = _add(hyp, keys, nodes, ROOT + 1, orders, places, ours)
        for text in range(samples[sample - 1] if sample else 0, samples[sample]):
            ref = refs[ref_ends[text - 1] if text else 0 : ref_ends[text]]
            number = _add(ref, keys, nodes, number, orders, places, theirs)
            for node in range(number):
                most[node] = max(most[node], theirs[node])
                theirs[node] = 0
        for node in range(ROOT + 1, number):
            found[sample, orders[node]] += min(ours[node], most[node])
        ours[:number], most[:number] = 0, 0
        _clear(keys, places, number)
    return found


@compiled()
def documents(texts: Any, ends: Any, samples: Any) -> Any:
    """In how many samples each n-gram is: the tree as keys and nodes, and the number of samples of each node.

    samples: where each sample's texts end in `ends`.
    """
    keys, nodes = np.zeros(_SMALLEST, np.int64), np.zeros(_SMALLEST, np.int32)
    frequency, last = np.zeros(_SMALLEST, np.int32), np.full(_SMALLEST, -1, np.int32)
    number = ROOT + 1
    for sample in range(len(samples)):
        for text in range(samples[sample - 1] if sample else 0, samples[sample]):
            begin, end = ends[text - 1] if text else 0, ends[text]
            for start in range(begin, end):
                node = ROOT
                for word in texts[start : min(start + ORDERS, end)]:
                    place = place_of(keys, node, word)
                    if keys[place] == 0:
                        keys[place], nodes[place] = key_of(node, word), number
                        number += 1
                    node = nodes[place]
                    frequency[node] += last[node] != sample
                    last[node] = sample
                if 2 * (number + ORDERS) > len(keys):
                    keys, nodes = _larger(keys, nodes)
                    frequency = np.concatenate((frequency, np.zeros_like(frequency)))
                    last = np.concatenate((last, np.full(len(last), -1, np.int32)))
    return keys, nodes, frequency[:number].copy()


@compiled()
def _larger(keys: Any, nodes: Any) -> Any:
    more_keys, more_nodes = np.zeros(2 * len(keys), np.int64), np.zeros(2 * len(keys), np.int32)
    for old in range(len(keys)):
        if keys[old] != 0:
            place = place_of(more_keys, keys[old] >> 32, (keys[old] & 0xFFFFFFFF) - 1)
            more_keys[place], more_nodes[place] = keys[old], nodes[old]
    return more_keys, more_nodes


@compiled()
def _weigh(
    words: Any, tree: Any, log_documents: float, keys: Any, nodes: Any, number: int, orders: Any, places: Any,
    known: Any, weights: Any,
) -> int:  # fmt: skip
    """Add the weight of each n-gram of a text to `weights`, by node of the table `keys`, `nodes`.

    known: the node of `tree` for each node, -1 where there is none. Returns the number of nodes, the new ones included.
    """
    tree_keys, tree_nodes, frequency = tree
    for start in range(len(words)):
        node, there = ROOT, ROOT
        for order in range(min(ORDERS, len(words) - start)):
            word = words[start + order]
            place = place_of(keys, node, word)
            if keys[place] == 0:
                keys[place], nodes[place] = key_of(node, word), number
                orders[number], places[number] = order, place
                there_place = place_of(tree_keys, there, word) if there >= 0 else 0
                there = tree_nodes[there_place] if there >= 0 and tree_keys[there_place] != 0 else -1
                known[number] = there
                number += 1
            node = nodes[place]
            there = known[node]
            weights[node] += log_documents - math.log(frequency[there]) if there >= 0 else log_documents
    return number


@compiled()
def consensus(
    hyps: Any, hyp_ends: Any, refs: Any, ref_ends: Any, samples: Any, tree: Any, log_documents: float, sigma: float
) -> Any:
    """CIDEr-D of each sample's text with its references, (N,), 0 to 10. tree: of `documents`."""
    room = _room(hyp_ends, ref_ends, samples)
    keys, nodes = np.zeros(room, np.int64), np.zeros(room, np.int32)
    orders, places = np.zeros(room, np.int8), np.zeros(room, np.int64)
    known, ours, theirs = np.zeros(room, np.int32), np.zeros(room), np.zeros(room)
    found = np.zeros(len(samples), np.float64)
    dots, our_squares, their_squares = np.zeros(ORDERS), np.zeros(ORDERS), np.zeros(ORDERS)
    for sample in range(len(samples)):
        hyp = hyps[hyp_ends[sample - 1] if sample else 0 : hyp_ends[sample]]
        first = samples[sample - 1] if sample else 0
        for text in range(first, samples[sample]):
            ref = refs[ref_ends[text - 1] if text else 0 : ref_ends[text]]
            number = _weigh(hyp, tree, log_documents, keys, nodes, ROOT + 1, orders, places, known, ours)
            number = _weigh(ref, tree, log_documents, keys, nodes, number, orders, places, known, theirs)
            dots[:], our_squares[:], their_squares[:] = 0, 0, 0
            for node in range(ROOT + 1, number):
                order = orders[node]
                dots[order] += min(ours[node], theirs[node]) * theirs[node]
                our_squares[order] += ours[node] * ours[node]
                their_squares[order] += theirs[node] * theirs[node]
            ours[:number], theirs[:number] = 0, 0
            _clear(keys, places, number)
            total = 0.0
            for order in range(ORDERS):
                norms = math.sqrt(our_squares[order]) * math.sqrt(their_squares[order])
                total += dots[order] / norms if norms else 0.0
            # pycocoevalcap measures length in bigrams.
            delta = max(0, len(hyp) - 1) - max(0, len(ref) - 1)
            found[sample] += 10 * total / ORDERS * math.exp(-(delta * delta) / (2 * sigma * sigma))
        found[sample] /= samples[sample] - first
    return found
