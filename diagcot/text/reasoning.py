"""A metric of a reasoning itself: is it true, does it consider what is there, does the answer follow from it.

A rule reads the statements (`diagcot.data.reports.facts`), in any task whose answer states findings; no model is needed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from diagcot.data.reports.facts import Facts, contradictions, same
from diagcot.data.reports.statements import Statement
from diagcot.metrics.reasoning import Reasoning
from diagcot.text import layout
from diagcot.text.facts import of_answer

TASKS = ("report", "classification", "grounding", "open")
"""The tasks that the metric reads."""

Unit = tuple[str, str]  # a finding, and a side or ""


NOTHING = Reasoning(0.0, 0.0, 0.0)
"""Of a reasoning that states nothing."""


def reasoning(think: Facts, answer: Facts, reference: Facts) -> Reasoning | None:
    """The figures of a reasoning and the answer after it; None where the reference states nothing.

    Statements are counted once for each finding and side, however often they are repeated. A denial counts where the
    reference speaks of the finding, so that denying all that nobody mentions gains nothing. Where the reference states a
    finding as present, completeness is about those; otherwise about what it denies.
    """
    if not reference.standing:
        return None
    if not think.standing:
        return NOTHING
    return Reasoning(_factuality(think, reference), _completeness(think, reference), _effectiveness(think, answer))


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


def _factuality(think: Facts, reference: Facts) -> float:
    supported: dict[Unit, bool] = {}
    for one in think.standing:
        if not one.status and not _mentioned(one, reference):
            continue
        true = not any(True for _ in contradictions(Facts((one,)), reference, general=True))
        for unit in _units([replace(one, status=1)]):
            supported[unit] = supported.get(unit, True) and true
    placed = {name for name, side in supported if side}
    whole = {name: true for (name, side), true in supported.items() if not side}
    counted = [true and whole.get(name, True) for (name, side), true in supported.items() if side or name not in placed]
    return sum(counted) / len(counted) if counted else 0.0


def _mentioned(one: Statement, reference: Facts) -> bool:
    return bool(reference.claims(one.name)) or any(other.name == one.name for other in reference.standing)


def _completeness(think: Facts, reference: Facts) -> float:
    there = _units(one for name in reference.present() for one in reference.claims(name) if one.status == 1)
    if there:
        here = _units(one for one in think.standing if one.status)
        return sum(_considered(unit, here) for unit in there) / len(there)
    denied = {(one.name, one.status) for one in reference.standing if one.status != -1}
    stated = {(one.name, one.status) for one in think.standing}
    return len(denied & stated) / len(denied) if denied else 0.0


def _considered(unit: Unit, here: frozenset[Unit], silent: float = 0.5) -> float:
    """1 for a finding on its side, `silent` for a finding without the side that is asked for, 0 for none."""
    name, side = unit
    sides = {other_side for other, other_side in here if same(other, name)}
    if not sides:
        return 0.0
    return 1.0 if not side or side in sides else silent if sides == {""} else 0.0


def _effectiveness(think: Facts, answer: Facts) -> float:
    if not answer.standing:
        return 0.0
    ours, theirs = (_units(one for one in facts.standing if one.status) for facts in (think, answer))
    if not ours and not theirs:
        return 1.0
    total = len(ours) + len(theirs)
    followed = sum(_considered(unit, theirs, silent=1.0) for unit in ours)  # an answer may leave a side out
    return (followed + sum(_considered(unit, ours) for unit in theirs)) / total


def _units(found: Iterable[Statement]) -> frozenset[Unit]:
    """(finding, side) of statements; a finding that has a side somewhere is not counted without one."""
    pairs = {(one.name, side) for one in found for side in one.sides or {""}}
    placed = {name for name, side in pairs if side}
    return frozenset((name, side) for name, side in pairs if side or name not in placed)
