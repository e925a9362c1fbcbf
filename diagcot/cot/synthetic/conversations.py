"""Synthetic conversations of the search, written by rule: prompts with the replies that a model should give.

The correct reading is the report itself, region by region; a wrong one is another patient's, entirely or in one region.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diagcot.cot.filtration import judge
from diagcot.cot.search import prompts
from diagcot.cot.search.interleaved import gold_answer
from diagcot.cot.search.sample import CoTSample
from diagcot.data import seeded
from diagcot.tasks.prompts import report_answer
from diagcot.text import layout
from diagcot.text.options import RIGHT, WRONG

_REGIONS = {  # region of a sentence: the first whose words occur in it; all other sentences are about the lungs
    "pleura": re.compile(r"effusion|pneumothora|pleura|costophrenic"),
    "devices": re.compile(r"pacemaker|catheter|\bline\b|\btube\b|device|\blead"),
    "heart": re.compile(r"heart|cardi|mediastin|aort"),
    "bones": re.compile(r"\bbon|osseous|\brib|spine|fracture|degenerative"),
}
_ORDER = ("heart", "lungs", "pleura", "bones", "devices")


@dataclass(frozen=True)
class Reading:
    """A report as a reader would derive it: the findings of each region, and the impression."""

    regions: dict[str, str]  # region -> its sentences, in `_ORDER`
    impression: str

    @staticmethod
    def of(findings: str, impression: str) -> "Reading":
        """The reading of a report; its sentences are assigned to regions by their words."""
        sentences: dict[str, list[str]] = {}
        for sentence in _sentences(findings):
            region = next((name for name, words in _REGIONS.items() if words.search(sentence)), "lungs")
            sentences.setdefault(region, []).append(sentence)
        return Reading(
            {name: ". ".join(sentences[name]) for name in _ORDER if name in sentences},
            ". ".join(_sentences(impression)),
        )

    @property
    def findings(self) -> str:
        """The findings section."""
        return ". ".join(self.regions.values())

    @property
    def report(self) -> str:
        """The report in the layout of an answer."""
        return report_answer(self.findings, self.impression)

    @property
    def steps(self) -> list[tuple[str, str]]:
        """Reasoning steps (region, findings)."""
        return list(self.regions.items())

    @property
    def reasoning(self) -> str:
        """The reading as first-person prose."""
        lines = [f"i look at the {name}: {text}." for name, text in self.regions.items()]
        return "\n".join([*lines, f"so this means {self.impression}."])

    def difference(self, other: "Reading") -> str:
        """The first region in which two readings differ, or `impression`; empty if they agree."""
        names = [name for name in _ORDER if self.regions.get(name) != other.regions.get(name)]
        return names[0] if names else ("impression" if self.impression != other.impression else "")

    def with_error(self, other: "Reading") -> "Reading":
        """This reading with the other's findings in the first region in which they differ, and the other's impression."""
        region = self.difference(other)
        regions = {name: text for name, text in self.regions.items() if name != region}
        if region in other.regions:
            regions[region] = other.regions[region]
        return Reading({name: regions[name] for name in _ORDER if name in regions}, other.impression)


@dataclass(frozen=True)
class Material:
    """What the conversations about one study are written from."""

    reference: str
    correct: Reading
    wrong: Reading

    @property
    def head(self) -> str:
        """The common beginning of the prompts."""
        return prompts.head(1, self.reference)

    @property
    def error_region(self) -> str:
        """The region in which the wrong reading differs."""
        return self.correct.difference(self.wrong)


def chance(*parts: str) -> float:
    """A fixed number in [0, 1) for these strings."""
    return seeded.uniform(*parts, bits=48)


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<!\d)\.(?!\d)|\n", " ".join(text.lower().split())) if part.strip()]


def _thinking(reading: Reading, check: str, check_first: bool = False) -> str:
    rest = {
        "thinking": [{"title": title, "content": content} for title, content in reading.steps],
        "conclusion": reading.report,
    }
    return _json({"check": check} | rest if check_first else rest | {"check": check})


def _rethink(material: Material, sample_id: str) -> tuple[str, str]:
    strategy = prompts.STRATEGIES[int(chance(sample_id, "strategy") * len(prompts.STRATEGIES))]
    steps = [*material.wrong.steps, ("conclusion", material.wrong.report)]
    prompt = prompts.rethink(
        material.head, prompts.thinking_text(steps), strategy, f"the {material.error_region} differs."
    )
    return prompt, _thinking(material.correct, f"the {material.error_region} was wrong.", check_first=True)


def _verify(material: Material, correct: bool) -> tuple[str, str]:
    reading = material.correct if correct else material.wrong
    reason = "all agree." if correct else f"the {material.error_region} differs."
    return prompts.verify(material.head, reading.report), _json({"reason": reason, "verdict": correct})


def _final(material: Material) -> tuple[str, str]:
    answer = {"findings": material.correct.findings, "impression": material.correct.impression}
    return prompts.final(material.head, material.correct.reasoning), _json(answer)


def _judge(material: Material, correct: bool) -> tuple[str, str]:
    reading = material.correct if correct else material.wrong
    criterion = {
        "reason": "it agrees." if correct else f"the {material.error_region} differs.",
        "score": 5 if correct else 1,
    }
    return judge.prompt(material.head, reading.reasoning, "Report", reading.report), _json(
        dict.fromkeys(judge.CRITERIA, criterion)
    )


def _json(value: dict[str, Any]) -> str:
    """The only layout that the server's constraint allows: no white space between the parts."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


CONVERSATIONS: dict[str, Callable[[Material, str], tuple[str, str]]] = {
    "init": lambda material, _: (prompts.init(material.head), _thinking(material.correct, "all agree.")),
    "verify_true": lambda material, _: _verify(material, True),
    "verify_false": lambda material, _: _verify(material, False),
    "rethink": _rethink,
    "label": lambda material, _: (prompts.label(material.head), _thinking(material.correct, "all agree.")),
    "rewrite": lambda material, _: (
        prompts.rewrite(material.head, prompts.thinking_text(material.correct.steps)),
        material.correct.reasoning,
    ),
    "final": lambda material, _: _final(material),
    "judge_yes": lambda material, _: _judge(material, True),
    "judge_no": lambda material, _: _judge(material, False),
}


def pairs(sample: CoTSample, gold: str) -> tuple[str, str]:
    """The generation of an interleaved trace: its prompt, half of them with the given answer, and the gold trace as reply."""
    head = prompts.head(len(sample.images), sample.reference_report, sample.question)
    answer_given = gold_answer(sample) if chance(sample.id, "told") < 0.5 else ""
    first, *middle, last = layout.pairs(gold)
    if "options" in sample.meta:
        look, thought = first.think.split("\n")
        assessments = {pair.answer[0]: _assessment(pair) for pair in (layout.Pair(thought, first.answer), *middle)}
        return prompts.closed_question(head, answer_given), _json({"look": look, **assessments, "summary": last.think})
    hypotheses = [{"name": pair.answer.rstrip(f"{RIGHT}{WRONG} "), **_assessment(pair)} for pair in middle]
    reply = {"observed": first.think, "hypotheses": hypotheses, "summary": last.think}
    return prompts.open_question(head, answer_given), _json(reply)


def _assessment(pair: layout.Pair) -> dict[str, Any]:
    return {"think": pair.think, "correct": pair.answer.endswith(RIGHT)}
