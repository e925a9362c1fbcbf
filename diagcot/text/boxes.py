"""Boxes in text: `<box>(x1,y1),(x2,y2)</box>`, 0 to 1000, other styles of these, and CX-Mind's `[x1, y1, x2, y2]` in pixels."""

import re
from collections.abc import Sequence

from diagcot.data.study import Box

_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
_POINT = rf"\({_NUMBER},{_NUMBER}\)"
_OPENING = re.compile(r"<box>", re.IGNORECASE)
_BOX = re.compile(rf"<box>\s*{_POINT}\s*(?:,\s*)?{_POINT}\s*</box>", re.IGNORECASE)
_LOOSE = r"\s*(\d+(?:\.\d+)?|\.\d+)\s*"
_OTHER_STYLES = re.compile(
    rf"\({_LOOSE},{_LOOSE}\)\s*(?:,\s*)?\({_LOOSE},{_LOOSE}\)"
    rf"|(?:<box>|<\|box_start\|>|\"bbox_2d\"\s*:)\s*\[{_LOOSE},{_LOOSE},{_LOOSE},{_LOOSE}\]",
    re.IGNORECASE,
)
"""Two points, whatever is around them, as in Qwen2-VL's <|box_start|>(x1,y1),(x2,y2)<|box_end|>; or four numbers after a
mark, as in <box>[x1,y1,x2,y2]</box> and the bbox_2d of Qwen2.5-VL's and Qwen3-VL's JSON."""
_FOUND = r"(?:detected|seen|found|visible|present|identified|evident)"
_BETWEEN = r"(?:(?!\b(?:doubt|question|other|but|that|what)\b)[^:;()]){0,80}?"
_NONE = re.compile(
    rf"\b(?:no|none|without|absence of)\b{_BETWEEN}\b(?:{_FOUND}|regions?|findings?)\b"
    rf"|\bnot?\s+(?:be |been |clearly |definitely )?{_FOUND}\b",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(r"\b(?:else(?:where)?|other)\b", re.IGNORECASE)
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
        boxes.append(_box(match.groups()))
    return boxes


def _box(corners: Sequence[str]) -> Box:
    numbers = [float(number) for number in corners]
    fractions = all("." in number for number in corners) and max(numbers) <= 1
    x1, y1, x2, y2 = (min(1.0, number if fractions else number / 1000) for number in numbers)
    return Box("", x1, y1, x2, y2)


def claimed(answer: str) -> list[Box] | None:
    """Boxes that an answer claims: none if it says that there is nothing, None if it says neither."""
    boxes = parse(answer)
    return boxes if boxes or says_none(answer) else None


def claimed_in_any_style(answer: str) -> tuple[list[Box] | None, bool]:
    """Boxes that an answer claims, and whether they were read in another style than that of `parse`. Evaluation alone uses it.

    What `claimed` can read, a box with an area or a statement that there is none, is never read otherwise. In other styles
    coordinates mean the same, 0 to 1000 or fractions, since that is what was asked for.
    """
    strict = claimed(answer)
    if strict == [] or any(map(is_well_formed, strict or ())):
        return strict, False
    found = [_box([number for number in match.groups() if number]) for match in _OTHER_STYLES.finditer(answer)]
    return (found, True) if any(map(is_well_formed, found)) else (strict, False)


def says_none(text: str) -> bool:
    """True if a text has no box and states that there is nothing to find."""
    if _OPENING.search(text) or _OTHER_STYLES.search(text):
        return False
    return any(_NONE.search(sentence) and not _ELSEWHERE.search(sentence) for sentence in re.split("[.<]", text))


def is_well_formed(box: Box) -> bool:
    """True if a parsed box has an area."""
    return box.x1 < box.x2 and box.y1 < box.y2


def parse_pixels(text: str) -> list[Box]:
    """Boxes `[x1, y1, x2, y2]` of a text in its order, corners in pixels."""
    corners = [[float(number) for number in numbers] for numbers in _PIXELS.findall(text)]
    return [Box("", x1, y1, x2, y2) for x1, y1, x2, y2 in corners]
