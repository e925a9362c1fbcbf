"""Changed copies of images: where a bright rectangle goes, its box goes too."""

import io

import numpy as np
import pytest
from PIL import Image

from diagcot.data.study import Box
from diagcot.metrics import boxes
from diagcot.tasks import augmentation
from diagcot.tasks.prompts import grounding_answer
from diagcot.tasks.samples import ImageRef, Sample
from diagcot.text.boxes import parse

SIZE = (300, 200)
BOX = Box("Lung Opacity", 0.2, 0.5, 0.3, 0.8)
SAMPLE = Sample(
    "rsna/s/i:Lung Opacity", "grounding", "rsna/s", (ImageRef("a.h5", 3),),
    (("user", "<image>Where?"), ("assistant", grounding_answer("lung opacity", [BOX]))),
    {"label": "Lung Opacity", "boxes": [[BOX.x1, BOX.y1, BOX.x2, BOX.y2]], "patient": "rsna/p"},
)  # fmt: skip


@pytest.fixture
def image() -> bytes:
    pixels = np.full((SIZE[1], SIZE[0]), 90, np.uint8)
    pixels[round(BOX.y1 * 200) : round(BOX.y2 * 200), round(BOX.x1 * 300) : round(BOX.x2 * 300)] = 200
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95)
    return out.getvalue()


def seen(jpeg: bytes) -> Box:
    """The box around what is bright."""
    bright = np.asarray(Image.open(io.BytesIO(jpeg)).convert("L")) > 155
    ys, xs = np.nonzero(bright)
    return Box(BOX.label, xs.min() / 300, ys.min() / 200, (xs.max() + 1) / 300, (ys.max() + 1) / 200)


@pytest.mark.parametrize("change", augmentation.CHANGES)
def test_the_box_follows_the_image(image: bytes, change: str) -> None:
    changed = augmentation.augmented_jpeg(image, change)
    assert (
        changed != image
        and Image.open(io.BytesIO(changed)).size == SIZE
        and augmentation.augmented_jpeg(image, change) == changed
    )
    moved = augmentation.augmented_box(BOX, change, *SIZE)
    assert boxes.iou([seen(changed)], [moved])[0, 0] > 0.9
    turned = change.startswith(("rotate", "flip"))
    assert (boxes.iou([BOX], [moved])[0, 0] < 0.8) == turned


def test_a_box_at_the_edge_stays_on_the_image() -> None:
    for change in augmentation.CHANGES:
        moved = augmentation.augmented_box(Box("x", 0.0, 0.0, 0.1, 1.0), change, *SIZE)
        assert 0 <= moved.x1 < moved.x2 <= 1 and 0 <= moved.y1 < moved.y2 <= 1


def test_copies_of_what_has_boxes_alone() -> None:
    def size(ref: ImageRef) -> tuple[int, int]:
        return SIZE

    made = list(augmentation.augmented_copies(SAMPLE, 3, 7, size))
    assert (
        made == list(augmentation.augmented_copies(SAMPLE, 3, 7, size))
        and len({one.images[0].change for one in made}) == 3
    )
    for one in made:
        assert one.meta["patient"] == "rsna/p" and one.images[0].row == 3 and one.messages[0] == SAMPLE.messages[0]
        found, _ = parse(one.answer), one.meta["boxes"]
        assert [found[0].x1, found[0].y2] == pytest.approx([one.meta["boxes"][0][0], one.meta["boxes"][0][3]], abs=1e-3)
        assert Sample.from_json(one.to_json()) == one
    clear = SAMPLE.with_meta(boxes=[])
    assert not list(augmentation.augmented_copies(clear, 3, 7, size)) and "change" not in clear.to_json()
