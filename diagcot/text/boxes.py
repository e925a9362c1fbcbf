"""Boxes in text: `<box>(x1,y1),(x2,y2)</box>`, 0 to 1000, and CX-Mind's `[x1, y1, x2, y2]` in pixels."""

import re

from diagcot.data.study import Box

_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
_POINT = rf"\({_NUMBER},{_NUMBER}\)"
_OPENING = re.compile(r"<box>", re.IGNORECASE)
_BOX = re.compile(rf"<box>\s*{_POINT}\s*,?\s*{_POINT}\s*</box>", re.IGNORECASE)
_DENIAL = re.compile(r"\b(?:no|not|without|absence of)\b", re.IGNORECASE)
_DENIED = re.compile(
    r"\b(?:detected|seen|found|visible|present|identified|evident|regions?|findings?)\b", re.IGNORECASE
)
_SIGNED = r"\s*(-?\d+(?:\.\d+)?)\s*"
_PIXELS = re.compile(rf"\[{_SIGNED},{_SIGNED},{_SIGNED},{_SIGNED}\]")


def parse(text: str) -> list[Box]:
    """Boxes of a text in its order, corners as fractions of the image, 0 to 1.

    Coordinates are 0 to 1000, as in DiagCoT's RSNA data; if all four have a decimal point and are at most 1, they are
    fractions already. An opening tag without a well-formed box, or corners in the wrong order, give a box without area: it
    counts as claimed and can match nothing.
    """
    boxes = []
    for opening in _OPENING.finditer(text):
        match = _BOX.match(text, opening.start())
        if not match:
            boxes.append(Box("", 0.0, 0.0, 0.0, 0.0))
            continue
        numbers = [float(number) for number in match.groups()]
        fractions = all("." in number for number in match.groups()) and max(numbers) <= 1
        x1, y1, x2, y2 = (min(1.0, number if fractions else number / 1000) for number in numbers)
        boxes.append(Box("", x1, y1, x2, y2))
    return boxes


def claimed(answer: str) -> list[Box] | None:
    """Boxes that an answer claims: none if it says that there is nothing, None if it says neither."""
    boxes = parse(answer)
    return boxes if boxes or says_none(answer) else None


def says_none(text: str) -> bool:
    """True if a text has no box and states that there is nothing to find."""
    return not _OPENING.search(text) and any(map(_denies, re.split("[.<]", text)))


def _denies(sentence: str) -> bool:
    denial = _DENIAL.search(sentence)
    return denial is not None and _DENIED.search(sentence, denial.end()) is not None


def is_well_formed(box: Box) -> bool:
    """True if a parsed box has an area."""
    return box.x1 < box.x2 and box.y1 < box.y2


def parse_pixels(text: str) -> list[Box]:
    """Boxes `[x1, y1, x2, y2]` of a text in its order, corners in pixels."""
    corners = [[float(number) for number in numbers] for numbers in _PIXELS.findall(text)]
    return [Box("", x1, y1, x2, y2) for x1, y1, x2, y2 in corners]
