"""Question answering data of a shard for CX-Mind's curriculum, made from labels, boxes and reports, or asked by a
collection itself.

The task families are those of CX-Mind, arXiv:2508.03733. What is asked, how it is worded and where the right option
stands depend only on the seed and on the keys of the studies. The tasks of `CLOSED` and `progression` are closed
questions, whose answers the reward `closed` reads; `open` goes with the reward `open`, and `grounding` with `grounding`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from diagcot.data import seeded
from diagcot.tasks.languages import other_languages
from diagcot.tasks.questions import combined_questions, given_questions, image_questions, label_questions
from diagcot.tasks.questions.context import QuestionContext
from diagcot.tasks.questions.wording import GIVEN, TASKS, Share, Wording
from diagcot.tasks.questions.worked_answers import ClosedQuestion, closed_samples
from diagcot.tasks.samples import Sample
from diagcot.tasks.views import StudyView, ViewPolicy, study_views

if TYPE_CHECKING:
    from diagcot.shards.reader import Shard

CLOSED: dict[str, Callable[[QuestionContext], Iterator[ClosedQuestion]]] = {
    "binary": label_questions.binary,
    "single": label_questions.single_choice,
    "multi": label_questions.multiple_choice,
    "view": image_questions.projection,
    "matching": image_questions.matching,
    "combined": combined_questions.combined,
}
"""Task -> its questions, for the closed tasks that need the views of the chosen policy alone."""


OF_REPORTS = ("matching", "fg", "fg_i", "fs", "ig", "ig_i")
"""Tasks that show or ask for the text of a report; they use reports in English alone."""


def question_samples(
    shard: "Shard",
    ref_name: str,
    split: str,
    tasks: Mapping[str, Share],
    wording: Wording,
    seed: int,
    views: ViewPolicy,
) -> Iterator[Sample]:
    """The questions of a shard. tasks: task -> the share of the patients that it asks about.

    `ref_name` is the shard's path under the shards root. Raises ValueError for an unknown task.
    """
    unknown = sorted(set(tasks) - set(TASKS))
    if unknown:
        raise ValueError(f"unknown questions: {', '.join(unknown)}; known: {', '.join(TASKS)}")
    all_views, single_views = (list(study_views(shard, split, policy)) for policy in (views, "image"))
    foreign = other_languages(shard)
    wholes = list(study_views(shard, split, "study")) if shard.has_questions else []
    wholes = [view for view in wholes if view.study.dataset not in foreign]  # the frame of the prompt is English
    for task in TASKS:
        if tasks.get(task):
            usable = [view for view in all_views if task not in OF_REPORTS or view.study.dataset not in foreign]
            context = QuestionContext(_share(usable, task, tasks[task], seed), wording, seed)
            singles = _share(single_views, task, tasks[task], seed)
            for sample in _samples(task, shard, context, singles, ref_name, split):
                yield sample.with_meta(split=split)
            if task in GIVEN:
                own = QuestionContext(_share(wholes, task, tasks[task], seed), wording, seed)
                for sample in given_questions.given(task, own, ref_name):
                    yield sample.with_meta(split=split)


def _samples(
    task: str, shard: "Shard", context: QuestionContext, singles: Sequence[StudyView], ref_name: str, split: str
) -> Iterator[Sample]:
    if task in CLOSED:
        yield from closed_samples(list(CLOSED[task](context)), ref_name, context.wording, context.seed)
    elif task == "progression":
        questions = list(image_questions.progression(context, singles))
        yield from closed_samples(questions, ref_name, context.wording, context.seed)
    elif task == "open":
        yield from label_questions.open_ended(context, ref_name)
    elif task == "grounding":
        yield from image_questions.grounding(shard, context, ref_name, split)
    elif task == "grounding_pixels":
        yield from image_questions.grounding_pixels(context, singles, ref_name)
    else:
        yield from image_questions.report_part(task, context, ref_name)


def _share(views: Sequence[StudyView], task: str, share: Share, seed: int) -> list[StudyView]:
    """A fixed choice of whole patients, so that pairs of studies stay together."""
    first, last = share if isinstance(share, tuple) else (0.0, share)

    def rank(view: StudyView) -> int:
        return seeded.rank(seed, view.study.dataset, view.study.patient, task)

    return [view for view in views if first * 2**64 <= rank(view) < last * 2**64]
