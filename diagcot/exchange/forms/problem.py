"""Rows of EasyR1: `problem`, `answer` and `images`.

Source: hiyouga/EasyR1, verl/utils/dataset.py (prompt_key, answer_key and image_key of its configuration).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from diagcot.exchange.forms.form import Form, ImageFile, Turn, question_and_answer


def _turns(row: Mapping[str, Any]) -> list[Turn]:
    return [("user", row["problem"]), ("assistant", row["answer"])]


def _row(turns: Sequence[tuple[str, str]], images: Sequence[ImageFile]) -> dict[str, Any]:
    problem, answer = question_and_answer(turns)
    return {"problem": problem, "answer": answer, "images": [image.path for image in images]}


FORM = Form(columns=("problem", "answer"), turns=_turns, row=_row)
