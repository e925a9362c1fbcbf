"""The English Snowball stemmer (Porter 2), as METEOR's release carries it."""

import re

_WHOLE = {
    "skis": "ski",
    "skies": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "idly": "idl",
    "gently": "gentl",
    "ugly": "ugli",
    "early": "earli",
    "only": "onli",
    "singly": "singl",
    **{word: word for word in ("sky", "news", "howe", "atlas", "cosmos", "bias", "andes")},
}
_KEPT = frozenset({"inning", "outing", "canning", "herring", "earring", "proceed", "exceed", "succeed"})
_VOWEL = re.compile("[aeiouy]")
_REGION = re.compile("[aeiouy][^aeiouy]")
_EARLY = re.compile("gener|commun|arsen")
_SHORT = re.compile("(?:[^aeiouy][aeiouy][^aeiouywxY]|^[aeiouy][^aeiouy])$")

# Suffixes and what takes their place, longest first: the longest that fits decides, and only inside region 1 (2).
_STEP_2 = (
    ("ization", "ize"), ("ational", "ate"), ("fulness", "ful"), ("ousness", "ous"), ("iveness", "ive"),
    ("tional", "tion"), ("biliti", "ble"), ("lessli", "less"), ("entli", "ent"), ("ation", "ate"), ("alism", "al"),
    ("aliti", "al"), ("ousli", "ous"), ("iviti", "ive"), ("fulli", "ful"), ("enci", "ence"), ("anci", "ance"),
    ("abli", "able"), ("izer", "ize"), ("ator", "ate"), ("alli", "al"), ("bli", "ble"), ("ogi", "og"), ("li", ""),
)  # fmt: skip
_STEP_3 = (
    ("ational", "ate"), ("tional", "tion"), ("alize", "al"), ("icate", "ic"), ("iciti", "ic"), ("ative", ""),
    ("ical", "ic"), ("ness", ""), ("ful", ""),
)  # fmt: skip
_STEP_4 = (
    "ement", "ance", "ence", "able", "ible", "ment", "ant", "ent", "ism", "ate", "iti", "ous", "ive", "ize", "ion",
    "al", "er", "ic",
)  # fmt: skip


def stem(word: str) -> str:
    """The stem of a word in lower case."""
    if word in _WHOLE:
        return _WHOLE[word]
    if len(word) < 3:
        return word
    word = _consonants(word.removeprefix("'"))
    one = _after(word, 0, early=True)
    two = _after(word, one)
    for suffix in ("'s'", "'s", "'"):
        if word.endswith(suffix):
            word = word[: -len(suffix)]
            break
    word = _plural(word)
    if word in _KEPT:
        return word
    word = _past(word, one)
    if len(word) > 2 and word[-1] in "yY" and not _VOWEL.match(word[-2]):
        word = word[:-1] + "i"
    word = _step_2(word, one)
    word = _step_3(word, one, two)
    word = _step_4(word, two)
    return _last(word, one, two).replace("Y", "y")


def _consonants(word: str) -> str:
    """`y` at the start and after a vowel is a consonant: `Y`."""
    letters = list(word)
    for place, letter in enumerate(letters):
        if letter == "y" and (place == 0 or letters[place - 1] in "aeiouy"):
            letters[place] = "Y"
    return "".join(letters)


def _after(word: str, start: int, early: bool = False) -> int:
    """Where the region after the first consonant that follows a vowel begins."""
    found = (_EARLY.match(word) if early else None) or _REGION.search(word, start)
    return found.end() if found else len(word)


def _plural(word: str) -> str:
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith(("ied", "ies")):
        return word[:-2] if len(word) > 4 else word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")) and _VOWEL.search(word[:-2]):
        return word[:-1]
    return word


def _past(word: str, one: int) -> str:
    for suffix in ("eedly", "eed"):
        if word.endswith(suffix):
            return word[: -len(suffix)] + "ee" if len(word) - len(suffix) >= one else word
    for suffix in ("ingly", "edly", "ing", "ed"):
        if not word.endswith(suffix):
            continue
        base = word[: -len(suffix)]
        if not _VOWEL.search(base):
            return word
        if base.endswith(("at", "bl", "iz")):
            return base + "e"
        if base.endswith(("bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt")):
            return base[:-1]
        return base + "e" if one >= len(base) and _SHORT.search(base) else base
    return word


def _step_2(word: str, one: int) -> str:
    for suffix, new in _STEP_2:
        if not word.endswith(suffix):
            continue
        base = word[: -len(suffix)]
        fits = len(base) >= one
        if suffix == "ogi":
            fits = fits and base.endswith("l")
        if suffix == "li":
            fits = fits and base.endswith(tuple("cdeghkmnrt"))
        return base + new if fits else word
    return word


def _step_3(word: str, one: int, two: int) -> str:
    for suffix, new in _STEP_3:
        if word.endswith(suffix):
            base = word[: -len(suffix)]
            return base + new if len(base) >= (two if suffix == "ative" else one) else word
    return word


def _step_4(word: str, two: int) -> str:
    for suffix in _STEP_4:
        if word.endswith(suffix):
            base = word[: -len(suffix)]
            fits = len(base) >= two and (suffix != "ion" or base.endswith(("s", "t")))
            return base if fits else word
    return word


def _last(word: str, one: int, two: int) -> str:
    base = word[:-1]
    if word.endswith("e") and (len(base) >= two or (len(base) >= one and not _SHORT.search(base))):
        return base
    return base if word.endswith("ll") and len(base) >= two else word
