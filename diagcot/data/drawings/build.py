"""The kind `drawings`: its only unit writes images, `drawings.csv` and `boxes.csv` under `<output>/tree`."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager

from diagcot.data.drawings import scene
from diagcot.data.drawings.settings import DrawingsSettings
from diagcot.jobs import Context, Result, Unit
from diagcot.jobs.state import reading
from diagcot.jobs.state.files import remove


@contextmanager
def prepare(ctx: Context) -> Iterator[DrawingsSettings]:
    """Read the settings; units share nothing else."""
    yield DrawingsSettings(**ctx.settings)


def run(unit: Unit, shared: DrawingsSettings, ctx: Context) -> Result | None:
    """Write the folder; an interrupted one is deleted and drawn again, which takes seconds."""
    final = ctx.output / unit.key
    staged = ctx.staged(final)
    (staged / "images").mkdir(parents=True)
    with (
        reading.written(staged / "drawings.csv", newline="") as images,
        reading.written(staged / "boxes.csv", newline="") as found,
    ):
        table, boxes = csv.writer(images), csv.writer(found)
        table.writerow(("image", "findings"))
        boxes.writerow(("image", "shape", "x1", "y1", "x2", "y2"))
        for number in range(shared.images):
            name = f"{number:06d}"
            shapes = scene.sample(ctx.seed, name)
            jpeg, corners = scene.draw(shapes, shared.size, ctx.seed, name)
            with reading.File(staged / "images" / f"{name}.jpg", "w") as file:
                file.write(jpeg)
            table.writerow((name, " ".join(shapes.sentences)))
            boxes.writerows((name, box.label, *(f"{value:.6f}" for value in box.corners)) for box in corners)
            ctx.progress(number + 1, shared.images)
            if ctx.stopping():
                remove(staged, ctx.output)
                return None
    return Result({final: staged}, {"images": shared.images})
