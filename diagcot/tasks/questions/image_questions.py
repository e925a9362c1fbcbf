"""Questions about films and reports: view, image-text matching, progression, grounding, parts of a report."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from diagcot.data.study import Image, Study, pairs
from diagcot.tasks.diagnosis import Shown, grounding_samples
from diagcot.tasks.prompts import report_answer
from diagcot.tasks.questions.label_questions import NONE, Weighing, known, spoken
from diagcot.tasks.questions.worked_answers import Draft, Option, chance
from diagcot.tasks.samples import Sample

if TYPE_CHECKING:
    from diagcot.shards.reader import Shard

VIEWS = ("PA", "AP", "LATERAL")
CHANGES = ("New", "Worse", "Unchanged", "Improved", "Resolved")
_WINDOW = 64  # studies among which a wrong report is looked for
_SAME = re.compile(
    r"\b(?:no|not|without)(?: \w+){0,2} (?:change\w*|increase\w*|decrease\w*|improvement|progression|worsening)\b"
)
_SINCE = r"(?:in|since|from|compared)"
_COURSE = {  # "increased markings" says how they look, "increased since" what has become of them
    "Worse": re.compile(
        rf"\b(?:wors\w+|(?:has|have) increased|increasing|increase in|increased {_SINCE}|interval increase|progress\w+"
        r"|larger|more (?:severe|extensive))\b"
    ),
    "Improved": re.compile(
        rf"\b(?:improv\w+|(?:has|have) decreased|decreasing|decrease in|decreased {_SINCE}|interval decrease|smaller"
        r"|resolving|clearing|less (?:severe|extensive))\b"
    ),
    "Unchanged": re.compile(r"\b(?:unchanged|stable|similar|persist\w*)\b"),
}


def view(weighing: Weighing) -> Iterator[Draft]:
    """PA, AP or lateral, as many of each as of the rarest that the shard has."""
    films: dict[str, list[Shown]] = {}
    for shown in weighing.shown:
        for film in shown.films:
            if film[0].view in VIEWS:
                films.setdefault(film[0].view, []).append(Shown(shown.study, (film,)))
    for name, mine in _levelled(films, weighing.seed).items():
        for shown in mine:
            others = [other for other in VIEWS if other != name]
            yield Draft("view", shown, "", _choices(weighing, shown, name, others))


def matching(weighing: Weighing) -> Iterator[Draft]:
    """Whether a report belongs to a film: half of them do. The others are another patient's, as alike in labels as any
    of some dozens, but not the same in labels or words."""
    ring = sorted(
        weighing.shown, key=lambda shown: chance(weighing.seed, shown.study.key, shown.films[0][0].id, "ring")
    )
    ring = [shown for shown in ring if _report(shown.study)]
    asked = {"Yes": 0, "No": 0}
    for number, shown in enumerate(ring):
        text, right = _report(shown.study), "Yes"
        if asked["No"] < asked["Yes"]:
            others = (ring[(number + step) % len(ring)].study for step in range(1, min(_WINDOW, len(ring))))
            alike = max((s for s in others if _differs(s, shown.study)), key=_likeness(shown.study), default=None)
            if alike is None:
                continue
            text, right = _report(alike), "No"
        asked[right] += 1
        other = "No" if right == "Yes" else "Yes"
        yield Draft("matching", shown, "", _choices(weighing, shown, right, [other]), {"report": text})


def progression(weighing: Weighing, films: Sequence[Shown]) -> Iterator[Draft]:
    """What has become of a finding between two studies of a patient; no answer more than twice as often as another.

    New and resolved follow from the labels of the two; worse, unchanged and improved from the words of the later
    report, and where these are silent or say two things nothing is asked. `films`: each film alone.
    """
    by_study: dict[str, list[Shown]] = {}
    for shown in films:
        by_study.setdefault(shown.study.key, []).append(shown)
    found: dict[str, list[tuple[Shown, str]]] = {}
    for before, after in pairs(shown[0].study for shown in by_study.values()):
        one, two = (_frontal(by_study[study.key]) for study in (before, after))
        both = Shown(after, (*one.films, *two.films))
        was, said = known(before.labels), weighing.evidence(after)
        for name, present in known(after.labels).items():
            if name == NONE or name not in was:
                continue
            course = _course(said.get(name, "")) if was[name] and present else ""
            if was[name] != present:
                course = "New" if present else "Resolved"
            if course:
                found.setdefault(course, []).append((both, name))
    most = 2 * min(map(len, found.values()), default=0)
    for course, mine in sorted(found.items()):
        mine.sort(key=lambda case: chance(weighing.seed, case[0].study.key, case[1]))
        for shown, name in mine[:most]:
            options = _choices(weighing, shown, course, [other for other in CHANGES if other != course])
            yield Draft("progression", shown, name, options, {"finding": spoken(name)}, {"label": name})


def grounding(shard: "Shard", weighing: Weighing, ref_name: str, split: str) -> Iterator[Sample]:
    """Boxes in the suite's own layout, 0 to 1000, for every label that the shard has boxes of."""
    keys = {shown.study.key for shown in weighing.shown}
    for sample in grounding_samples(shard, ref_name, split, _boxed(weighing)):
        if sample.study not in keys:
            continue
        pick = chance(weighing.seed, sample.id)
        prompt = weighing.words.say("grounding", pick, finding=spoken(sample.meta["label"]))
        yield Sample(
            id=f"{sample.id}:asked",
            task="grounding",
            study=sample.study,
            images=sample.images,
            messages=(("user", prompt), ("assistant", sample.answer)),
            meta=sample.meta,
        )


def grounding_pixels(weighing: Weighing, films: Sequence[Shown], ref_name: str) -> Iterator[Sample]:
    """CX-Mind's layout: `[x1, y1, x2, y2]` in pixels of the film in the shard, for labels with exactly one box."""
    for shown in films:
        image: Image = shown.films[0][0]
        for label in sorted({box.label for box in image.boxes}):
            mine = [box for box in image.boxes if box.label == label]
            if len(mine) == 1:
                box, size = mine[0], (image.width, image.height)
                corners = (box.x1 * size[0], box.y1 * size[1], box.x2 * size[0], box.y2 * size[1])
                answer = f"[{', '.join(str(round(corner)) for corner in corners)}]"
                pick = chance(weighing.seed, shown.study.key, image.id, label)
                prompt = weighing.words.say(
                    "grounding_pixels", pick, finding=spoken(label), width=size[0], height=size[1]
                )
                boxes = [[box.x1, box.y1, box.x2, box.y2]]
                what = f"grounding_pixels:{label}"
                yield shown.sample("grounding_pixels", ref_name, prompt, answer, what, label=label, boxes=boxes)


def report_part(task: str) -> Callable[[Weighing, str], Iterator[Sample]]:
    """fg and fg_i: the findings; fs, ig, ig_i: the impression; from the film, and the indication or the findings."""

    def samples(weighing: Weighing, ref_name: str) -> Iterator[Sample]:
        for shown in weighing.shown:
            study = shown.study
            answer = _line(study.findings if task.startswith("fg") else study.impression)
            given = {"fg_i": "indication", "ig_i": "indication", "fs": "findings"}.get(task)
            places = {given: _line(getattr(study, given))} if given else {}
            # A part that is said word for word in what is given would be copied, not written.
            if not answer or not all(places.values()) or any(answer in text for text in places.values()):
                continue
            pick = chance(weighing.seed, study.key, shown.films[0][0].id, task)
            yield shown.sample(task, ref_name, weighing.words.say(task, pick, **places), answer, task)

    return samples


def _choices(weighing: Weighing, shown: Shown, right: str, others: Sequence[str]) -> tuple[Option, ...]:
    pick = chance(weighing.seed, shown.study.key, shown.films[-1][0].id, right)
    wrong = (Option(name, weighing.words.say("wrong_choice", pick, choice=name)) for name in others)
    return Option(right, weighing.words.say("right_choice", pick, choice=right)), *wrong


def _levelled(groups: dict[str, list[Shown]], seed: int) -> dict[str, list[Shown]]:
    """As many of each group as the smallest has, chosen by hash; nothing where there is but one group."""
    if len(groups) < 2:
        return {}
    least = min(map(len, groups.values()))
    return {
        name: sorted(mine, key=lambda shown: chance(seed, shown.study.key, shown.films[0][0].id))[:least]
        for name, mine in sorted(groups.items())
    }


def _report(study: Study) -> str:
    return report_answer(study.findings, study.impression)


def _line(text: str) -> str:
    return " ".join(text.lower().split())


def _present(study: Study) -> frozenset[str]:
    return frozenset(name for name, value in study.labels.items() if value == 1)


def _differs(one: Study, two: Study) -> bool:
    others = one.patient != two.patient or one.dataset != two.dataset
    return others and _present(one) != _present(two) and _report(one) != _report(two)


def _likeness(study: Study) -> Callable[[Study], float]:
    mine = _present(study)
    return lambda other: len(mine & _present(other)) / max(1, len(mine | _present(other)))


def _frontal(shown: Sequence[Shown]) -> Shown:
    return next((one for one in shown if one.films[0][0].frontal), shown[0])


def _course(sentence: str) -> str:
    sentence = _SAME.sub("unchanged", sentence)
    said = [course for course, words in _COURSE.items() if words.search(sentence)]
    return said[0] if len(said) == 1 else ""


def _boxed(weighing: Weighing) -> list[str]:
    return sorted({box.label for shown in weighing.shown for image, _ in shown.films for box in image.boxes})
