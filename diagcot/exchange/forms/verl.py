"""Rows of verl: `prompt` as messages, `reward_model` with the answer, `images` with their bytes.

Source: volcengine/verl, examples/data_preprocess/geo3k.py and verl/utils/dataset/rl_dataset.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from diagcot.exchange.forms.form import Form, ImageFile, Turn, turns_of


def _turns(row: Mapping[str, Any]) -> list[Turn]:
    answer = row["answer"] if "answer" in row else (row.get("reward_model") or {}).get("ground_truth")
    prompt = row["prompt"]
    asked: list[Turn] = [("user", prompt)] if isinstance(prompt, str) else turns_of(prompt, "role", "content")
    return [*asked, ("assistant", answer if isinstance(answer, str) else "")]


def _row(turns: Sequence[tuple[str, str]], images: Sequence[ImageFile]) -> dict[str, Any]:
    return {
        "prompt": [{"role": role, "content": text} for role, text in turns[:-1]],
        "images": [{"bytes": image.data, "path": image.path} for image in images],
        "reward_model": {"style": "rule", "ground_truth": turns[-1][1]},
    }


FORM = Form(columns=("prompt",), turns=_turns, row=_row, about="extra_info")
