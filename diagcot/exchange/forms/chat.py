"""Rows of OpenAI's chat format: `messages`, whose content is a text or parts; images as parts with a `data:` address.

Source: platform.openai.com/docs/guides/vision-fine-tuning. Rows of TRL, whose `images` are a column of their own, are read
too (huggingface.co/docs/trl/dataset_formats).
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from diagcot.exchange.forms.form import MARK, Form, ImageFile, Turn, turns_of


def _turns(row: Mapping[str, Any]) -> list[Turn]:
    return turns_of(row["messages"], "role", "content")


def _row(turns: Sequence[tuple[str, str]], images: Sequence[ImageFile]) -> dict[str, Any]:
    waiting = iter(images)
    return {
        "messages": [
            {"role": role, "content": _parts(text, waiting) if role == "user" else text} for role, text in turns
        ]
    }


def _parts(text: str, images: Any) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for place, piece in enumerate(text.split(MARK)):
        if place:
            address = f"data:image/jpeg;base64,{base64.b64encode(next(images).data).decode()}"
            parts.append({"type": "image_url", "image_url": {"url": address}})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


def _row_of_trl(turns: Sequence[tuple[str, str]], images: Sequence[ImageFile]) -> dict[str, Any]:
    messages = []
    for role, text in turns:
        parts: list[dict[str, str | None]] = []
        for place, piece in enumerate(text.split(MARK) if role == "user" else [text]):
            parts += [{"type": "image", "text": None}] if place else []
            parts += [{"type": "text", "text": piece}] if piece else []
        messages.append({"role": role, "content": parts})
    return {"messages": messages, "images": [{"bytes": image.data, "path": image.path} for image in images]}


FORM = Form(columns=("messages",), turns=_turns, row=_row, about="metadata")
TRL = Form(columns=("messages",), turns=_turns, row=_row_of_trl)
