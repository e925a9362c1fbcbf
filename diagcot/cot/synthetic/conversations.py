"""Synthetic conversations of the search, written by rule: prompts with the replies that a model should give.

The correct reading is the report itself, region by region; a wrong one is another patient's, entirely or in one region.
Where reasoning goes on from a wrong reading, it doubts it, looks again and corrects it.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from diagcot.cot.filtration import judge
from diagcot.cot.search import prompts
from diagcot.cot.search.interleaved import gold_answer
from diagcot.cot.search.sample import CoTSample
from diagcot.data import seeded
from diagcot.tasks.prompt_set import DEFAULT, PromptSet
from diagcot.tasks.prompts import report_answer, report_text
from diagcot.tasks.questions.worked_answers import without_option
from diagcot.text import layout
from diagcot.text.options import RIGHT, WRONG

_REGIONS = {  # region of a sentence: the first whose words occur in it; all other sentences are about the lungs
    "pleura": re.compile(r"effusion|pneumothora|pleura|costophrenic"),
    "devices": re.compile(r"pacemaker|catheter|\bline\b|\btube\b|device|\blead"),
    "heart": re.compile(r"heart|cardi|mediastin|aort"),
    "bones": re.compile(r"\bbon|osseous|\brib|spine|fracture|degenerative"),
}
_LOOKS = {  # region -> how the reasoning turns to it, in the order of the review
    "heart": "On the image I first look at the heart.",
    "lungs": "I follow both lungs from the top to the bottom.",
    "pleura": "I look along the pleura on both sides.",
    "bones": "I look at the bones.",
    "devices": "I look for devices.",
}
_TECHNIQUE = ("Technique", "This is a frontal image of good quality.")
_HOLDS = "I look at each region again, and the reading holds."
_SAME = "I see the same."
_AGREE = "All key findings agree."

Steps = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Reading:
    """A report as a reader would derive it: sentences with their regions, in the order of the report, and the impression."""

    sentences: tuple[tuple[str, str], ...]  # (region, sentence)
    impression: str

    @staticmethod
    def of(findings: str, impression: str) -> "Reading":
        """The reading of a report; its sentences are assigned to regions by their words."""
        return Reading(
            tuple((_region(sentence), sentence) for sentence in _sentences(findings)), " ".join(_sentences(impression))
        )

    @property
    def regions(self) -> dict[str, str]:
        """Region -> its sentences, in the order of the review."""
        texts = {name: " ".join(text for region, text in self.sentences if region == name) for name in _LOOKS}
        return {name: text for name, text in texts.items() if text}

    @property
    def findings(self) -> str:
        """The findings section."""
        return " ".join(text for _, text in self.sentences)

    @property
    def text(self) -> str:
        """The report as people write it: what a conclusion says."""
        return report_text(self.findings, self.impression)

    @property
    def answer(self) -> str:
        """The report in the layout of an answer."""
        return report_answer(self.findings, self.impression)

    @property
    def steps(self) -> list[tuple[str, str]]:
        """Reasoning steps (title, content)."""
        return [_TECHNIQUE, *((name.capitalize(), text) for name, text in self.regions.items())]

    @property
    def reasoning(self) -> str:
        """The reading as first-person prose."""
        return "\n".join([*self._seen(), _HOLDS, f"Taken together, this means: {self.impression}"])

    def differences(self, other: "Reading") -> list[str]:
        """The regions in which two readings differ, or the impression alone; empty if they agree."""
        ours, theirs = self.regions, other.regions
        names = [name for name in _LOOKS if ours.get(name) != theirs.get(name)]
        return names or (["impression"] if self.impression != other.impression else [])

    def with_error(self, other: "Reading") -> "Reading":
        """This reading with the other's findings in the first region in which they differ, and the other's impression."""
        region = self.differences(other)[0]
        wrong = [pair for pair in other.sentences if pair[0] == region]
        sentences: list[tuple[str, str]] = []
        for name in _LOOKS:
            sentences += wrong if name == region else [pair for pair in self.sentences if pair[0] == name]
        return Reading(tuple(sentences), other.impression)

    def second_look(self, wrong: "Reading", names: Sequence[str]) -> list[tuple[str, str]]:
        """(region, what a second look sees) for these regions, after a wrong reading."""
        ours, theirs = self.regions, wrong.regions
        return [
            (name, _SAME if ours.get(name) == theirs.get(name) else ours.get(name) or _absent(name)) for name in names
        ]

    def corrected(self, wrong: "Reading", names: Sequence[str]) -> str:
        """First-person prose that starts with a wrong reading, doubts it, and looks at these regions again."""
        first = [*wrong._seen(), f"My first impression is: {wrong.impression}"]
        again = [f"I look at the {name} again. {text}" for name, text in self.second_look(wrong, names)]
        last = f"So the corrected impression is: {self.impression}"
        return "\n".join([*first, _doubt(self, wrong), *again, last])

    def _seen(self) -> list[str]:
        lines = [f"{_LOOKS[name]} {text}" for name, text in self.regions.items()]
        return [_TECHNIQUE[1], *lines]


@dataclass(frozen=True)
class Material:
    """What the conversations about one study are written from."""

    sample_id: str
    correct: Reading
    wrong: Reading
    texts: PromptSet = DEFAULT

    @property
    def head(self) -> prompts.Head:
        """The common beginning of the prompts."""
        return prompts.head(1, self.correct.text, texts=self.texts)

    @property
    def strategy(self) -> str:
        """The strategy of the second attempt, by the sample's hash."""
        return prompts.STRATEGIES[int(chance(self.sample_id, "strategy") * len(prompts.STRATEGIES))]

    @property
    def again(self) -> list[str]:
        """The regions of the second attempt, as its strategy says: in another order, all, the wrong ones, or from the
        first wrong one on."""
        wrong = [name for name in self.correct.differences(self.wrong) if name != "impression"]
        names = [name for name in _LOOKS if name in self.correct.regions or name in wrong]
        if self.strategy == "new_paths":
            return names[::-1]
        if self.strategy == "verification" or not wrong:
            return names
        return wrong if self.strategy == "correction" else names[names.index(wrong[0]) :]

    @property
    def refuted(self) -> Steps:
        """The wrong reasoning with its conclusion."""
        return [*self.wrong.steps, ("Conclusion", self.wrong.text)]

    @property
    def new_steps(self) -> Steps:
        """The steps of the second attempt."""
        return [(name.capitalize(), text) for name, text in self.correct.second_look(self.wrong, self.again)]

    @property
    def doubt(self) -> str:
        """The check that begins the second attempt."""
        return _doubt(self.correct, self.wrong)

    @property
    def reasoning(self) -> str:
        """The natural reasoning after a second attempt, as the prompt set asks for it."""
        if self.texts.about.self_correction == "left out":
            return self.correct.reasoning
        return self.correct.corrected(self.wrong, self.again)

    def difference(self) -> str:
        """The reason of a refusal."""
        return f"The reading of {_listed(self.correct.differences(self.wrong))} differs."


def chance(*parts: str) -> float:
    """A fixed number in [0, 1) for these strings."""
    return seeded.uniform(*parts, bits=48)


def _sentences(text: str) -> list[str]:
    parts = (part.strip() for part in re.split(r"(?<!\d)\.(?!\d)|\n", " ".join(text.split())))
    return [f"{part[0].upper()}{part[1:]}." for part in parts if part]


def _region(sentence: str) -> str:
    return next((name for name, words in _REGIONS.items() if words.search(sentence.lower())), "lungs")


def _absent(region: str) -> str:
    """What a second look says where only the wrong reading had a finding."""
    return "No device is seen." if region == "devices" else "Nothing is seen there."


def _listed(names: Sequence[str]) -> str:
    *most, last = (f"the {name}" for name in names)
    return f"{', '.join(most)} and {last}" if most else last


def _doubt(correct: Reading, wrong: Reading) -> str:
    return f"Wait, on second look my reading of {_listed(correct.differences(wrong))} is wrong."


def _thinking(steps: Steps) -> list[dict[str, str]]:
    return [{"title": title, "content": content} for title, content in steps]


def _conclusion(reading: Reading) -> dict[str, str]:
    return {"findings": reading.findings, "impression": reading.impression}


def _init(material: Material) -> tuple[str, str]:
    correct = material.correct
    reply = {"thinking": _thinking(correct.steps), "conclusion": _conclusion(correct), "check": _HOLDS}
    return prompts.init(material.head, texts=material.texts), _json(reply)


def _rethink(material: Material) -> tuple[str, str]:
    thinking, reason = prompts.thinking_text(material.refuted), material.difference()
    prompt = prompts.rethink(material.head, thinking, material.strategy, reason, texts=material.texts)
    reply = {
        "check": material.doubt,
        "thinking": _thinking(material.new_steps),
        "conclusion": _conclusion(material.correct),
    }
    return prompt, _json(reply)


def _label(material: Material) -> tuple[str, str]:
    thinking, reason = prompts.thinking_text(material.refuted), material.difference()
    prompt = prompts.label(material.head, thinking, reason, texts=material.texts)
    return prompt, _json({"check": material.doubt, "thinking": _thinking(material.new_steps)})


def _verify(material: Material, correct: bool) -> tuple[str, str]:
    reading = material.correct if correct else material.wrong
    reason = _AGREE if correct else material.difference()
    prompt = prompts.verify(material.head, reading.text, texts=material.texts)
    return prompt, _json({"reason": reason, "verdict": correct})


def _rewrite(material: Material) -> tuple[str, str]:
    """Half of the reasoning was right at once, the other half was corrected."""
    conclusion = ("Conclusion", material.correct.text)
    if chance(material.sample_id, "rewrite") < 0.5:
        steps, reply = [*material.correct.steps, conclusion, ("Check", _HOLDS)], material.correct.reasoning
    else:
        steps = [*material.refuted, ("Check", material.doubt), *material.new_steps, conclusion]
        reply = material.reasoning
    own = prompts.head(1, "", texts=material.texts)
    return prompts.rewrite(own, prompts.thinking_text(steps), material.texts), reply


def _final(material: Material) -> tuple[str, str]:
    prompt = prompts.final(material.head, material.correct.reasoning, ("findings",), material.texts)
    return prompt, _json({"findings": material.correct.findings})


def _judge(material: Material, correct: bool) -> tuple[str, str]:
    reading, reasoning = material.correct, material.correct.reasoning
    if not correct:
        reading, reasoning = material.wrong, material.wrong.reasoning
    elif chance(material.sample_id, "judge") < 0.5:
        reasoning = material.reasoning
    first = material.correct.differences(material.wrong)[0]
    criterion = {
        "reason": _AGREE if correct else f"The reading of the {first} differs.",
        "score": 5 if correct else 1,
    }
    prompt = prompts.judge(material.head, reasoning, "Report", reading.answer, texts=material.texts)
    return prompt, _json(dict.fromkeys(judge.CRITERIA, criterion))


def _json(value: dict[str, Any]) -> str:
    """The only layout that the server's constraint allows: no white space between the parts."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


CONVERSATIONS: dict[str, Callable[[Material], tuple[str, str]]] = {
    "init": _init,
    "verify_true": lambda material: _verify(material, True),
    "verify_false": lambda material: _verify(material, False),
    "rethink": _rethink,
    "label": _label,
    "rewrite": _rewrite,
    "final": _final,
    "judge_yes": lambda material: _judge(material, True),
    "judge_no": lambda material: _judge(material, False),
}
"""Conversation -> its prompt and the reply. All but `closed` and `open` begin with the system message of the set."""


def pairs(sample: CoTSample, gold: str, texts: PromptSet = DEFAULT) -> tuple[str, str]:
    """The generation of an interleaved trace: its prompt, half of them with the given answer, and the gold trace as reply."""
    head = prompts.head(len(sample.images), sample.reference_report, sample.question, texts)
    answer_given = gold_answer(sample) if chance(sample.id, "told") < 0.5 else ""
    first, *middle, last = layout.pairs(gold)
    if "options" in sample.meta:
        look, thought = first.think.split("\n")
        assessments = {pair.answer[0]: _assessment(pair) for pair in (layout.Pair(thought, first.answer), *middle)}
        return prompts.closed_question(head, answer_given, texts), _json(
            {"look": look, **assessments, "summary": last.think}
        )
    hypotheses = [{"name": pair.answer.rstrip(f"{RIGHT}{WRONG} "), **_assessment(pair)} for pair in middle]
    reply = {"observed": first.think, "hypotheses": hypotheses, "summary": last.think}
    return prompts.open_question(head, answer_given, texts), _json(reply)


def _assessment(pair: layout.Pair) -> dict[str, Any]:
    return {"think": without_option(pair.think), "correct": pair.answer.endswith(RIGHT)}
