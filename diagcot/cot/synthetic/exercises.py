"""Exercises without an image: copying a text, and reading the options of a question. A tiny model learns both here.

Everything else that the suite asks a model about a text, such as writing down a given report or naming the right option,
is made of these two.
"""

import random
from collections.abc import Callable, Sequence
from string import ascii_lowercase

from diagcot.data import seeded
from diagcot.text.options import LETTERS

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
    count = rng.randint(1, 6)
    if rng.random() < 0.5:
        chosen = rng.sample(list(statements), min(count, len(statements)))
    else:
        chosen = [_phrase(rng, 2, 10) for _ in range(count)]
    text = " ".join(f"{part.rstrip('. ')}." for part in chosen)
    return f"Copy this text without any change: {text}", text


def _letters(_statements: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """Letters that make no word: who copies those, copies anything."""
    words = ["".join(rng.choices(ascii_lowercase, k=rng.randint(1, 6))) for _ in range(rng.randint(2, 30))]
    return f"Copy this text without any change: {' '.join(words)}", " ".join(words)


def _choice(statements: Sequence[str], rng: random.Random) -> tuple[str, str]:
    count = rng.randint(2, 6)
    known = [statement.rstrip(". ") for statement in statements]
    options = rng.sample(known, rng.randint(0, min(count, len(known))))
    while len(options) < count:
        phrase = _phrase(rng, 1, 3)
        if phrase not in options:
            options.append(phrase)
    rng.shuffle(options)
    lines = "\n".join(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    letter, option = rng.choice([*zip(LETTERS, options, strict=False)])
    if rng.random() < 0.7:
        return f"Options:\n{lines}\nWhich option says: {option}?", letter
    return f"Options:\n{lines}\nWhat does option {letter} say?", option


WRITERS: dict[str, Callable[[Sequence[str], random.Random], tuple[str, str]]] = {
    "copy": _copy,
    "letters": _letters,
    "choice": _choice,
}
"""Name of an exercise -> its writer, from the sentences of a report and a random generator."""
