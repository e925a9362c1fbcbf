"""Questions about images and reports: projection, image-report matching, progression, grounding, parts of a report.

The task families are those of CX-Mind, arXiv:2508.03733.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from diagcot.data import seeded
from diagcot.data.study import CHEXPERT_LABELS, Study, pairs
from diagcot.tasks.diagnosis import grounding_samples
from diagcot.tasks.prompts import report_answer
from diagcot.tasks.questions.context import NONE, QuestionContext, balanced, in_words, known_labels, present_labels
from diagcot.tasks.questions.worked_answers import ClosedQuestion, Option
from diagcot.tasks.samples import Sample
from diagcot.tasks.views import StudyView

if TYPE_CHECKING:
    from diagcot.shards.reader import Shard

PROJECTIONS = ("PA", "AP", "LATERAL")
COURSES = ("New", "Worse", "Unchanged", "Improved", "Resolved")
_WINDOW = 64  # studies among which a wrong report is searched
_NO_CHANGE = re.compile(
    r"\b(?:no|not|without)(?: \w+){0,2} (?:change\w*|increase\w*|decrease\w*|improvement|progression|worsening)\b"
)
_SINCE = r"(?:in|since|from|compared)"
_COURSE_WORDS = {  # "increased markings" describes an appearance, "increased since" a course
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


def projection(context: QuestionContext) -> Iterator[ClosedQuestion]:
    """The task `view`: PA, AP or lateral, each as often as the rarest of those in the shard."""
    groups: dict[str, list[StudyView]] = {}
    for view in context.views:
        for image in view.images:
            if image[0].view in PROJECTIONS:
                groups.setdefault(image[0].view, []).append(StudyView(view.study, (image,)))
    for name, views in balanced(groups, context.pick).items():
        for view in views:
            others = [other for other in PROJECTIONS if other != name]
            seen = context.wording.text("seen_from", 0, side="side" if name == "LATERAL" else "front")
            yield _question("view", context, view, name, others, seen)


def matching(context: QuestionContext) -> Iterator[ClosedQuestion]:
    """Whether a report belongs to an image; it does in half of the questions.

    A wrong report is that of another patient: among some dozens the one most alike in labels, but with other labels and
    another text.
    """
    ring = sorted(context.views, key=lambda view: context.pick(view, "ring"))
    ring = [view for view in ring if _report(view.study)]
    counts = {"Yes": 0, "No": 0}
    for number, view in enumerate(ring):
        text, right, stated = _report(view.study), "Yes", view.study
        if counts["No"] < counts["Yes"]:
            others = (ring[(number + step) % len(ring)].study for step in range(1, min(_WINDOW, len(ring))))
            candidates = (study for study in others if _differs(study, view.study))
            alike = max(candidates, key=_likeness(view.study), default=None)
            if alike is None:
                continue
            text, right, stated = _report(alike), "No", alike
        counts[right] += 1
        wrong = "No" if right == "Yes" else "Yes"
        seen = context.wording.text("compared", 0, image=_shown(view.study), report=_shown(stated))
        yield _question("matching", context, view, right, [wrong], seen, values={"report": text})


def progression(context: QuestionContext, single_views: Sequence[StudyView]) -> Iterator[ClosedQuestion]:
    """The course of a finding between two studies of a patient; no answer is more than twice as frequent as another.

    New and resolved follow from the labels of the two studies; worse, unchanged and improved from the words of the later
    report. Where these words name no course, or two, nothing is asked. single_views: one view for each image.
    """
    by_study: dict[str, list[StudyView]] = {}
    for view in single_views:
        by_study.setdefault(view.study.key, []).append(view)
    cases: dict[str, list[tuple[StudyView, str, str]]] = {}
    for before, after in pairs(views[0].study for views in by_study.values()):
        earlier, later = (_frontal(by_study[study.key]) for study in (before, after))
        both = StudyView(after, (*earlier.images, *later.images))
        for name, course in _courses(before, after, context):
            states = {"earlier": _state(context, before, name), "later": _state(context, after, name)}
            cases.setdefault(course, []).append((both, name, context.wording.text("course", 0, **states)))
    most = 2 * min(map(len, cases.values()), default=0)
    for course, group in sorted(cases.items()):
        group.sort(key=lambda case: seeded.rank(context.seed, case[0].study.key, case[1]))
        for view, name, seen in group[:most]:
            others = [other for other in COURSES if other != course]
            values = {"finding": in_words(name)}
            yield _question("progression", context, view, course, others, seen, name, values, {"label": name})


def _courses(before: Study, after: Study, context: QuestionContext) -> Iterator[tuple[str, str]]:
    """(label, its course) of the labels whose course between two studies is known."""
    was, evidence = known_labels(before.labels), context.evidence(after)
    for name, present in known_labels(after.labels).items():
        if name == NONE or name not in was:
            continue
        course = course_of(evidence.get(name, "")) if was[name] and present else ""
        if was[name] != present:
            course = "New" if present else "Resolved"
        if course:
            yield name, course


def course_of(sentence: str) -> str:
    """Worse, Improved or Unchanged, from a sentence in lower case; "" where it names no course, or several."""
    sentence = _NO_CHANGE.sub("unchanged", sentence)
    courses = [course for course, words in _COURSE_WORDS.items() if words.search(sentence)]
    return courses[0] if len(courses) == 1 else ""


def grounding(shard: "Shard", context: QuestionContext, ref_name: str, split: str) -> Iterator[Sample]:
    """Boxes with corners from 0 to 1000, for every label that the shard has boxes of."""
    keys = {view.study.key for view in context.views}
    labels = sorted({box.label for view in context.views for image, _ in view.images for box in image.boxes})
    for sample in grounding_samples(shard, ref_name, split, labels):
        if sample.study not in keys:
            continue
        pick = seeded.rank(context.seed, sample.id)
        prompt = context.wording.text("grounding", pick, finding=in_words(sample.meta["label"]))
        yield Sample(
            id=f"{sample.id}:asked",
            task="grounding",
            study=sample.study,
            images=sample.images,
            messages=(("user", prompt), ("assistant", sample.answer)),
            meta=sample.meta,
            dataset=sample.dataset,
        )


def grounding_pixels(context: QuestionContext, single_views: Sequence[StudyView], ref_name: str) -> Iterator[Sample]:
    """CX-Mind's layout `[x1, y1, x2, y2]`, in pixels of the image in the shard, for labels with exactly one box."""
    for view in single_views:
        image = view.images[0][0]
        for label in sorted({box.label for box in image.boxes}):
            boxes = [box for box in image.boxes if box.label == label]
            if len(boxes) != 1:
                continue
            box = boxes[0]
            corners = (box.x1 * image.width, box.y1 * image.height, box.x2 * image.width, box.y2 * image.height)
            answer = f"[{', '.join(str(round(corner)) for corner in corners)}]"
            prompt = context.wording.text(
                "grounding_pixels",
                context.pick(view, label),
                finding=in_words(label),
                width=image.width,
                height=image.height,
            )
            meta = {"label": label, "boxes": [[box.x1, box.y1, box.x2, box.y2]]}
            yield view.sample("grounding_pixels", ref_name, prompt, answer, f"grounding_pixels:{label}", **meta)


def report_part(task: str, context: QuestionContext, ref_name: str) -> Iterator[Sample]:
    """A part of a report from the image: fg and fg_i the findings; fs, ig and ig_i the impression.

    The prompts of fg_i and ig_i include the indication, that of fs the findings.
    """
    section = {"fg_i": "indication", "ig_i": "indication", "fs": "findings"}.get(task)
    for view in context.views:
        study = view.study
        answer = _line(study.findings if task.startswith("fg") else study.impression)
        values = {section: _line(getattr(study, section))} if section else {}
        # An answer that stands word for word in the prompt would be copied, not written.
        if not answer or not all(values.values()) or any(answer in text for text in values.values()):
            continue
        yield view.sample(task, ref_name, context.wording.text(task, context.pick(view, task), **values), answer, task)


def _question(
    task: str,
    context: QuestionContext,
    view: StudyView,
    right: str,
    others: Sequence[str],
    seen: str,
    what: str = "",
    values: Mapping[str, str] | None = None,
    meta: Mapping[str, str] | None = None,
) -> ClosedQuestion:
    pick = seeded.rank(context.seed, view.study.key, view.images[-1][0].id, right)
    wrong = (Option(name, context.wording.text("wrong_choice", pick, choice=name)) for name in others)
    options = (Option(right, context.wording.text("right_choice", pick, choice=right)), *wrong)
    return ClosedQuestion(task, view, what, options, seen, dict(values or {}), dict(meta or {}))


def _shown(study: Study) -> str:
    """The present labels of a study, in the order of CheXpert, as words."""
    present = [name for name in CHEXPERT_LABELS if name in present_labels(study) and name != NONE]
    return in_words(*present) if present else "no abnormal finding"


def _state(context: QuestionContext, study: Study, name: str) -> str:
    present = known_labels(study.labels)[name]
    return context.evidence(study).get(name, f"{in_words(name)} is {'present' if present else 'absent'}")


def _report(study: Study) -> str:
    return report_answer(study.findings, study.impression)


def _line(text: str) -> str:
    return " ".join(text.lower().split())


def _differs(study: Study, other: Study) -> bool:
    """True for studies of two patients with other labels and another text."""
    patients = study.patient != other.patient or study.dataset != other.dataset
    return patients and present_labels(study) != present_labels(other) and _report(study) != _report(other)


def _likeness(study: Study) -> Callable[[Study], float]:
    """Gives the Jaccard index of the present labels of another study with those of `study`."""
    own = present_labels(study)
    return lambda other: len(own & present_labels(other)) / max(1, len(own | present_labels(other)))


def _frontal(views: Sequence[StudyView]) -> StudyView:
    return next((view for view in views if view.images[0][0].frontal), views[0])
