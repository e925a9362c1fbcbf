"""Stems of ROUGE: Porter's algorithm (Porter 1980) with the extensions of NLTK, which rouge-score uses.

METEOR has other stems (`diagcot.metrics.meteor.stems`): "slight" and "slightly" have one stem there and two here.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

_FORMS = {
    "sky": ("sky", "skies"),
    "die": ("dying",),
    "lie": ("lying",),
    "tie": ("tying",),
    "news": ("news",),
    "inning": ("innings", "inning"),
    "outing": ("outings", "outing"),
    "canning": ("cannings", "canning"),
    "howe": ("howe",),
    "proceed": ("proceed",),
    "exceed": ("exceed",),
    "succeed": ("succeed",),
}
_IRREGULAR = {form: stem for stem, forms in _FORMS.items() for form in forms}

Rules = Sequence[tuple[str, str]]  # a suffix and what replaces it; the first that fits is the only one tried
_STEP_2: Rules = (
    ("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"), ("bli", "ble"),
    ("entli", "ent"), ("eli", "e"), ("ousli", "ous"), ("ization", "ize"), ("ation", "ate"), ("ator", "ate"),
    ("alism", "al"), ("iveness", "ive"), ("fulness", "ful"), ("ousness", "ous"), ("aliti", "al"), ("iviti", "ive"),
    ("biliti", "ble"), ("fulli", "ful"),
)  # fmt: skip
_STEP_3: Rules = (
    ("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", ""),
)  # fmt: skip
_STEP_4: Rules = tuple(
    (suffix, "")
    for suffix in (
        "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate",
        "iti", "ous", "ive", "ize",
    )
)  # fmt: skip


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """The stem of a word in lower case."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 2:
        return word
    word = _y_to_i(_past(_plural(word)))
    word = _replaced(_derived(word), _STEP_3, lambda rest: _measure(rest) > 0)
    word = _replaced(word, _STEP_4, lambda rest: _measure(rest) > 1, ion=True)
    return _final(word)


def _consonants(word: str) -> list[bool]:
    """For each letter whether it is a consonant; y is one at the start and after a vowel."""
    found: list[bool] = []
    for letter in word:
        vowel = letter in "aeiou" or (letter == "y" and bool(found) and found[-1])
        found.append(not vowel)
    return found


def _measure(word: str) -> int:
    """How often a vowel is followed by a consonant: m of Porter's paper."""
    consonants = _consonants(word)
    return sum(not first and second for first, second in pairwise(consonants))


def _ends_short(word: str) -> bool:
    """Whether a word ends in consonant, vowel, consonant other than w, x, y, or consists of a vowel and a consonant."""
    consonants = _consonants(word)
    return (consonants[-3:] == [True, False, True] and word[-1] not in "wxy") or consonants == [False, True]


def _replaced(word: str, rules: Rules, condition: Callable[[str], bool], ion: bool = False) -> str:
    """The word with its suffix replaced if what comes before fulfils the condition. ion: only after s or t."""
    for suffix, new in rules:
        if word.endswith(suffix):
            rest = word.removesuffix(suffix)
            fits = condition(rest) and not (ion and suffix == "ion" and rest[-1] not in "st")
            return rest + new if fits else word
    return word


def _plural(word: str) -> str:
    if word.endswith("ies"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("sses"):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _past(word: str) -> str:
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    suffix = next((suffix for suffix in ("ed", "ing") if word.endswith(suffix)), "")
    rest = word.removesuffix(suffix)
    if not suffix or all(_consonants(rest)):
        return word
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if len(rest) > 1 and rest[-1] == rest[-2] and _consonants(rest)[-1]:
        return rest if rest[-1] in "lsz" else rest[:-1]
    return rest + "e" if _measure(rest) == 1 and _ends_short(rest) else rest


def _y_to_i(word: str) -> str:
    consonant_before = len(word) > 2 and _consonants(word)[-2]
    return word[:-1] + "i" if word.endswith("y") and consonant_before else word


def _derived(word: str) -> str:
    """Step 2; "alli" comes first, and its result is derived once more."""
    if word.endswith("alli") and _measure(word[:-4]) > 0:
        return _derived(word[:-2])
    if word.endswith("logi"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    return _replaced(word, _STEP_2, lambda rest: _measure(rest) > 0)


def _final(word: str) -> str:
    if word.endswith("e"):
        measure = _measure(word[:-1])
        if measure > 1 or (measure == 1 and not _ends_short(word[:-1])):
            word = word[:-1]
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word
