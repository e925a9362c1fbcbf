"""Options of closed questions, their order, and worked answers in the interleaved layout (method.md 7.3).

The answers are written by rule from labels and the sentences of the report. They are what the rewards of
`diagcot.rewards.cxmind` read: every option or hypothesis judged once, thoughts that all differ, and a last conclusion.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from diagcot.tasks.diagnosis import Shown
from diagcot.tasks.questions.wording import Words
from diagcot.tasks.samples import Sample

RIGHT, WRONG = "✅", "❌"
LETTERS = "ABCDEFG"


@dataclass(frozen=True)
class Option:
    """One option: what it says, and the thought that judges it."""

    text: str
    think: str


@dataclass(frozen=True)
class Draft:
    """A closed question before its options have an order. The first option is the right one."""

    task: str
    shown: Shown
    what: str  # what sets it apart from other questions of the task about the same films
    options: tuple[Option, ...]
    places: dict[str, Any] = field(default_factory=dict)  # of the wording, beside options and steps
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.shown.study.key}/{self.shown.films[-1][0].id}:{self.task}:{self.what}"


def chance(seed: int, *parts: str) -> int:
    """A number of 64 bits that is fixed for these words."""
    text = "\0".join((str(seed), *parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def arranged(drafts: Sequence[Draft], ref_name: str, words: Words, seed: int) -> Iterator[Sample]:
    """Closed questions with their options in order.

    Among the questions of a task with the same number of options, every place holds the right one equally often, to
    within one; which question gets which place is a matter of hashes.
    """
    met: dict[tuple[str, int], int] = {}
    for draft in sorted(drafts, key=lambda draft: chance(seed, draft.key)):
        group = (draft.task, len(draft.options))
        place = met[group] = met.get(group, chance(seed, *map(str, group)) % len(draft.options)) + 1
        yield _closed(draft, place % len(draft.options), ref_name, words, seed)


def _closed(draft: Draft, place: int, ref_name: str, words: Words, seed: int) -> Sample:
    right, *others = draft.options
    others.sort(key=lambda option: chance(seed, draft.key, option.text))
    options = [*others[:place], right, *others[place:]]
    letters = LETTERS[: len(options)]
    listed = "\n".join(f"{letter}) {option.text}" for letter, option in zip(letters, options, strict=True))
    pick = chance(seed, draft.key, "words")
    steps = words.say("closed_steps", pick)
    prompt = words.say(draft.task, pick, options=listed, steps=steps, **draft.places)
    pairs = [
        pair(option.think, f"{letter}) {RIGHT if option is right else WRONG}")
        for letter, option in zip(letters, options, strict=True)
    ]
    answer = f"{letters[place]}) {right.text}"
    pairs.append(pair(words.say("summary", pick, answer=answer), f"{letters[place]}) {RIGHT}"))
    texts = [option.text for option in options]
    what = f"{draft.task}:{draft.what}" if draft.what else draft.task
    meta = {"options": texts, "option": letters[place], **draft.meta}
    return draft.shown.sample(draft.task, ref_name, prompt, "\n".join(pairs), what, **meta)


def opened(observed: str, hypotheses: Sequence[tuple[str, str, bool]], summary: str) -> str:
    """The worked answer of an open question; hypotheses are (name, thought, whether it is true)."""
    names = ", ".join(name for name, _, _ in hypotheses)
    pairs = [pair(observed, f"Differential Diagnoses: [{names}]")]
    pairs += [pair(think, f"{name} {RIGHT if true else WRONG}") for name, think, true in hypotheses]
    return "\n".join([*pairs, pair(summary, ", ".join(name for name, _, true in hypotheses if true))])


def pair(think: str, answer: str) -> str:
    return f"<think>{think}</think><answer>{answer}</answer>"
