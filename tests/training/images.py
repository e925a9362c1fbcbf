"""Small drawn images and their reports, for tests that need no shard."""

import io
import random
from pathlib import Path

from PIL import Image, ImageDraw

from diagcot.tasks.prompt_set import DEFAULT
from diagcot.tasks.samples import ImageRef, Sample, write_samples

SIDE = 112
_FINDINGS = (
    ("the heart is enlarged .", "heart size is normal ."),
    ("there is a left pleural effusion .", "no pleural effusion ."),
    ("an opacity is seen in the right upper lobe .", "the lungs are clear ."),
)


class DrawnImages:
    """Images whose content follows the bits of their row."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root

    def size(self, ref: ImageRef) -> tuple[int, int]:
        return SIDE, SIDE

    def pixels(self, ref: ImageRef) -> Image.Image:
        generator = random.Random(ref.row)
        image = Image.new("RGB", (SIDE, SIDE), (40 + generator.randrange(10),) * 3)
        pen = ImageDraw.Draw(image)
        radius = 30 if ref.row & 1 else 14
        pen.ellipse((56 - radius, 66 - radius, 56 + radius, 66 + radius), fill=(200, 200, 200))
        if ref.row & 2:
            pen.rectangle((70, 85, 112, 112), fill=(230, 230, 230))
        if ref.row & 4:
            pen.ellipse((10, 10, 40, 40), fill=(170, 170, 170))
        return image

    def jpeg(self, ref: ImageRef) -> bytes:
        data = io.BytesIO()
        self.pixels(ref).save(data, "JPEG", quality=95)
        return data.getvalue()


def report(row: int) -> str:
    return "findings : " + " ".join(pair[0 if row >> bit & 1 else 1] for bit, pair in enumerate(_FINDINGS))


def samples(count: int) -> list[Sample]:
    return [
        Sample(
            id=f"drawn/{row}/0:report",
            task="report",
            study=f"drawn/{row}",
            images=(ImageRef("drawn.h5", row),),
            messages=(("user", DEFAULT.render("report")), ("assistant", report(row))),
        )
        for row in range(count)
    ]


def write(root: Path, count: int) -> Path:
    """A samples stage's output root."""
    root.mkdir(parents=True, exist_ok=True)
    write_samples(root / "00000.jsonl", samples(count))
    return root
