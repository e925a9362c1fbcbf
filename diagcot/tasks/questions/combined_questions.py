"""Questions whose answer is two steps from the pixels: findings, sides, sizes and zones that must be combined.

The facts come from the labels, the sentences of the report, and boxes of the frontal image where the report names no
side. What they leave open is not asked. This task is the suite's own; CX-Mind has none like it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from diagcot.data.reports.statements import Statement, statements
from diagcot.data.study import Box
from diagcot.tasks.questions.context import QuestionContext, balanced, in_words, known_labels
from diagcot.tasks.questions.worked_answers import ClosedQuestion, Option
from diagcot.tasks.views import StudyView

_SIDES = ("right", "left")
_LARGER = (
    1.5  # a box of at least this many times the area shows the larger effusion; smaller ratios are not asked about
)
_FOCAL = ("Lung Opacity", "Lung Lesion", "Consolidation", "Pneumonia", "Atelectasis")  # findings of a lung zone
_SIZES = {"small": 1, "mild": 1, "moderate": 2, "large": 3, "severe": 3}
_COUNTS = ("No zone", "One zone", "Two zones", "Three zones")


class Conclusion(NamedTuple):
    """The right option, and the intermediate findings from which it follows."""

    option: str
    reason: str


class _Facts:
    """What is known of a study and its frontal image."""

    def __init__(self, view: StudyView) -> None:
        study = view.study
        self.known = known_labels(study.labels)
        self.stated = statements(f"{study.findings}\n{study.impression}")
        self.boxes = [box for image, _ in view.images if image.frontal for box in image.boxes]

    def places(self, label: str) -> dict[str, str] | None:
        """Side -> the size in words ("" if unknown) of a finding; empty if it is absent, None if its sides are unknown."""
        if not self.known.get(label, True):
            return {}
        found = [one for one in self.stated if one.finding == label and one.status]
        if not self.known.get(label) or any(one.status == -1 for one in found):
            return None
        places: dict[str, str] = {}
        for one in found:
            for side in one.sides:
                if places.get(side) and one.degree and places[side] != one.degree:
                    return None  # two sizes of one finding
                places[side] = one.degree or places.get(side, "")
        return places or {_side(box): "" for box in self.boxes if box.label == label} or None

    def area(self, label: str, side: str) -> float:
        """The area of the boxes of a finding on one side, as a share of the image."""
        boxes = [box for box in self.boxes if box.label == label and _side(box) == side]
        return sum((box.x2 - box.x1) * (box.y2 - box.y1) for box in boxes)


def _side(box: Box) -> str:
    """The patient's side of a box on a frontal image: the patient's right is on the left of the image."""
    return "right" if box.x1 + box.x2 < 1 else "left"


def _larger_effusion(facts: _Facts) -> Conclusion | None:
    sizes = facts.places("Pleural Effusion")
    if not sizes:
        return None if sizes is None else Conclusion("No effusion", "Neither side has an effusion.")
    named = {side: " ".join(filter(None, ("a", size, "effusion"))) for side, size in sizes.items()}
    if len(sizes) == 1:
        [side] = sizes
        other = "left" if side == "right" else "right"
        named[side] = named[side].replace("a effusion", "an effusion")
        return Conclusion(side.capitalize(), f"The {side} side has {named[side]}, the {other} side has none.")
    right, left = (_SIZES.get(sizes[side], 0) or facts.area("Pleural Effusion", side) for side in _SIDES)
    by_words = all(sizes[side] in _SIZES for side in _SIDES)
    if by_words and right == left:
        return Conclusion("Equal on both sides", f"Each side has {named['right']}.")
    ratio = max(right, left) / max(min(right, left), 1e-9)
    if not by_words and (any(sizes.values()) or not ratio >= _LARGER or not min(right, left)):
        return None
    side = "right" if right > left else "left"
    reason = f"The right side has {named['right']}, the left side has {named['left']}."
    return Conclusion(side.capitalize(), reason if by_words else f"The effusion of the {side} side fills more of it.")


def _heart_and_fluid(facts: _Facts) -> Conclusion | None:
    heart, fluid = facts.known.get("Cardiomegaly"), facts.places("Pleural Effusion")
    if heart is None or fluid is None:
        return None
    both = len(fluid) == len(_SIDES)
    option = {(True, True): "Both", (True, False): "Only the heart", (False, True): "Only the fluid"}
    where = "on both sides" if both else f"on the {next(iter(fluid))} side only" if fluid else "on neither side"
    return Conclusion(option.get((heart, both), "Neither"), f"{_heart(heart)}. Fluid is {where}.")


def _heart_failure(facts: _Facts) -> Conclusion | None:
    heart = facts.known.get("Cardiomegaly")
    if heart is None:
        return None
    signs = {name: facts.known.get(name) for name in ("Edema", "Pleural Effusion")}
    if any(one.finding == "Clear Lungs" and one.status == 1 for one in facts.stated):
        signs["Edema"] = bool(signs["Edema"])
    present = [name for name, true in signs.items() if true]
    if not heart:  # with no sign at all, one look would be enough
        return Conclusion("No", f"{_heart(heart)}, so one of the two signs is missing.") if present else None
    if present:
        return Conclusion("Yes", f"{_heart(heart)}, and there is {in_words(*present)}.")
    if None in signs.values():
        return None
    return Conclusion("No", f"{_heart(heart)}, but there is no edema and no pleural effusion.")


def _abnormal_zones(facts: _Facts) -> Conclusion | None:
    found = [one for one in facts.stated if one.finding in _FOCAL and one.status]
    placed = [one for one in found if one.zone and one.sides]
    names = {one.finding for one in found}
    if any(one.status == -1 or not facts.known.get(one.finding) for one in found) or names != {
        one.finding for one in placed
    }:
        return None
    clear = all(facts.known.get(name) is False for name in _FOCAL)
    if not found and not clear and not any(one.finding == "Clear Lungs" for one in facts.stated):
        return None
    zones = sorted({f"{side} {one.zone}" for one in placed for side in one.sides}, key=_from_above)
    if len(zones) >= len(_COUNTS):
        return None
    reason = f"Abnormal zones: {', '.join(zones)}." if zones else "The lungs are clear in all six zones."
    return Conclusion(_COUNTS[len(zones)], reason)


def _device_side(facts: _Facts) -> Conclusion | None:
    devices = [one for one in facts.stated if one.finding == "Support Devices" and one.status == 1]
    places, air = {one.side for one in devices}, facts.places("Pneumothorax")
    if not facts.known.get("Support Devices") or places not in ({"left"}, {"right"}) or air is None or len(air) > 1:
        return None
    [side] = places
    name = _device(devices)
    if not air:
        return Conclusion("No pneumothorax", f"The {name} is on the {side}, and neither side has a pneumothorax.")
    [other] = air
    option = "Same side" if side == other else "Opposite side"
    return Conclusion(option, f"The {name} is on the {side}, the pneumothorax is on the {other}.")


def _heart(enlarged: bool) -> str:
    return f"The heart is {'' if enlarged else 'not '}enlarged"


def _from_above(zone: str) -> tuple[int, str]:
    return ("upper", "mid", "lower").index(zone.split()[1]), zone


def _device(devices: list[Statement]) -> str:
    return devices[0].device or "device"


@dataclass(frozen=True)
class Combination:
    """One kind of question: the labels that it is about, its options, and the rule that finds the right one."""

    labels: tuple[str, ...]
    options: tuple[str, ...]
    conclude: Callable[[_Facts], Conclusion | None]


COMBINATIONS: Mapping[str, Combination] = {
    "larger_effusion": Combination(
        ("Pleural Effusion",), ("Right", "Left", "Equal on both sides", "No effusion"), _larger_effusion
    ),
    "heart_and_fluid": Combination(
        ("Cardiomegaly", "Pleural Effusion"), ("Both", "Only the heart", "Only the fluid", "Neither"), _heart_and_fluid
    ),
    "heart_failure": Combination(("Cardiomegaly", "Edema", "Pleural Effusion"), ("Yes", "No"), _heart_failure),
    "abnormal_zones": Combination(_FOCAL, _COUNTS, _abnormal_zones),
    "device_side": Combination(
        ("Pneumothorax", "Support Devices"), ("Same side", "Opposite side", "No pneumothorax"), _device_side
    ),
}
"""Name of a wording -> the question with its rule."""


def combined(context: QuestionContext) -> Iterator[ClosedQuestion]:
    """The questions about frontal images; of each kind every answer equally often, chosen by rank."""
    for name, combination in COMBINATIONS.items():
        cases: dict[str, list[tuple[StudyView, str]]] = {}
        for view in context.views:
            if any(image.frontal for image, _ in view.images) and (found := combination.conclude(_Facts(view))):
                cases.setdefault(found.option, []).append((view, found.reason))
        for option, some in balanced(cases, lambda case: context.pick(case[0], "combined", name)).items():  # noqa: B023
            for view, reason in some:
                yield _question(context, view, name, option, reason)


def _question(context: QuestionContext, view: StudyView, name: str, right: str, reason: str) -> ClosedQuestion:
    pick, combination = context.pick(view, "combined", name), COMBINATIONS[name]
    known, evidence = known_labels(view.study.labels), context.evidence(view.study)
    # A focal finding that is not mentioned adds nothing to zones that are named.
    seen = [label for label in combination.labels if label in evidence or (label in known and label not in _FOCAL)]
    options = tuple(
        Option(option, context.wording.text("right_choice" if option == right else "wrong_choice", pick, choice=option))
        for option in sorted(combination.options, key=lambda option: option != right)
    )
    look = context.look(view.study, seen, pick, reason)
    return ClosedQuestion(
        "combined", view, name, options, look, {"question": context.wording.text(name, pick)}, {"combination": name}
    )
