"""METEOR by exact matches, without Java: the share of METEOR that a reward may call thousands of times."""

from collections import defaultdict

_ALPHA, _BETA, _GAMMA = 0.85, 0.2, 0.6  # METEOR 1.5's English parameters (Denkowski and Lavie 2014)


def meteor(hyp: str, ref: str) -> float:
    """METEOR 1.5's formula over exact matches of words (tokenised texts), 0 to 1.

    Leaves out stems, synonyms, paraphrases and the discount of function words, which live in the Java scorer that
    evaluation uses; a perfect text scores 1 in both. Words are aligned from left to right, continuing the current chunk
    where the reference allows.
    """
    ours, theirs = hyp.split(), ref.split()
    places: dict[str, list[int]] = defaultdict(list)
    for position, word in enumerate(theirs):
        places[word].append(position)
    matches = chunks = 0
    previous = -2
    for word in ours:
        free = places.get(word)
        if not free:
            previous = -2
            continue
        place = previous + 1 if previous + 1 in free else free[0]
        free.remove(place)
        matches += 1
        chunks += place != previous + 1
        previous = place
    if not matches:
        return 0.0
    precision, recall = matches / len(ours), matches / len(theirs)
    mean = precision * recall / (_ALPHA * precision + (1 - _ALPHA) * recall)
    whole = matches == len(ours) == len(theirs) and chunks == 1
    penalty = 0.0 if whole else _GAMMA * (chunks / matches) ** _BETA
    return mean * (1 - penalty)
