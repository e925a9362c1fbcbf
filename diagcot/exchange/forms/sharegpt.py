"""ShareGPT rows, as LLaMA-Factory reads them: `conversations` of `from` and `value`, `images`, `system`.

Source: hiyouga/LLaMA-Factory, data/README.md and src/llamafactory/data/converter.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from diagcot.exchange.forms.form import Form, ImageFile, Turn, turns_of

_NAMES = {"user": "human", "assistant": "gpt"}


def _turns(row: Mapping[str, Any]) -> list[Turn]:
    return turns_of(row["conversations"], "from", "value")


def _row(turns: Sequence[tuple[str, str]], images: Sequence[ImageFile]) -> dict[str, Any]:
    return {
        "conversations": [{"from": _NAMES[role], "value": text} for role, text in turns if role != "system"],
        "system": "".join(text for role, text in turns if role == "system"),
        "images": [image.path for image in images],
    }


FORM = Form(columns=("conversations",), turns=_turns, row=_row)
