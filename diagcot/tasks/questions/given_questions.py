"""The questions that a collection itself asks, as samples of the tasks `binary`, `single`, `multi` and `open`.

Yes or no is `binary`, one right option `single`. Their options stay in the collection's order, so that figures compare
with those of others. Several right options are `multi`: the right set among other sets of the same options, with one
letter to answer. An answer in words, or a list, is `open`; what is not a finding counts as its own words.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from diagcot.data.study import Question
from diagcot.tasks.questions.context import QuestionContext, sentence_case
from diagcot.tasks.questions.label_questions import sets
from diagcot.tasks.questions.worked_answers import ClosedQuestion, Option, closed_sample, closed_samples, trace_step
from diagcot.tasks.samples import Sample
from diagcot.tasks.views import StudyView

_YES_NO = {"yes", "no"}


def task_of(question: Question) -> str:
    """The task of a question."""
    if not question.options:
        return "open"
    if len(question.answers) > 1:
        return "multi"
    return "binary" if {option.lower() for option in question.options} == _YES_NO else "single"


def given(task: str, context: QuestionContext, ref_name: str) -> Iterator[Sample]:
    """The questions of a task. context: its views show whole studies.

    A question about an image shows this image, another one all images of its study; one that compares studies shows those
    of the earlier study before. A question whose images are not all in the shard is not asked.
    """
    studies = {(view.study.dataset, view.study.id): view for view in context.views}
    asked = [
        (shown, question)
        for view in context.views
        for question in view.study.questions
        if task_of(question) == task and (shown := _shown(view, question, studies))
    ]
    if task == "open":
        yield from (_open(shown, question, context, ref_name) for shown, question in asked)
        return
    closed = [_closed(task, shown, question, context) for shown, question in asked]
    if task == "multi":
        yield from closed_samples(closed, ref_name, context.wording, context.seed)
        return
    for question, (_, original) in zip(closed, asked, strict=True):
        options = sorted(question.options, key=lambda option: original.options.index(option.text))
        yield closed_sample(question, options, ref_name, context.wording, context.seed)


def _shown(view: StudyView, question: Question, studies: Mapping[tuple[str, str], StudyView]) -> StudyView | None:
    images = tuple(image for image in view.images if question.image in ("", image[0].id))
    if question.earlier:
        earlier = studies.get((view.study.dataset, question.earlier))
        images = (*earlier.images, *images) if earlier and images else ()
    return StudyView(view.study, images, whole=not question.image) if images else None


def _closed(task: str, view: StudyView, question: Question, context: QuestionContext) -> ClosedQuestion:
    what, pick = _name(question), context.pick(view, _name(question))
    values = {"question": question.text}
    if task == "multi":
        options = sets(context, question.options, question.answers, pick)
        values["choices"] = ", ".join(question.options)
    else:
        [right] = question.answers
        reason = question.reason or context.wording.text("right_choice", pick, choice=right)
        wrong = (name for name in question.options if name != right)
        others = (Option(name, context.wording.text("wrong_choice", pick, choice=name)) for name in wrong)
        options = (Option(right, reason), *others)
    seen = question.reason if task == "multi" else ""
    look = context.wording.text("look", pick, seen=seen).strip()
    wording = "given_sets" if task == "multi" else "given"
    return ClosedQuestion(task, view, what, options, look, values, {"given": True}, wording)


def _open(view: StudyView, question: Question, context: QuestionContext, ref_name: str) -> Sample:
    pick, answer = context.pick(view, _name(question)), ", ".join(question.answers)
    seen = question.reason or context.wording.text("right_choice", pick, choice=sentence_case(answer.rstrip(" .")))
    steps = context.wording.text("given_steps", pick)
    prompt = context.wording.text("given_open", pick, question=question.text, steps=steps)
    trace = trace_step(context.wording.text("look", pick, seen=seen), answer)
    return view.sample("open", ref_name, prompt, trace, f"open:{_name(question)}", given=True)


def _name(question: Question) -> str:
    """Distinguishes the question from others about the same images."""
    return f"given:{hashlib.sha256(json.dumps(asdict(question)).encode()).hexdigest()[:12]}"
