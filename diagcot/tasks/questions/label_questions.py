"""Questions about the labels of a study: binary, single choice, multiple choice, open (CX-Mind, arXiv:2508.03733).

Only known labels are asked about or offered (see `known_labels`). A label in doubt, or one that is not mentioned, is
neither asked about nor offered.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from diagcot.data import seeded
from diagcot.data.study import CHEXPERT_LABELS, Study
from diagcot.tasks.questions.context import NONE, PATHOLOGIES, QuestionContext, in_words, known_labels
from diagcot.tasks.questions.worked_answers import ClosedQuestion, Option, open_trace
from diagcot.tasks.samples import Sample
from diagcot.tasks.views import StudyView
from diagcot.text.options import LETTERS

HYPOTHESES = 3  # absent findings that an open question considers besides the present ones
_MOST_IN_SET = 6  # findings that a question of multiple choice is about
_WRONG_SETS = 4  # at most; a judgement for each of six would triple the length of a trace


def binary(context: QuestionContext) -> Iterator[ClosedQuestion]:
    """Yes or no about one finding; for each finding as many of either answer, chosen by rank."""
    cases: dict[tuple[str, bool], list[tuple[int, StudyView]]] = {}
    for view in context.views:
        for name, true in known_labels(view.study.labels).items():
            if name != NONE:
                cases.setdefault((name, true), []).append((context.pick(view, "binary", name), view))
    for name in CHEXPERT_LABELS:
        groups = [sorted(cases.get((name, true), []), key=lambda case: case[0]) for true in (True, False)]
        count = min(map(len, groups))
        for group, true in zip(groups, (True, False), strict=True):
            for pick, view in group[:count]:
                yes = Option("Yes", context.thought(name, true, context.evidence(view.study), pick))
                no = Option("No", context.wording.text("wrong_choice" if true else "right_choice", pick, choice="No"))
                options = (yes, no) if true else (no, yes)
                values, look = {"finding": in_words(name)}, context.look(view.study, [name], pick)
                yield ClosedQuestion("binary", view, name, options, look, values, {"label": name})


def single_choice(context: QuestionContext) -> Iterator[ClosedQuestion]:
    """One present finding, or none, among up to six absent ones that often occur with what is present.

    No Finding is always offered where it is known. It is right no more often than the most frequent finding, and it
    comes with as many other options as findings do. So neither its presence nor the number of options shows the answer.
    """
    with_finding: list[ClosedQuestion] = []
    without: list[ClosedQuestion] = []
    for view in context.views:
        study, labels = view.study, known_labels(view.study.labels)
        present = [name for name, true in labels.items() if true]
        absent = context.hardest_first(
            study, [name for name, true in labels.items() if not true and name != NONE], present
        )
        if not present or len(absent) < 2:
            continue
        pick = context.pick(view, "single")
        # Nothing else that is true is offered: no device next to No Finding, no second present finding.
        right = NONE if NONE in present else min(present, key=lambda name: seeded.rank(context.seed, pick, name))
        offered = [right, *([NONE] if NONE in labels and right != NONE else []), *absent][: len(LETTERS)]
        options, look = _choice(context, study, offered, pick)
        group = without if right == NONE else with_finding
        group.append(ClosedQuestion("single", view, "", options, look, meta={"label": right}))
    most = max(Counter(question.meta["label"] for question in with_finding).values(), default=0)
    without.sort(key=lambda question: seeded.rank(context.seed, question.key))
    sizes = sorted(len(question.options) for question in with_finding)
    yield from with_finding
    for question in without[:most]:
        size = sizes[seeded.rank(context.seed, question.key, "size") % len(sizes)]
        offered = [option.text for option in question.options[:size]]
        options, look = _choice(context, question.view.study, offered, context.pick(question.view, "single"))
        yield replace(question, options=options, look=look)


def _choice(
    context: QuestionContext, study: Study, offered: Sequence[str], pick: int
) -> tuple[tuple[Option, ...], str]:
    """The options of a single choice, the right one first, and the look at what they are about."""
    right, evidence = offered[0], context.evidence(study)
    found = [name for name, true in known_labels(study.labels).items() if true and name in PATHOLOGIES]
    found = [right] if right in found else found[:1]  # what refutes No Finding
    thoughts = {name: context.thought(name, name == right, evidence, pick) for name in offered}
    if NONE in offered:
        thoughts[NONE] = context.nothing(found, pick)
    look = context.look(study, {*offered, *found} if NONE in offered else offered, pick)
    return tuple(Option(name, thoughts[name]) for name in offered), look


def multiple_choice(context: QuestionContext) -> Iterator[ClosedQuestion]:
    """The set of present findings among other sets from the same list, for studies with two or more present."""
    for view in context.views:
        study = view.study
        labels = {name: true for name, true in known_labels(study.labels).items() if name != NONE}
        present = [name for name in CHEXPERT_LABELS if labels.get(name)][: _MOST_IN_SET - 1]
        absent = context.hardest_first(study, [name for name, true in labels.items() if not true], present)
        if len(present) < 2 or sum(labels.values()) > len(present) or not absent:
            continue
        pick = context.pick(view, "multi")
        choices = sorted([*present, *absent[: _MOST_IN_SET - len(present)]], key=CHEXPERT_LABELS.index)
        options = sets(context, choices, present, pick)
        values = {"findings": ", ".join(map(in_words, choices))}
        meta = {"labels_present": present, "labels_asked": choices}
        shown = context.wording.text("present_set", pick, findings=in_words(*present))
        look = context.look(study, choices, pick, shown)
        yield ClosedQuestion("multi", view, "", options, look, values, meta)


def sets(context: QuestionContext, choices: Sequence[str], right: Sequence[str], pick: int) -> tuple[Option, ...]:
    """The right set of choices and wrong ones as options, the right one first. choices: all names, in their order."""
    options = [Option(", ".join(right), context.wording.text("right_set", pick))]
    for chosen in _wrong_sets(choices, right, pick, context.seed):
        faults = {
            "missing": [name for name in right if name not in chosen],
            "surplus": [name for name in chosen if name not in right],
        }
        thoughts = [
            context.wording.text(key, pick, findings=in_words(*names)) for key, names in faults.items() if names
        ]
        options.append(Option(", ".join(chosen), " ".join(thoughts)))
    return tuple(options)


def _wrong_sets(choices: Sequence[str], present: Sequence[str], pick: int, seed: int) -> list[tuple[str, ...]]:
    """Up to `_WRONG_SETS` other sets, of three sizes, of which the size of the right set is not always the middle one."""
    least = max(1, len(present) - pick % 3)
    sets = [
        chosen
        for size in range(least, least + 3)
        for chosen in combinations(choices, size)
        if set(chosen) != set(present)
    ]
    return sorted(sets, key=lambda chosen: seeded.rank(seed, pick, *chosen))[:_WRONG_SETS]


def open_ended(context: QuestionContext, ref_name: str) -> Iterator[Sample]:
    """All present findings, or No Finding; for studies without a label in doubt.

    The worked answer considers the present findings and up to `HYPOTHESES` absent ones that often occur with them.
    """
    for view in context.views:
        study, labels = view.study, known_labels(view.study.labels)
        present = [name for name, true in labels.items() if true and name != "Support Devices"]
        if not present or -1 in study.labels.values():
            continue
        pick = context.pick(view, "open")
        absent = context.hardest_first(study, [name for name, true in labels.items() if not true], present)
        names = [*present, *(name for name in absent if name != "Support Devices")][: len(present) + HYPOTHESES]
        evidence = context.evidence(study)
        # In the order of the look, whatever is present; No Finding depends on all others and comes last.
        names.sort(key=lambda name: (name == NONE, CHEXPERT_LABELS.index(name)))
        found = [name for name in names if name in present and name != NONE]
        thoughts = {name: context.thought(name, name in present, evidence, pick) for name in names if name != NONE}
        thoughts[NONE] = context.nothing(found, pick)
        hypotheses = [(name, thoughts[name], name in present) for name in names]
        answer = ", ".join(name for name in names if name in present)
        summary = context.wording.text("summary", pick, answer=answer)
        prompt = context.wording.text("open", pick, steps=context.wording.text("open_steps", pick))
        trace = open_trace(context.look(study, names, pick), hypotheses, summary)
        yield view.sample("open", ref_name, prompt, trace, "open", labels_present=present, labels_weighed=names)
