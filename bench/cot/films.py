"""Shards of phantom films for the searches to read."""

from pathlib import Path

from diagcot.data.phantom.films import draw
from diagcot.data.phantom.patients import visits
from diagcot.data.pixels import Jpeg
from diagcot.data.study import Image, Study
from diagcot.shards.writer import ShardWriter


def write(path: Path, count: int, size: int, seed: int = 0, distinct: int = 10**9) -> Path:
    """A shard of `count` training studies with a frontal film of `size` pixels each; films repeat after `distinct`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = visits(min(count, distinct), seed)
    films = [
        Jpeg(draw(str(n), visit.findings, "PA", size, seed).jpeg(), size, size, True) for n, visit in enumerate(found)
    ]
    with ShardWriter(path) as writer:
        for n in range(count):
            findings, impression = found[n % len(found)].findings.report()
            image = Image(f"{seed}-{n:06d}", "PA", size, size, phantom=True)
            name = f"{seed}-{n:06d}"
            study = Study("phantom", name, name, "train", findings, f"{impression} film {n}.", images=(image,))
            writer.add(study, [films[n % len(films)]])
    return path
