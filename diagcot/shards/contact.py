"""A contact sheet: images of some shards with their boxes and labels, to look at before training."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from diagcot.data.errors import DataError
from diagcot.data.study import Image
from diagcot.shards.reader import Shard

SIDE, CAPTION, GAP, COLUMNS = 240, 46, 8, 6
GROUND, INK, DIM = (24, 24, 24), (235, 235, 235), (150, 150, 150)
COLOURS = ((255, 170, 0), (0, 200, 255), (255, 90, 120), (120, 230, 90), (200, 140, 255))


def draw(paths: Sequence[Path], count: int = 24, split: str | None = None, seed: int = 0) -> tuple[Pillow.Image, int]:
    """A sheet of up to `count` images, and their number.

    Half of the images have boxes, if the shards have enough of them. The same seed chooses the same images. Raises
    DataError when there is no image, and for a shard or an image that is damaged.
    """
    chosen = _chosen([Shard(path) for path in paths], split, count, seed)
    if not chosen:
        raise DataError(f"there is no image to show{f' in the split {split!r}' if split else ''}")
    columns = min(COLUMNS, len(chosen))
    lines = -(-len(chosen) // columns)
    step = SIDE + GAP
    sheet = Pillow.new("RGB", (columns * step + GAP, lines * (step + CAPTION) + GAP), GROUND)
    for place, (shard, row) in enumerate(chosen):
        line, column = divmod(place, columns)
        _thumbnail(sheet, GAP + column * step, GAP + line * (step + CAPTION), shard, row)
    return sheet, len(chosen)


def save(sheet: Pillow.Image, out: Path) -> None:
    """Write the PNG `out`, which only its owner may read. Raises OSError."""
    handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.fchmod(handle, 0o600)  # also where the file existed before
    with os.fdopen(handle, "wb") as file:
        sheet.save(file, "PNG")


def _chosen(shards: Sequence[Shard], split: str | None, count: int, seed: int) -> list[tuple[Shard, int]]:
    """Images by shard and row, in their order: up to half of them with boxes, then any others."""
    rng = np.random.default_rng(seed)
    rows = [shard.image_rows(split) for shard in shards]
    boxed = [np.isin(part, shard.numbers("boxes/image")) for part, shard in zip(rows, shards, strict=True)]
    order = rng.permutation(sum(map(len, rows)))
    with_boxes = order[np.concatenate(boxed)[order]][: count // 2] if boxed else order[:0]
    others = order[~np.isin(order, with_boxes)][: count - len(with_boxes)]
    starts = np.cumsum([0, *map(len, rows)])
    chosen = []
    for number in np.sort(np.concatenate([with_boxes, others])).tolist():
        k = int(np.searchsorted(starts, number, side="right")) - 1
        chosen.append((shards[k], int(rows[k][number - starts[k]])))
    return chosen


def _thumbnail(sheet: Pillow.Image, x: int, y: int, shard: Shard, row: int) -> None:
    image, study = shard.image(row), shard.study(shard.study_of(row))
    picture = shard.pixels(row)
    picture.thumbnail((SIDE, SIDE))
    left, top = x + (SIDE - picture.width) // 2, y + (SIDE - picture.height) // 2
    sheet.paste(picture, (left, top))
    pen = ImageDraw.Draw(sheet)
    small = ImageFont.load_default(11)
    _boxes(pen, image, left, top, picture.size, small)
    present = [name for name, value in study.labels.items() if value == 1]
    kind = " phantom" if image.phantom else ""
    lines = (
        (f"{shard.path.name} row {row} · {study.split} · {image.view or 'view unknown'}{kind}", DIM),
        (study.key, INK),
        (", ".join(present) or "no label present", INK),
    )
    for n, (line, colour) in enumerate(lines):
        pen.text((x, y + SIDE + 2 + 14 * n), _cut(pen, line, small), colour, small)


def _boxes(
    pen: ImageDraw.ImageDraw, image: Image, left: int, top: int, size: tuple[int, int], font: ImageFont.FreeTypeFont
) -> None:
    names = sorted({box.label for box in image.boxes})
    for box in image.boxes:
        colour = COLOURS[names.index(box.label) % len(COLOURS)]
        x1, x2 = (left + value * (size[0] - 1) for value in (box.x1, box.x2))
        y1, y2 = (top + value * (size[1] - 1) for value in (box.y1, box.y2))
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=2)
        pen.text((x1 + 3, y1 + 1), box.label, colour, font, stroke_width=2, stroke_fill=GROUND)


def _cut(pen: ImageDraw.ImageDraw, line: str, font: ImageFont.FreeTypeFont) -> str:
    """The line, shortened to the width of a thumbnail."""
    if pen.textlength(line, font) <= SIDE:
        return line
    while line and pen.textlength(line + "…", font) > SIDE:
        line = line[:-1]
    return line + "…"
