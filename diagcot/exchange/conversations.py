"""Rows of files become conversations: turns of text, with a mark in place of each image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diagcot.data.reports import controls
from diagcot.data.study import split_of
from diagcot.exchange.forms import alpaca, chat, problem, sharegpt, verl
from diagcot.exchange.forms.form import MARK, PAIR, Form, ImageFile, Turn, image_file
from diagcot.jobs.names import HALF, id_fault

FORMS: tuple[Form, ...] = (sharegpt.FORM, chat.FORM, alpaca.FORM, problem.FORM, verl.FORM)
"""The forms in the order in which a row is tried."""
ABOUT: Mapping[str, tuple[str, ...]] = {
    "id": ("id",),
    "dataset": ("dataset", "data_source"),
    "study": ("study", "study_id"),
    "patient": ("patient", "patient_id", "subject_id"),
    "split": ("split",),
    "task": ("task", "ability"),
}
"""What a row may say of itself -> the names of columns that say it."""


@dataclass(frozen=True)
class Conversation:
    """The turns of a row, its images in the order of their marks, what it says of itself (`ABOUT`), and further texts that
    are as right as its last one.
    """

    turns: tuple[tuple[str, str], ...]
    images: tuple[ImageFile, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)
    references: tuple[str, ...] = ()


def read(row: Any) -> Conversation:
    """The conversation of a row of any of `FORMS`. Raises ValueError that says what is wrong with it, without its text.

    Control tokens of models in its texts become plain text (`diagcot.data.reports.controls`). Images without any mark
    come before the first question.
    """
    if not isinstance(row, Mapping):
        raise ValueError("not an object")
    form = next((form for form in FORMS if all(row.get(name) is not None for name in form.columns)), None)
    if form is None:
        raise ValueError("has neither conversations, messages, problem, prompt, nor instruction and output")
    try:
        turns = _in_turn(row, form.turns(row))
    except (AttributeError, TypeError, LookupError):
        raise ValueError(f"its {' and '.join(form.columns)} are of other types than the form has") from None
    column = row.get("images") if row.get("images") is not None else row.get("image")
    given = [image_file(value) for value in (column if isinstance(column, Sequence) and not isinstance(column, str | bytes)
                                             else [] if column is None else [column])]  # fmt: skip
    texts: list[tuple[str, str]] = []
    places: list[ImageFile | None] = []
    for role, content in turns:
        text, found = _flat(role, content)
        texts.append((role, text))
        places += found
    if given and not places:
        first = next(number for number, (role, _) in enumerate(texts) if role == "user")
        texts[first] = ("user", MARK * len(given) + texts[first][1])
        places = [None] * len(given)
    if places.count(None) != len(given):
        raise ValueError(f"has {places.count(None)} {MARK} marks and {len(given)} images")
    if not all(text.strip() for _, text in texts):
        raise ValueError("has an empty turn")
    references = _references(row, form)
    if any(map(HALF.search, [*(text for _, text in texts), *references])):
        raise ValueError("a text holds half of a character, which is no text in UTF-8")
    column_images = iter(given)
    images = tuple(next(column_images) if image is None else image for image in places)
    return Conversation(tuple(texts), images, _about(row, form), references)


def _in_turn(row: Mapping[str, Any], turns: list[Turn]) -> list[Turn]:
    if row.get("system") and turns[0][0] != "system":
        turns = [("system", str(row["system"])), *turns]
    roles = [role for role, _ in turns if role != "system"]
    if not roles or roles != list(PAIR) * (len(roles) // 2) or any(role == "system" for role, _ in turns[1:]):
        raise ValueError("user and assistant do not take turns, with the assistant last")
    return turns


def _flat(role: str, content: Any) -> tuple[str, list[ImageFile | None]]:
    """The text of a turn with a mark for each image, and its images; None for one that a column of the row holds."""
    if isinstance(content, str):
        pieces = content.split(MARK) if role == "user" else [content]
        return MARK.join(map(controls.as_text, pieces)), [None] * (len(pieces) - 1)
    if not isinstance(content, list):
        raise ValueError("a turn is neither a text nor a list of parts")
    texts: list[str] = []
    images: list[ImageFile | None] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(controls.as_text(part["text"]))
        elif kind in ("image", "image_url") and role == "user":
            named = any(part.get(key) for key in ("image", "path", "url", "image_url", "bytes"))
            images.append(image_file(part) if named else None)
            texts.append(MARK)
        else:
            raise ValueError("has a part that is neither a text nor an image of the user")
    return "".join(texts), images


def _references(row: Mapping[str, Any], form: Form) -> tuple[str, ...]:
    inner = row.get(form.about)
    found = row.get("references", inner.get("references") if isinstance(inner, Mapping) else None)
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(text, str) and text.strip() for text in found):
        raise ValueError("its references are not a list of texts")
    return tuple(map(controls.as_text, found))


def _about(row: Mapping[str, Any], form: Form) -> dict[str, str]:
    inner = row.get(form.about)
    sources: list[Mapping[str, Any]] = [row, *([inner] if isinstance(inner, Mapping) else [])]
    found: dict[str, str] = {}
    for name, columns in ABOUT.items():
        values = (source.get(column) for source in sources for column in columns)
        value = next(
            (str(value).strip() for value in values if isinstance(value, str | int) and str(value).strip()), ""
        )
        if value:
            if why := id_fault(value):
                raise ValueError(f"its {name} {why}")
            found[name] = value
    if "split" in found:
        try:
            found["split"] = split_of(found["split"])
        except ValueError:
            raise ValueError("its split is none of train, validate and test") from None
    return found
