"""Over a data set of phantoms, no constant reply earns what a noisy honest model earns: each finding right with 0.6."""

import random
from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pytest

from diagcot.data.phantom.findings import Findings
from diagcot.data.phantom.patients import sample
from diagcot.data.study import Box
from diagcot.rewards import registry
from diagcot.rewards.names import GATED
from diagcot.rewards.score import Reference
from diagcot.tasks.prompts import classification_answer, grounding_answer, reasoned, report_answer
from diagcot.text.options import RIGHT, WRONG
from tests.unit.rewards.replies import PATHOLOGIES

RIGHT_WITH = 0.6
WHY = "the heart, both lungs and the pleura were looked at"
rng = random.Random(11)
PATIENTS = [sample(np.random.default_rng(seed)) for seed in range(120)]
OTHERS = [found for seed in range(900, 960) if (found := sample(np.random.default_rng(seed))) != Findings()]


def noisy(found: Findings) -> Findings:
    """Each finding with probability 0.6, otherwise missed; of a normal film another patient's findings in 0.4."""
    if found == Findings():
        return found if rng.random() < RIGHT_WITH else rng.choice(OTHERS)
    names = [field.name for field in fields(found) if getattr(found, field.name) != field.default]
    return replace(Findings(), **{name: getattr(found, name) for name in names if rng.random() < RIGHT_WITH})


def labels(found: Findings) -> list[str]:
    return [name for name, value in found.labels().items() if value == 1 and name != "No Finding"]


READINGS = [noisy(found) for found in PATIENTS]


def mean(name: str, mode: str, outputs: Sequence[str], answers: Sequence[str], most: bool = True) -> float:
    """Mean reward, with process and reason if `most`."""
    references = [Reference(answer) for answer in answers]
    scores = registry.reward(name, mode, references)(outputs, references)
    gated = name in GATED and most
    return float(np.mean([s["overall"] + (s["process"] + s["reason"] if gated else 0.0) for s in scores]))


def worse(name: str, mode: str, constants: Sequence[str], honest: Sequence[str], answers: Sequence[str]) -> None:
    for most in (False, True) if name in GATED else (True,):
        least = mean(name, mode, honest, answers, most)
        for constant in constants:
            value = mean(name, mode, [constant] * len(answers), answers, most)
            assert value < least, f"{name}/{mode}: {value:.3f}, honest {least:.3f}: {constant[:400]}"


def test_reports() -> None:
    answers = [report_answer(*found.report()) for found in PATIENTS]
    honest = [reasoned(WHY, report_answer(*found.report())) for found in READINGS]
    heart, effusion = Findings(heart="severe"), replace(Findings(), effusions=OTHERS[0].effusions)
    constants = [Findings(), heart, effusion, *OTHERS[:4]]
    texts = [report_answer(*found.report()) for found in constants] + ["normal chest", " ".join(answers[:20])]
    worse("report", "clinical", [reasoned(WHY, text) for text in texts], honest, answers)


def test_lists_of_labels() -> None:
    answers = [classification_answer(labels(found)) for found in PATIENTS]
    honest = [reasoned(WHY, classification_answer(labels(found))) for found in READINGS]
    often = sorted(PATHOLOGIES, key=lambda name: -sum(name in answer for answer in answers))
    lists = [[], PATHOLOGIES, *([name] for name in often[:6]), *(often[:count] for count in range(2, 8))]
    worse(
        "classification",
        "curriculum",
        [reasoned(WHY, classification_answer(names)) for names in lists],
        honest,
        answers,
    )


def shifted(box: Box) -> Box:
    """A box beside the true one, by up to a fifth of its sides."""
    x, y = (rng.uniform(-0.2, 0.2) * side for side in (box.x2 - box.x1, box.y2 - box.y1))
    return Box("", max(0, box.x1 + x), max(0, box.y1 + y), min(1, box.x2 + x), min(1, box.y2 + y))


def lung_box() -> Box:
    """A box of the usual size in one of the lungs."""
    x, y = rng.choice((0.1, 0.55)) + rng.uniform(0, 0.12), rng.uniform(0.1, 0.6)
    return Box("", x, y, x + rng.uniform(0.12, 0.25), y + rng.uniform(0.12, 0.3))


def test_boxes() -> None:
    truths = [[lung_box() for _ in range(rng.randint(1, 2))] if number % 2 else [] for number in range(200)]
    found = [[shifted(box) for box in truth] for truth in truths]
    honest = [right if rng.random() < RIGHT_WITH else [] if right else [lung_box()] for right in found]
    fixed = [[], [Box("", 0, 0, 1, 1)], [Box("", 0.1, 0.2, 0.35, 0.6)], [Box("", 0.6, 0.3, 0.8, 0.6)]]
    fixed += [[Box("", 0.12, 0.3, 0.32, 0.55), Box("", 0.6, 0.3, 0.8, 0.55)]]
    answers, replies, constants = (
        [grounding_answer("lung opacity", boxes) for boxes in group] for group in (truths, honest, fixed)
    )
    worse("grounding", "matched", [reasoned(WHY, t) for t in constants], [reasoned(WHY, t) for t in replies], answers)


def test_boxes_in_pixels() -> None:
    def text(box: Box) -> str:
        return f"[{box.x1 * 2000:.0f}, {box.y1 * 2000:.0f}, {box.x2 * 2000:.0f}, {box.y2 * 2000:.0f}]"

    truths = [lung_box() for _ in range(200)]
    honest = [shifted(box) if rng.random() < RIGHT_WITH else lung_box() for box in truths]
    fixed = [
        Box("", 0, 0, 1, 1),
        Box("", 0.12, 0.3, 0.35, 0.6),
        Box("", 0.6, 0.3, 0.8, 0.6),
        Box("", 0.2, 0.2, 0.8, 0.8),
    ]
    constants = [reasoned(WHY, text(box)) for box in fixed] + [reasoned(WHY, " ".join(map(text, truths[:10])))]
    worse("grounding_pixels", "matched", constants, [reasoned(WHY, text(b)) for b in honest], [*map(text, truths)])


def step(think: str, answer: str) -> str:
    return f"<think>{think}</think><answer>{answer}</answer>"


def judged(options: Sequence[str], right: int, verb: str) -> str:
    """A trace about single choice that takes the option at `right` for the right one."""
    steps = [
        step(f"{verb} {name.lower()} at place {place}", f"{'ABCDEFG'[place]}) {RIGHT if place == right else WRONG}")
        for place, name in enumerate(options)
    ]
    return "\n".join([*steps, step(f"so {options[right].lower()} is left", f"{'ABCDEFG'[right]}) {RIGHT}")])


@pytest.mark.parametrize("mode", ["checked", "paper"])
@pytest.mark.parametrize("count", [2, 4])
def test_closed_questions(mode: str, count: int) -> None:
    questions = [rng.sample(PATHOLOGIES, count) for _ in range(200)]
    places = [number % count for number in range(200)]
    answers = [judged(options, place, "I see or do not see") for options, place in zip(questions, places, strict=True)]
    chosen = [place if rng.random() < RIGHT_WITH else (place + 1) % count for place in places]
    honest = [judged(options, place, "looking for") for options, place in zip(questions, chosen, strict=True)]
    constants = [judged(questions[0], place, "looking for") for place in range(count)]
    constants += [step(WHY, f"{letter}) {RIGHT}") for letter in "ABCD"] + ["A", answers[0], answers[1]]
    worse("closed", mode, constants, honest, answers)


def listed(present: Sequence[str], weighed: Sequence[str], verb: str) -> str:
    """A trace about an open question that takes `present` for all that is there."""
    steps = [step(WHY, f"Differential Diagnoses: [{', '.join(weighed)}]")]
    steps += [step(f"{verb} {name.lower()} here", f"{name} {RIGHT if name in present else WRONG}") for name in weighed]
    return "\n".join([*steps, step("taking all together, the film is read", ", ".join(present) or "No Finding")])


def test_open_questions() -> None:
    truths, found = ([labels(one) for one in group] for group in (PATIENTS, READINGS))
    answers = [
        listed(truth, [*truth, *(n for n in PATHOLOGIES if n not in truth)][:6], "I look for") for truth in truths
    ]
    honest = [listed(own, [*own, *(n for n in PATHOLOGIES if n not in own)][:6], "searching") for own in found]
    often = sorted(PATHOLOGIES, key=lambda name: -sum(name in truth for truth in truths))
    lists = [[], *(often[:n] for n in range(1, 7)), PATHOLOGIES]
    constants = [
        listed(one, [*one, *(n for n in often if n not in one)][: max(6, len(one))], "searching") for one in lists
    ]
    worse("open", "checked", constants, honest, answers)
