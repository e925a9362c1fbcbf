"""Options of closed questions, their order, and worked answers as interleaved traces.

The answers are written by rule from labels and from sentences of the report. The rewards of `diagcot.rewards.cxmind`
give them full marks: each option or hypothesis is judged once, all thoughts differ, and the last step concludes. The
first thought looks: it states what the image shows of everything that is judged after it. The thought about an option
begins with the option itself, so that letter and text stay together. What depends on other verdicts, such as No Finding,
is judged after them. So a model that writes from left to right can reason before it decides.
Source of the layout: CX-Mind, arXiv:2508.03733, and the reward code of github.com/SII-WenjieLisjtu/CX-Mind.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from diagcot.data import seeded
from diagcot.tasks.questions.wording import Wording
from diagcot.tasks.samples import Sample
from diagcot.tasks.views import StudyView
from diagcot.text.options import LETTERS, RIGHT, WRONG


@dataclass(frozen=True)
class Option:
    """The text of an option, and the thought that judges it."""

    text: str
    thought: str


@dataclass(frozen=True)
class ClosedQuestion:
    """A closed question before its options have an order. The first option is the right one."""

    task: str
    view: StudyView
    what: str  # distinguishes it from other questions of the task about the same images
    options: tuple[Option, ...]
    look: str  # what the image shows of everything that the options are about, in one line
    values: dict[str, Any] = field(default_factory=dict)  # of the wording's placeholders, except options and steps
    meta: dict[str, Any] = field(default_factory=dict)
    wording: str = ""  # the key of its wording, if that is not the task

    @property
    def key(self) -> str:
        """Names the question among all of a shard."""
        return f"{self.view.study.key}/{self.view.images[-1][0].id}:{self.task}:{self.what}"


_ABSENCE = re.compile(r"(?:no|none|neither)\b", re.IGNORECASE)
_OPTION = re.compile(rf"^[{LETTERS}]\) [^\n?]*\? ", re.MULTILINE)


def says_no(text: str) -> bool:
    """Whether an option or a hypothesis says that others do not apply, so that it depends on their verdicts."""
    return _ABSENCE.match(text) is not None


def judging_order(options: Sequence[str]) -> str:
    """Letters of the options in the order in which a trace judges them: those that say no, none or neither last."""
    return "".join(sorted(LETTERS[: len(options)], key=lambda letter: says_no(options[LETTERS.index(letter)])))


def closed_samples(questions: Sequence[ClosedQuestion], ref_name: str, wording: Wording, seed: int) -> Iterator[Sample]:
    """Closed questions as samples, with their options in order.

    Among the questions of a task with the same number of options, the right option takes each position equally often,
    to within one. Which question gets which position depends on the seed.
    """
    turns: dict[tuple[str, int], int] = {}
    for question in sorted(questions, key=lambda question: seeded.rank(seed, question.key)):
        group = (question.task, len(question.options))
        first = seeded.rank(seed, *group) % len(question.options)
        turns[group] = turns.get(group, first) + 1
        position = turns[group] % len(question.options)
        right, *others = question.options
        others.sort(key=lambda option: seeded.rank(seed, question.key, option.text))
        yield closed_sample(question, [*others[:position], right, *others[position:]], ref_name, wording, seed)


def closed_sample(
    question: ClosedQuestion, options: Sequence[Option], ref_name: str, wording: Wording, seed: int
) -> Sample:
    """A closed question as a sample, with its options in this order."""
    right, position = question.options[0], options.index(question.options[0])
    letters = LETTERS[: len(options)]
    option_lines = "\n".join(f"{letter}) {option.text}" for letter, option in zip(letters, options, strict=True))
    pick = seeded.rank(seed, question.key, "words")
    steps = wording.text("closed_steps", pick)
    prompt = wording.text(question.wording or question.task, pick, options=option_lines, steps=steps, **question.values)
    texts = [option.text for option in options]
    judged = [(letter, options[letters.index(letter)]) for letter in judging_order(texts)]
    thoughts = [with_option(letter, option.text, option.thought) for letter, option in judged]
    thoughts[0] = with_look(question.look, thoughts[0])
    trace = [
        trace_step(thought, f"{letter}) {RIGHT if option is right else WRONG}")
        for thought, (letter, option) in zip(thoughts, judged, strict=True)
    ]
    answer = f"{letters[position]}) {right.text}"
    trace.append(trace_step(wording.text("summary", pick, answer=answer), f"{letters[position]}) {RIGHT}"))
    what = f"{question.task}:{question.what}" if question.what else question.task
    meta = {"options": texts, "option": letters[position], **question.meta}
    return question.view.sample(question.task, ref_name, prompt, "\n".join(trace), what, **meta)


def open_trace(look: str, hypotheses: Sequence[tuple[str, str, bool]], summary: str) -> str:
    """The worked answer of an open question. hypotheses: (name, thought, whether it is true) of each."""
    names = ", ".join(name for name, _, _ in hypotheses)
    steps = [trace_step(look, f"Differential Diagnoses: [{names}]")]
    steps += [trace_step(thought, f"{name} {RIGHT if true else WRONG}") for name, thought, true in hypotheses]
    return "\n".join([*steps, trace_step(summary, ", ".join(name for name, _, true in hypotheses if true))])


def with_option(letter: str, text: str, thought: str) -> str:
    """A thought that begins with the option that it judges, as a question, so that it states nothing about the image."""
    return f"{letter}) {text}? {thought}"


def without_option(thought: str) -> str:
    """The thought without the option, or options, that its lines begin with."""
    return _OPTION.sub("", thought)


def with_look(look: str, thought: str) -> str:
    """The first thought of a closed question: a line on what the image shows, and a line on the first option."""
    return f"{look}\n{thought}"


def trace_step(thought: str, answer: str) -> str:
    """One step of an interleaved trace."""
    return f"<think>{thought}</think><answer>{answer}</answer>"
