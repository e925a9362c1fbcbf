"""Question answering data of a shard for CX-Mind: every task by name, from labels, boxes and reports (method.md 7.2).

All is deterministic: what is asked, how it is worded and where the right option stands follow from the seed and the
keys of the studies. Tasks `binary`, `single`, `multi`, `view`, `matching` and `progression` are closed questions, whose
answers the reward `closed` reads; `open` goes with the reward `open`; `grounding` with `grounding`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from diagcot.tasks.diagnosis import Shown, Views, studies_shown
from diagcot.tasks.questions import image_questions, label_questions
from diagcot.tasks.questions.label_questions import Weighing
from diagcot.tasks.questions.wording import TASKS, Words
from diagcot.tasks.questions.worked_answers import Draft, arranged, chance
from diagcot.tasks.samples import Sample

if TYPE_CHECKING:
    from diagcot.shards.reader import Shard

CLOSED: dict[str, Callable[[Weighing], Iterator[Draft]]] = {
    "binary": label_questions.binary,
    "single": label_questions.single,
    "multi": label_questions.multi,
    "view": image_questions.view,
    "matching": image_questions.matching,
}


def ask(
    shard: "Shard", ref_name: str, split: str, tasks: Mapping[str, float], words: Words, seed: int, views: Views
) -> Iterator[Sample]:
    """The questions of a shard. tasks: task -> share (0 to 1) of the films or studies that it is asked about.

    `ref_name` is the shard's path under the shards root. Raises ValueError for an unknown task.
    """
    unknown = sorted(set(tasks) - set(TASKS))
    if unknown:
        raise ValueError(f"unknown questions: {', '.join(unknown)}; known: {', '.join(TASKS)}")
    shown, alone = (list(studies_shown(shard, split, policy)) for policy in (views, "image"))
    for task in TASKS:
        if tasks.get(task):
            weighing = Weighing(_share(shown, task, tasks[task], seed), words, seed)
            for sample in _asked(task, shard, weighing, _share(alone, task, tasks[task], seed), ref_name, split):
                yield sample.with_meta(split=split)


def _asked(
    task: str, shard: "Shard", weighing: Weighing, alone: Sequence[Shown], ref_name: str, split: str
) -> Iterator[Sample]:
    if task in CLOSED:
        yield from arranged(list(CLOSED[task](weighing)), ref_name, weighing.words, weighing.seed)
    elif task == "progression":
        yield from arranged(list(image_questions.progression(weighing, alone)), ref_name, weighing.words, weighing.seed)
    elif task == "open":
        yield from label_questions.open_question(weighing, ref_name)
    elif task == "grounding":
        yield from image_questions.grounding(shard, weighing, ref_name, split)
    elif task == "grounding_pixels":
        yield from image_questions.grounding_pixels(weighing, alone, ref_name)
    else:
        yield from image_questions.report_part(task)(weighing, ref_name)


def _share(shown: Sequence[Shown], task: str, share: float, seed: int) -> list[Shown]:
    """A fixed choice of whole patients, so that pairs of studies stay together."""
    return [one for one in shown if chance(seed, one.study.dataset, one.study.patient, task) < share * 2**64]
