"""The metric of the reasoning for a model's whole output, in any task whose answer states findings."""

from collections.abc import Mapping
from typing import Any

from diagcot.data.reports.facts import Facts
from diagcot.metrics.reasoning import NOTHING, Reasoning, reasoning
from diagcot.text import layout
from diagcot.text.facts import of_answer

TASKS = ("report", "classification", "grounding", "open")
"""The tasks that the metric reads."""


def thought(output: str) -> str:
    """All thoughts of an output, in its order; empty if it has none."""
    pairs = layout.pairs(output)
    return "\n".join(pair.think for pair in pairs) if len(pairs) > 1 else layout.thinking(output)


def of_output(task: str, output: str, reference: str, about: Mapping[str, Any]) -> Reasoning | None:
    """The figures of an output's reasoning; zeros without one, None where the reference states nothing.

    reference: the gold answer. about: what the sample knows: `label`, which a grounding task asks for, and `labels` of the
    study, of which those in doubt may be present or absent.
    """
    name = str(about.get("label", ""))
    last = layout.last_answer if task == "open" else layout.first_answer
    gold = of_answer(task, reference, name)
    if not gold.standing:
        return None
    labels = about.get("labels", {}) if task in ("classification", "open") else {}
    doubtful = Facts.of_labels({label: value for label, value in labels.items() if value in (-1, 0)})
    known = Facts((*gold.standing, *doubtful.standing))
    think = thought(output)
    return reasoning(Facts.of(think), of_answer(task, last(output), name), known) if think else NOTHING
