"""Alpaca rows, as LLaMA-Factory reads them: `instruction`, `input`, `output`, `history`, `system`, `images`.

Source: hiyouga/LLaMA-Factory, data/README.md and src/llamafactory/data/converter.py.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from diagcot.exchange.forms.form import PAIR, Form, ImageFile, Turn


def _turns(row: Mapping[str, Any]) -> list[Turn]:
    question = "\n".join(str(row[name]) for name in ("instruction", "input") if row.get(name))
    history = [str(text) for pair in row.get("history") or () for text in pair]
    return [*zip(cycle(PAIR), history, strict=False), ("user", question), ("assistant", str(row["output"]))]


def _row(turns: Sequence[tuple[str, str]], images: Sequence[ImageFile]) -> dict[str, Any]:
    texts = [text for role, text in turns if role != "system"]
    return {
        "instruction": texts[-2],
        "input": "",
        "output": texts[-1],
        "history": [list(pair) for pair in zip(texts[:-2:2], texts[1:-2:2], strict=True)],
        "system": "".join(text for role, text in turns if role == "system"),
        "images": [image.path for image in images],
    }


FORM = Form(columns=("instruction", "output"), turns=_turns, row=_row)
