"""Conversations about drawings of simple shapes: what a drawing shows, and where."""

from collections.abc import Iterator

from diagcot.data.study import Study
from diagcot.tasks.prompts import IMAGE, grounding_answer

DATASET = "drawings"
"""The collection of the drawings in a shard."""

TASKS = ("drawing", "drawing_boxes")
"""Names of the conversations: a description, and the boxes of one kind of shape."""

_DESCRIBE = IMAGE + "Describe this drawing."
_DETECT = IMAGE + "Detect the regions of {shape} in this drawing. Give each as <box>(x1,y1),(x2,y2)</box>, 0 to 1000."


def conversations(study: Study) -> Iterator[tuple[str, str, str]]:
    """(task, prompt, answer) of a drawing. Boxes are asked for one shape that it has."""
    yield "drawing", _DESCRIBE, study.findings
    boxes = study.images[0].boxes
    if boxes:
        shape = boxes[0].label
        found = [box for box in boxes if box.label == shape]
        yield "drawing_boxes", _DETECT.format(shape=shape), grounding_answer(shape, found)
