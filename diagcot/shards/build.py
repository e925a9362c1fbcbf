"""The kind `shard`: unit k of K reads its part of every source, scales the images down and writes one shard."""

import hashlib
import json
import re
from collections import Counter, deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from diagcot.data.errors import ImageError
from diagcot.data.phantom.drawing import VIEWS
from diagcot.data.pixels import Jpeg, convert, libraries, transform
from diagcot.data.study import Study
from diagcot.jobs import Context, Result, Unit
from diagcot.jobs.state import reading
from diagcot.shards.partial import Bad, Converted, Partial
from diagcot.shards.settings import BuildSettings, Source, usable
from diagcot.shards.sources import CollectionReader, open_reader, phantom_images, studies
from diagcot.shards.writer import ShardWriter, code

_AHEAD = 4
"""Studies in flight for each thread; bounds memory, and the work that is lost at a stop."""
_ADDRESS = re.compile(
    r"<_io\.\w+ object at 0x[0-9a-f]+>"
)  # in Pillow's messages; without it the same input gives the same bytes


class ShardBuilder:
    """The opened readers, and a pool of threads that decode images (Pillow releases the interpreter's lock)."""

    def __init__(self, ctx: Context) -> None:
        self.settings = BuildSettings(**ctx.settings)
        self.readers: list[tuple[Source, CollectionReader]] = [
            (s, open_reader(s, self.settings, ctx)) for s in self.settings.sources
        ]
        self.pool = ThreadPoolExecutor(max(1, ctx.cpus))


@contextmanager
def prepare(ctx: Context) -> Iterator[ShardBuilder]:
    """Open the readers of all sources once for all units of the array task."""
    shared = ShardBuilder(ctx)
    with shared.pool:
        yield shared


def run(unit: Unit, shared: ShardBuilder, ctx: Context) -> Result | None:
    """Write `ctx.output/<key>.h5`.

    An image that cannot be used is named in the shard and in the stage's events and counted, or it ends the unit. An
    interrupted unit resumes after the studies whose images it had converted.
    """
    settings, part = shared.settings, int(unit.key)
    final = ctx.output / f"{unit.key}.h5"
    staged = ctx.staged(final)
    counts: Counter[str] = Counter(studies=0, images=0, phantoms=0, bad_images=0, studies_without_films=0, resumed=0)
    provenance = {
        "part": part,
        "parts": settings.shards,
        "image_size": settings.image_size,
        "jpeg_quality": settings.jpeg_quality,
        "seed": ctx.seed,
        "sources": [_origin(source, reader) for source, reader in shared.readers],
        "transform": transform(settings.image_size, settings.jpeg_quality),
        "libraries": libraries(),
    }
    total = sum(sum(r.patients().values()) for _, r in shared.readers) / settings.shards
    # Every part sees the same faults in the tables, so only part 0 reports these; each part reports those of its studies.
    reported = [len(reader.bad) if part else 0 for _, reader in shared.readers]
    # Phantoms are drawn from the report, which does not change within a run, so the digest need not contain it.
    partial = Partial(
        ctx, unit, hashlib.sha256(json.dumps([provenance, code()], sort_keys=True).encode()).hexdigest()[:16]
    )
    with closing(partial), ShardWriter(staged, **provenance) as writer:
        with closing(_converted(shared, part, ctx, partial, counts)) as converted:
            for study, jpegs, bad in converted:
                for image, path, reason in bad:
                    what = f"{study.key}/{image} ({path}): {reason}"
                    if settings.on_bad_image == "fail":
                        raise ImageError(what)
                    ctx.event("bad_image", shard=unit.key, what=what)
                    writer.leave_out(study.key, image, reason)
                counts["bad_images"] += len(bad)
                if jpegs:
                    writer.add(study, jpegs)
                    counts["studies"] += 1
                    counts["images"] += len(jpegs)
                    counts["phantoms"] += sum(jpeg.phantom for jpeg in jpegs)
                else:
                    counts["studies_without_films"] += 1
                done = counts["images"]
                ctx.progress(done, max(total, done), studies=counts["studies"], bad=counts["bad_images"])
                if ctx.stopping():
                    writer.discard()
                    return None
    for (_, reader), start in zip(shared.readers, reported, strict=True):
        for name, what in reader.bad[start:]:
            counts["bad_reports"] += 1
            ctx.event("bad_report", report=name, what=what)
    ctx.progress(counts["images"], counts["images"])
    partial.remove()
    return Result({final: staged}, dict(counts))


def _converted(
    shared: ShardBuilder, part: int, ctx: Context, partial: Partial, counts: Counter[str]
) -> Generator[tuple[Study, list[Jpeg], list[Bad]], None, None]:
    """Studies of the part in order, each with its images and those that could not be read; converts some ahead."""
    waiting: deque[tuple[Study, Future[tuple[Study, Converted]] | Converted]] = deque()

    def first() -> tuple[Study, list[Jpeg], list[Bad]]:
        study, work = waiting.popleft()
        if isinstance(work, Future):
            study, converted = work.result()
            partial.put(study.key, converted)
        else:
            converted = work
            counts["resumed"] += 1
        ids, jpegs, bad = converted
        by_id = {image.id: image for image in study.images}
        return replace(study, images=tuple(by_id[name] for name in ids)), jpegs, bad

    try:
        for source, reader in shared.readers:
            for study in studies(source, reader, part, shared.settings.shards):
                # Drawing a phantom again is faster than reading it back, and gives its boxes, which are not kept.
                kept = None if source.phantom_images else partial.take(study.key)
                work = kept or shared.pool.submit(_convert, source, reader, study, shared.settings, ctx.seed)
                waiting.append((study, work))
                if len(waiting) >= _AHEAD * max(1, ctx.cpus):
                    yield first()
        while waiting:
            yield first()
    finally:
        for _, work in waiting:
            if isinstance(work, Future):
                work.cancel()


def _convert(
    source: Source, reader: CollectionReader, study: Study, settings: BuildSettings, seed: int
) -> tuple[Study, Converted]:
    """The study and its images that could be read, or phantoms if it has none and the source asks for them."""
    files = [(image, reader.image_file(study, image)) for image in study.images]
    present = [(image, path) for image, path in files if path is not None]
    size, quality = settings.image_size, settings.jpeg_quality
    if not present and source.phantom_images:
        views = VIEWS[:1] if source.frontal_only else VIEWS
        study, drawn = phantom_images(study, views, size, seed)
        return study, ([image.id for image in study.images], [_jpeg(raw, size, quality) for raw in drawn], [])
    ids: list[str] = []
    jpegs: list[Jpeg] = []
    bad: list[Bad] = []
    for image, path in present:
        try:
            jpegs.append(_jpeg(_content(path), size, quality))
            ids.append(image.id)
        except ImageError as error:
            bad.append((image.id, str(path), _ADDRESS.sub("", str(error))))
    return study, (ids, jpegs, bad)


def _jpeg(raw: bytes, size: int, quality: int) -> Jpeg:
    return replace(convert(raw, size, quality, "it"), sha256=hashlib.sha256(raw).digest())


def _content(path: Path) -> bytes:
    """The bytes of a file. Raises ImageError if there is none, StorageError if the machine could not read it."""
    try:
        return reading.read_bytes(path)
    except FileNotFoundError:
        raise ImageError("the file does not exist") from None
    except OSError as error:
        raise ImageError(f"the file cannot be read ({error.strerror})") from error


def _origin(source: Source, reader: CollectionReader) -> dict[str, Any]:
    """What the shard was made from: the settings of the source without paths, and a digest of its patients."""
    ids = hashlib.sha256("\n".join(sorted(reader.patients())).encode()).hexdigest()
    kept = source.model_dump(exclude={"path", "input", "reports", "images", "annotation", "section_overrides"})
    overrides = usable(source.section_overrides)
    digest = hashlib.sha256(overrides.read_bytes()).hexdigest() if overrides else None
    return {"dataset": reader.dataset, "patients_sha256": ids, "section_overrides_sha256": digest, **kept}
