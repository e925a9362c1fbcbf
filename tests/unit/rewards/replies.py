"""Random truths of every task with an honest partial answer each, and replies without merit."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from diagcot.data.phantom.findings import Findings
from diagcot.data.phantom.patients import sample
from diagcot.data.study import CHEXPERT_LABELS, Box
from diagcot.rewards.score import Reference
from diagcot.tasks import prompts
from diagcot.tasks.prompts import classification_answer, grounding_answer, reasoned, report_answer
from diagcot.text.options import LETTERS, RIGHT, WRONG

PATHOLOGIES = [name for name in CHEXPERT_LABELS if name != "No Finding"]
NORMAL_REPORT = report_answer(*Findings().report())
PROMPTS = "\n".join(str(text) for name, text in vars(prompts).items() if name.isupper() and isinstance(text, str))
NONSENSE = "blarg fliv quonk zimt vosk drilp"
SIGNS = (
    "denser than the other side",
    "blunt at its edge",
    "larger than half the chest",
    "sharp along its whole border",
)


@dataclass(frozen=True)
class Case:
    """A truth, an honest partial answer to it, and contents without merit; `shape` puts a content into the layout."""

    reference: Reference
    honest: tuple[str, ...]
    contents: Mapping[str, str]

    def attacks(self, honest: str) -> dict[str, str]:
        """Name -> reply: each content in the layout with a reasoning and without tags, and an honest reply misused."""
        found = {}
        for name, content in self.contents.items():
            found[name] = reasoned("the left base is denser than the right one", content)
            found[f"{name}, no tags"] = content
        return found | misused(honest)


EMPTY_CONTENTS = {
    "nothing": "",
    "punctuation": ". . , ; : - ! ?",
    "nonsense": NONSENSE,
    "the prompts": PROMPTS,
    "another language": "Das Herz ist vergrößert. La plèvre est normale. 心影增大，双肺清晰。",
    "tags in tags": "<think><answer><think></think></answer></think>",
    "very long": f"{NONSENSE} " * 800,
}


def misused(reply: str) -> dict[str, str]:
    """An honest reply with its reasoning emptied, its tags moved or nested, or its answers said again and again."""
    import re

    def thinks(new: Callable[[int], str]) -> str:
        numbers = iter(range(99))
        return re.sub(r"(?s)<think>.*?</think>", lambda _: f"<think>{new(next(numbers))}</think>", reply)

    first, last = reply.index("<answer>"), reply.rindex("</answer>") + len("</answer>")
    answer = reply[reply.rindex("<answer>") + len("<answer>") : last - len("</answer>")]
    return {
        "dots for reasoning": thinks(lambda number: "." * (number + 1)),
        "no reasoning": thinks(lambda number: ""),
        "one reasoning for all": thinks(lambda number: "so it is" if reply.count("<think>") > 1 else "it is"),
        "the same words again": thinks(lambda number: "so it is, " * 40 + str(number)),
        "answer before reasoning": f"{reply[first:last]}<think>so it seems to be here</think>",
        "nested tags": f"<think>{reply}</think>",
        "the answer many times": reply[: reply.rindex("<answer>")]
        + reasoned("so it seems here", "\n".join([answer] * 20)).partition("\n")[2],
    }


def classification(rng: random.Random) -> Case:
    """One to six labels, of which half are named."""
    truth = rng.sample(PATHOLOGIES, rng.randint(1, 6))
    half = classification_answer(truth[: (len(truth) + 1) // 2])
    contents = {
        "the template": classification_answer([""]),
        "all labels": classification_answer(PATHOLOGIES),
        "all labels but one": classification_answer([name for name in PATHOLOGIES if name != truth[0]]),
        "all labels and No Finding": classification_answer(CHEXPERT_LABELS),
        "No Finding": classification_answer([]),
        "everything denied": classification_answer([f"no {name}" for name in PATHOLOGIES]),
        "the truth refuted": classification_answer([f"{name} {WRONG}" for name in truth]),
        **EMPTY_CONTENTS,
    }
    why = "the heart is wide and the left base is dense"
    return Case(Reference(classification_answer(truth)), (reasoned(why, half),), contents)


def _box(rng: random.Random, size: float) -> Box:
    width, height = rng.uniform(0.08, 0.5), rng.uniform(0.08, 0.5)
    x, y = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return Box("", x * size, y * size, (x + width) * size, (y + height) * size)


def _half(box: Box) -> Box:
    """A box of IoU one half, and a little more where corners are rounded."""
    return replace(box, x2=box.x1 + 0.52 * (box.x2 - box.x1))


def grounding(rng: random.Random) -> Case:
    """No box to three boxes, each of which is found at an IoU of one half."""
    truth = [_box(rng, 1) for _ in range(rng.randint(0, 3))]
    grid = [Box("", x / 5, y / 5, (x + 1) / 5, (y + 1) / 5) for x in range(5) for y in range(5)]
    contents = {
        "the template": "The detected lung opacity regions are:",
        "boxes everywhere": grounding_answer("lung opacity", grid),
        "one box of all": grounding_answer("lung opacity", [Box("", 0, 0, 1, 1)]),
        "a box in the corner": grounding_answer("lung opacity", [Box("", 0, 0, 0.1, 0.1)]),
        "boxes of every size": grounding_answer("lung opacity", [Box("", 0, 0, s / 9, s / 9) for s in range(1, 10)]),
        "broken boxes": "<box>" * 20 + "<box>(1,2),(3</box>",
        "reversed corners": "<box>(900,900),(100,100)</box>",
        **({"none": grounding_answer("lung opacity", [])} if truth else {}),
        "no doubt of it": "There is no doubt that opacity is present in both lungs.",
        "not knowing": "I do not know what regions",
        "points without tags": "Opacity present at (100,100),(300,300), not detected elsewhere",
        **EMPTY_CONTENTS,
    }
    reply = reasoned("the left base is denser than the right", grounding_answer("lung opacity", [*map(_half, truth)]))
    return Case(Reference(grounding_answer("lung opacity", truth)), (reply,), contents)


def pixels(rng: random.Random) -> Case:
    """One box, which is found at an IoU of one half."""

    def text(*boxes: Box) -> str:
        return " ".join(f"[{b.x1:.0f}, {b.y1:.0f}, {b.x2:.0f}, {b.y2:.0f}]" for b in boxes)

    truth = _box(rng, 2000)
    grid = [Box("", x, y, x + 400, y + 400) for x in range(0, 2000, 400) for y in range(0, 2000, 400)]
    contents = {
        "boxes everywhere": text(*grid),
        "one box of all": text(Box("", 0, 0, 2000, 2000)),
        "reversed corners": text(Box("", 900, 900, 100, 100)),
        "the template": "[x1, y1, x2, y2]",
        "none": "there is none to be seen",
        **EMPTY_CONTENTS,
    }
    reply = reasoned("the left base is denser than the right", text(_half(truth)))
    return Case(Reference(text(truth)), (reply,), contents)


def report(rng: random.Random) -> Case:
    """A phantom's findings, of which half are reported: in the words of the reference, and in others."""
    shown = sample(np.random.default_rng(rng.randrange(10**9)))
    while shown == Findings():
        shown = sample(np.random.default_rng(rng.randrange(10**9)))
    names = [field.name for field in fields(shown) if getattr(shown, field.name) != field.default]
    kept = rng.sample(names, (len(names) + 1) // 2)
    half = replace(Findings(), **{name: getattr(shown, name) for name in kept})
    device = (
        "" if not half.device else f" a {half.device} is seen." if half.device != "line" else " a central line is seen."
    )
    seen = "" if half.normal else f" to be seen: {half.impression()}"
    truth = report_answer(*shown.report())
    sentence = next(
        text for name, text in shown.statements().items() if name not in ("heart", "effusion", "pneumothorax")
    )
    others = [report_answer(*sample(np.random.default_rng(seed)).report()) for seed in range(30)]
    contents = {
        "the template": "findings : . impression : .",
        "a normal report": NORMAL_REPORT,
        "normal": "normal chest",
        "all labels": report_answer(" . ".join(PATHOLOGIES), ", ".join(PATHOLOGIES)),
        "all labels, one sentence each": report_answer(" ".join(f"there is {n}." for n in PATHOLOGIES), "as above"),
        "everything in doubt": report_answer(" ".join(f"possible {name}." for name in PATHOLOGIES), "as above"),
        "everything denied": report_answer(
            " ".join(f"there is no {name}." for name in PATHOLOGIES), "no acute process"
        ),
        "a denial of the truth": report_answer(" ".join(map(_denied, shown.statements().values())), "no acute process"),
        "one statement many times": report_answer(f"{sentence} " * 30, f"{sentence} " * 10),
        "many reports": " ".join(others),
        **EMPTY_CONTENTS,
    }
    why = "the border of the heart and both bases were compared"
    honest = (reasoned(why, report_answer(*half.report())), reasoned(why, f"one film.{seen}{device}"))
    return Case(Reference(truth), honest, contents)


def _denied(sentence: str) -> str:
    words = (
        sentence.replace("there are", "there is")
        .replace("there is a ", "there is ")
        .replace("there is no ", "there is ")
    )
    return (
        words.replace("there is ", "there is no ")
        .replace("is in place", "is not seen")
        .replace("severely ", "not ")
        .replace("mildly ", "not ")
    )


def _step(think: str, answer: str) -> str:
    return f"<think>{think}</think><answer>{answer}</answer>"


def closed(rng: random.Random) -> Case:
    """Three to six options; the choice is right, with other reasons than the gold trace's and one wrong mark."""
    names = rng.sample(PATHOLOGIES, rng.randint(3, 6))
    letters, right = LETTERS[: len(names)], rng.randrange(len(names))
    signs = [rng.choice(SIGNS) for _ in names]

    def trace(think: Callable[[int], str], wrong: int = -1, chosen: int = right, letters_of: Sequence[int] = ()) -> str:
        marks = [RIGHT if (place == right) != (place == wrong) else WRONG for place in range(len(names))]
        steps = [_step(think(p), f"{letters[p]}) {marks[p]}") for p in letters_of or range(len(names))]
        return "\n".join([*steps, _step(f"so it is {names[chosen].lower()} after all", f"{letters[chosen]}) {RIGHT}")])

    def template(mark: Callable[[int], str]) -> str:
        steps = [_step(f"it is in any {names[p].lower()}", f"{letters[p]}) {mark(p)}") for p in range(len(names))]
        return "\n".join([*steps, _step("so it is this one", f"{letters[right]}) {RIGHT}")])

    gold = trace(lambda place: f"for {names[place].lower()} I look at the film: it is {signs[place]}")
    mistaken = (right + 1) % len(names)
    honest = trace(lambda place: f"{names[place].lower()} would be {signs[place]}, as this film shows", mistaken)
    other = (right + 1) % len(names)
    question = "Which is right?\n" + "\n".join(f"{letter}) {name}" for letter, name in zip(letters, names, strict=True))
    contents = {
        "the question": question,
        "all options": ", ".join(f"{letter}) {RIGHT}" for letter in letters),
        "all options wrong": "\n".join(_step(f"number {letter} is not it", f"{letter}) {WRONG}") for letter in letters),
        "another option": trace(lambda place: f"{names[place].lower()} would be {signs[place]}", chosen=other),
        "the right one refused": _step("this is not what I see", f"{letters[right]}) {WRONG}"),
        "both marks": _step("it may be this or not", f"{letters[right]}) {RIGHT}{WRONG}"),
        **EMPTY_CONTENTS,
    }
    knowing = {
        "marks alone": trace(lambda place: "." * (place + 1)),
        "marks and nonsense": trace(lambda place: " ".join(rng.sample(NONSENSE.split(), 4))),
        "every option refused and then chosen": template(lambda place: WRONG),
        "both marks on every option": template(lambda place: RIGHT + WRONG),
        "the right option alone": _step("this is what I see", f"{letters[right]}) {RIGHT}"),
        "only right marks": trace(lambda place: f"{place} is a number of this list", letters_of=[right]),
        "the same option again": trace(lambda place: f"option {place} it is", letters_of=[right] * 5),
    }
    return Traces(Reference(gold, tuple(names)), (honest,), contents, knowing)


def opened(rng: random.Random) -> Case:
    """One to three diseases among six hypotheses; all of the listed ones are right, but one step has the wrong mark."""
    names = rng.sample([name for name in PATHOLOGIES if name != "Support Devices"], 6)
    truth = names[: rng.randint(1, 3)]
    hypotheses = rng.sample(names, len(names))
    signs = {name: rng.choice(SIGNS) for name in names}

    def trace(think: Callable[[str], str], final: Sequence[str], wrong: str = "", about: Sequence[str] = ()) -> str:
        about = about or hypotheses
        steps = [_step("the whole film first: heart, lungs, bones", f"Differential Diagnoses: [{', '.join(about)}]")]
        steps += [_step(think(n), f"{n} {RIGHT if (n in truth) != (n == wrong) else WRONG}") for n in about]
        return "\n".join([*steps, _step("taking all of this together", ", ".join(final))])

    gold = trace(lambda name: f"for {name.lower()} I look at the film: it is {signs[name]}", truth)
    partial = truth[: (len(truth) + 1) // 2]
    extra = [name for name in names if name not in truth]
    honest = trace(
        lambda name: f"{name.lower()} would be {signs[name]}, as this film shows",
        partial if len(truth) > 1 else [*truth, extra[0]],
        rng.choice(extra),
    )
    contents = {
        "all labels": trace(lambda name: f"{name.lower()} is there as well", PATHOLOGIES),
        "all labels, a list": ", ".join(PATHOLOGIES),
        "No Finding": "No Finding",
        "nothing": trace(lambda name: f"{name.lower()} is not there", []),
        "everything denied": ", ".join(f"no {name}" for name in PATHOLOGIES),
        "nonsense refused": trace(lambda name: f"there is no {name} here", [], about=["zz", "yy"]),
        "the template": _step("observations", "Differential Diagnoses: []") + _step("summary", ""),
        **EMPTY_CONTENTS,
    }
    final = partial if len(truth) > 1 else [*truth, extra[0]]
    knowing = {
        "marks alone": trace(lambda name: "." * (hypotheses.index(name) + 1), final),
        "marks and nonsense": trace(lambda name: " ".join(rng.sample(NONSENSE.split(), 4)), final),
        "nothing refused": trace(lambda name: f"I know of {name.lower()}", final, about=truth),
        "nonsense refused, the truth named": trace(lambda name: f"number {name} is here", final, about=[*truth, "zz"]),
        "the list many times": trace(lambda name: f"I know of {name.lower()}", final * 20),
    }
    return Traces(Reference(gold), (honest,), contents, knowing)


@dataclass(frozen=True)
class Traces(Case):
    """A case whose replies are traces: contents that are traces already stay as they are."""

    knowing: Mapping[str, str]

    def attacks(self, honest: str) -> dict[str, str]:
        """As of a case, and replies that name what the honest one names without its reasons."""
        plain = {name: text for name, text in self.contents.items() if "<answer>" not in text}
        found = Case(self.reference, self.honest, plain).attacks(honest)
        return found | {name: text for name, text in self.contents.items() if name not in plain} | dict(self.knowing)


CASES: dict[str, Callable[[random.Random], Case]] = {
    "report": report,
    "classification": classification,
    "grounding": grounding,
    "grounding_pixels": pixels,
    "closed": closed,
    "open": opened,
}
