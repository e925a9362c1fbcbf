"""Exercises without an image: copying a text, reading the options of a question, and concluding from marked options.

Everything else that the suite asks a tiny model about a text, such as writing down a given report or naming the right
option, is made of these.
"""

import random
from collections.abc import Callable, Sequence

from diagcot.data import seeded
from diagcot.text.options import LETTERS, RIGHT, WRONG

WORDS = """
heart lung pleura rib spine aorta hilum apex base lobe fissure trachea diaphragm vessel node cavity border
shadow opacity nodule mass effusion edema atelectasis consolidation fracture granuloma scar density marking
silhouette line tube catheter wire clip lead stent left right upper lower middle small large mild moderate
severe normal clear stable new old patchy focal diffuse dense faint round linear hazy blunted enlarged
elevated tortuous calcified degenerative no not without is are was has there this that with and or of in at on
to from for the a an may could possible likely unchanged increased decreased seen noted present absent again
since prior study image view film chest patient side one two three four five area region change finding sign
size shape volume level contour position tip evidence acute chronic disease process infection failure surgery
pain cough fever care follow compare suggest show remain appear
""".split()  # noqa: SIM905  a list of strings would take 150 lines
"""Words of radiology reports and common words of English."""


def write(name: str, statements: Sequence[str], sample_id: str) -> tuple[str, str]:
    """(prompt, answer) of the exercise `name`. statements: sentences of a report, which half of the exercises use."""
    return WRITERS[name](statements, random.Random(seeded.rank("exercise", name, sample_id)))


def _phrase(rng: random.Random, least: int, most: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))


def _copy(statements: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """15 % are sentences of a report, the others words in random order: only copying predicts their next word."""
    if rng.random() < 0.15:
        text = " ".join(rng.sample(list(statements), min(rng.randint(1, 4), len(statements))))
    else:
        text = _phrase(rng, 3, 40)
    return f"Copy this text without any change: {text}", text


def _matching(_statements: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """Options are copied and each is followed by its letter: where the text was found, the letter stands before it.

    A model that has learned this together with copying soon names letters alone.
    """
    count = rng.randint(2, 6)
    options = _distinct([], count, lambda: _phrase(rng, 1, 3) if rng.random() < 0.5 else rng.choice(WORDS))
    listed = [*zip(LETTERS, options, strict=False)]
    asked = rng.sample(listed, count)
    texts = "; ".join(option for _, option in asked)
    answer = "; ".join(f"{option} {letter}" for letter, option in asked)
    return f"{_options(listed)}\nGive the letter of: {texts}", answer


def _letters(_statements: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """Options of one word, all asked: the simplest case of naming the letter before an option."""
    listed = [*zip(LETTERS, rng.sample(WORDS, rng.randint(2, 4)), strict=False)]
    asked = rng.sample(listed, len(listed))
    return _which(listed, asked), "; ".join(letter for letter, _ in asked)


def _choice(statements: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """Several options are asked at once, since one letter a conversation teaches little."""
    count = rng.randint(2, 6)
    known = [statement.rstrip(". ") for statement in statements]
    options = rng.sample(known, rng.randint(0, min(count, len(known))))
    options = _distinct(options, count, lambda: _phrase(rng, 1, 3))
    rng.shuffle(options)
    listed = [*zip(LETTERS, options, strict=False)]
    asked = rng.sample(listed, rng.randint(1, count))
    letters, texts = "; ".join(letter for letter, _ in asked), "; ".join(option for _, option in asked)
    if rng.random() < 0.7:
        return _which(listed, asked), letters
    return f"{_options(listed)}\nWhat does option {letters} say?", texts


def _marks(_statements: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """Options that were judged one by one, of which one is right: how an interleaved trace comes to its conclusion."""
    count = rng.randint(2, 6)
    options = _distinct([], count, lambda: _phrase(rng, 1, 3))
    right = rng.randrange(count)
    judged = rng.sample([*enumerate(zip(LETTERS, options, strict=False))], count)
    lines = [
        f"{letter}) {option}? {_phrase(rng, 3, 8)}. {letter}) {RIGHT if place == right else WRONG}"
        for place, (letter, option) in judged
    ]
    answer = f"In summary, the answer is {LETTERS[right]}) {options[right]}."
    return "\n".join(["Judged options:", *lines, "Which one is right?"]), answer


def _distinct(options: list[str], count: int, draw: Callable[[], str]) -> list[str]:
    """`options` and as many drawn ones as make `count`, each once."""
    found = dict.fromkeys(options)
    while len(found) < count:
        found[draw()] = None
    return list(found)


def _options(listed: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["Options:", *(f"{letter}) {option}" for letter, option in listed)])


def _which(listed: Sequence[tuple[str, str]], asked: Sequence[tuple[str, str]]) -> str:
    return f"{_options(listed)}\nWhich option says: {'; '.join(option for _, option in asked)}?"


WRITERS: dict[str, Callable[[Sequence[str], random.Random], tuple[str, str]]] = {
    "copy": _copy,
    "matching": _matching,
    "letters": _letters,
    "choice": _choice,
    "marks": _marks,
}
"""Name of an exercise -> its writer, from the sentences of a report and a random generator."""
