"""Worked examples of the conversations that a search holds, written by rule: what a model should have answered.

The right reading is the report itself, region by region; a wrong one is another patient's, as a whole or in one region.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diagcot.cot.filtration import judge
from diagcot.cot.search import prompts
from diagcot.cot.search.case import Case
from diagcot.cot.search.interleaved import told
from diagcot.data import seeded
from diagcot.tasks.prompts import report_answer
from diagcot.text import layout
from diagcot.text.options import RIGHT, WRONG

_REGIONS = {  # the region of a sentence: the first whose words occur in it; every other sentence is about the lungs
    "pleura": re.compile(r"effusion|pneumothora|pleura|costophrenic"),
    "devices": re.compile(r"pacemaker|catheter|\bline\b|\btube\b|device|\blead"),
    "heart": re.compile(r"heart|cardi|mediastin|aort"),
    "bones": re.compile(r"\bbon|osseous|\brib|spine|fracture|degenerative"),
}
_ORDER = ("heart", "lungs", "pleura", "bones", "devices")


@dataclass(frozen=True)
class Reading:
    """A report as a reader would come to it: what is seen in each region, and what it means."""

    regions: dict[str, str]  # region -> its sentences, in `_ORDER`
    impression: str

    @staticmethod
    def of(findings: str, impression: str) -> "Reading":
        said: dict[str, list[str]] = {}
        for sentence in _sentences(findings):
            region = next((name for name, words in _REGIONS.items() if words.search(sentence)), "lungs")
            said.setdefault(region, []).append(sentence)
        return Reading(
            {name: ". ".join(said[name]) for name in _ORDER if name in said}, ". ".join(_sentences(impression))
        )

    @property
    def findings(self) -> str:
        return ". ".join(self.regions.values())

    @property
    def report(self) -> str:
        return report_answer(self.findings, self.impression)

    @property
    def steps(self) -> list[tuple[str, str]]:
        return list(self.regions.items())

    @property
    def reasoning(self) -> str:
        lines = [f"i look at the {name}: {text}." for name, text in self.regions.items()]
        return "\n".join([*lines, f"so this means {self.impression}."])

    def unlike(self, other: "Reading") -> str:
        """The first region, or the impression, in which two readings differ; empty where they agree."""
        names = [name for name in _ORDER if self.regions.get(name) != other.regions.get(name)]
        return names[0] if names else ("impression" if self.impression != other.impression else "")

    def spoiled(self, other: "Reading") -> "Reading":
        """This reading with the other's view of the first region in which they differ, and the other's impression."""
        region = self.unlike(other)
        regions = {name: text for name, text in self.regions.items() if name != region}
        if region in other.regions:
            regions[region] = other.regions[region]
        return Reading({name: regions[name] for name in _ORDER if name in regions}, other.impression)


@dataclass(frozen=True)
class Lesson:
    """What the examples of one study are written from."""

    reference: str
    right: Reading
    wrong: Reading

    @property
    def head(self) -> str:
        return prompts.head(1, self.reference)

    @property
    def fault(self) -> str:
        return self.right.unlike(self.wrong)


def chance(*parts: str) -> float:
    """A fixed number in [0, 1) for these words."""
    return seeded.uniform(*parts, bits=48)


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<!\d)\.(?!\d)|\n", " ".join(text.lower().split())) if part.strip()]


def _thinking(reading: Reading, check: str, again: bool = False) -> str:
    rest = {
        "thinking": [{"title": title, "content": content} for title, content in reading.steps],
        "conclusion": reading.report,
    }
    return _json({"check": check} | rest if again else rest | {"check": check})


def _rethink(lesson: Lesson, sample_id: str) -> tuple[str, str]:
    strategy = prompts.STRATEGIES[int(chance(sample_id, "strategy") * len(prompts.STRATEGIES))]
    steps = [*lesson.wrong.steps, ("conclusion", lesson.wrong.report)]
    prompt = prompts.rethink(lesson.head, prompts.thinking_text(steps), strategy, f"the {lesson.fault} differs.")
    return prompt, _thinking(lesson.right, f"the {lesson.fault} was wrong.", again=True)


def _verify(lesson: Lesson, right: bool) -> tuple[str, str]:
    shown = lesson.right if right else lesson.wrong
    reason = "all agree." if right else f"the {lesson.fault} differs."
    return prompts.verify(lesson.head, shown.report), _json({"reason": reason, "verdict": right})


def _final(lesson: Lesson) -> tuple[str, str]:
    answer = {"findings": lesson.right.findings, "impression": lesson.right.impression}
    return prompts.final(lesson.head, lesson.right.reasoning), _json(answer)


def _judge(lesson: Lesson, right: bool) -> tuple[str, str]:
    shown = lesson.right if right else lesson.wrong
    one = {"reason": "it agrees." if right else f"the {lesson.fault} differs.", "score": 5 if right else 1}
    return judge.prompt(lesson.head, shown.reasoning, "Report", shown.report), _json(dict.fromkeys(judge.CRITERIA, one))


def _json(value: dict[str, Any]) -> str:
    """The one layout that the server's constraint allows: no white space between the parts."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


EXAMPLES: dict[str, Callable[[Lesson, str], tuple[str, str]]] = {
    "init": lambda lesson, _: (prompts.init(lesson.head), _thinking(lesson.right, "all agree.")),
    "verify_true": lambda lesson, _: _verify(lesson, True),
    "verify_false": lambda lesson, _: _verify(lesson, False),
    "rethink": _rethink,
    "label": lambda lesson, _: (prompts.label(lesson.head), _thinking(lesson.right, "all agree.")),
    "rewrite": lambda lesson, _: (
        prompts.rewrite(lesson.head, prompts.thinking_text(lesson.right.steps)),
        lesson.right.reasoning,
    ),
    "final": lambda lesson, _: _final(lesson),
    "judge_yes": lambda lesson, _: _judge(lesson, True),
    "judge_no": lambda lesson, _: _judge(lesson, False),
}


def pairs(case: Case, gold: str) -> tuple[str, str]:
    """The generation of an interleaved trace: its prompt, half of them with the answer given, and the gold trace."""
    head = prompts.head(len(case.images), case.guide, case.question)
    given = told(case) if chance(case.id, "told") < 0.5 else ""
    first, *middle, last = layout.pairs(gold)
    if "options" in case.meta:
        judged = {pair.answer[0]: _judged(pair) for pair in (first, *middle)}
        return prompts.closed(head, given), _json(judged | {"summary": last.think})
    weighed = [{"name": pair.answer.rstrip(f"{RIGHT}{WRONG} "), **_judged(pair)} for pair in middle]
    answer = {"observed": first.think, "weighed": weighed, "summary": last.think}
    return prompts.opened(head, given), _json(answer)


def _judged(pair: layout.Pair) -> dict[str, Any]:
    return {"think": pair.think, "right": pair.answer.endswith(RIGHT)}
