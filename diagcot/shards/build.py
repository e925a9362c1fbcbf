"""The kind `shard`: unit k of K reads its part of every source, makes the films small and writes one shard."""

import hashlib
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from diagcot.data.errors import ImageError
from diagcot.data.phantom.films import VIEWS
from diagcot.data.pixels import Jpeg, convert
from diagcot.data.study import Study
from diagcot.jobs.context import Context, Result, Unit
from diagcot.shards.settings import BuildSettings, Source, known
from diagcot.shards.sources import Reader, open_reader, phantom_films, studies
from diagcot.shards.writer import ShardWriter

Converted = tuple[Study, list[Jpeg], list[ImageError]]
"""A study, its films in the order of its images, and what could not be read."""

_AHEAD = 32
"""Studies in flight for each thread; bounds memory."""


class Shared:
    """The opened readers, and a pool of threads that decode films (Pillow works outside the interpreter's lock)."""

    def __init__(self, ctx: Context) -> None:
        self.settings = BuildSettings(**ctx.settings)
        self.readers: list[tuple[Source, Reader]] = [
            (s, open_reader(s, self.settings, ctx)) for s in self.settings.sources
        ]
        self.pool = ThreadPoolExecutor(max(1, ctx.cpus))


@contextmanager
def open(ctx: Context) -> Iterator[Shared]:
    shared = Shared(ctx)
    with shared.pool:
        yield shared


def run(unit: Unit, shared: Shared, ctx: Context) -> Result | None:
    """Write `ctx.output/<key>.h5`. A bad film is named in the stage's events and counted, or ends the unit."""
    settings = shared.settings
    part = int(unit.key)
    final = ctx.output / f"{unit.key}.h5"
    staged = ctx.staged(final)
    counts: Counter[str] = Counter(studies=0, images=0, phantoms=0, bad_images=0, studies_without_films=0)
    provenance = {
        "part": part,
        "parts": settings.shards,
        "image_size": settings.image_size,
        "jpeg_quality": settings.jpeg_quality,
        "seed": ctx.seed,
        "sources": [_provenance(source, reader) for source, reader in shared.readers],
    }
    total = sum(sum(r.patients().values()) for _, r in shared.readers) / settings.shards
    with ShardWriter(staged, **provenance) as writer:
        for study, films, bad in _converted(shared, part, ctx.seed, ctx.cpus):
            for error in bad:
                if settings.on_bad_image == "fail":
                    raise error
                ctx.event("bad_image", shard=unit.key, what=str(error))
            counts["bad_images"] += len(bad)
            if not films:
                counts["studies_without_films"] += 1
                continue
            writer.add(study, films)
            counts["studies"] += 1
            counts["images"] += len(films)
            counts["phantoms"] += sum(film.phantom for film in films)
            ctx.progress(
                counts["images"], max(total, counts["images"]), studies=counts["studies"], bad=counts["bad_images"]
            )
            if ctx.stopping():
                writer.discard()
                return None
    for _, reader in shared.readers:
        for name, what in getattr(reader, "bad", []) if part == 0 else []:
            counts["bad_reports"] += 1
            ctx.event("bad_report", report=name, what=what)
    ctx.progress(counts["images"], counts["images"])
    return Result({final: staged}, dict(counts))


def _converted(shared: Shared, part: int, seed: int, cpus: int) -> Iterator[Converted]:
    """Studies of the part with their films, in order, converted a bounded number ahead."""
    waiting: deque[Future[Converted]] = deque()

    def work(source: Source, reader: Reader, study: Study) -> Converted:
        return _convert(source, reader, study, shared.settings, seed)

    for source, reader in shared.readers:
        for study in studies(source, reader, part, shared.settings.shards):
            waiting.append(shared.pool.submit(work, source, reader, study))
            if len(waiting) >= _AHEAD * max(1, cpus):
                yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _convert(source: Source, reader: Reader, study: Study, settings: BuildSettings, seed: int) -> Converted:
    """The study with the films that could be read, or with phantoms where there are none and the source asks so."""
    places = [(image, reader.film(study, image)) for image in study.images]
    there = [(image, path) for image, path in places if path is not None]
    if not there and source.phantom_films:
        views = VIEWS[:1] if source.frontal_only else VIEWS
        study, drawn = phantom_films(study, views, settings.image_size, seed)
        return study, [convert(raw, settings.image_size, settings.jpeg_quality) for raw in drawn], []
    images, films, bad = [], [], []
    for image, path in there:
        try:
            films.append(convert(path, settings.image_size, settings.jpeg_quality, f"{study.key}/{image.id} ({path})"))
            images.append(image)
        except ImageError as error:
            bad.append(error)
    return replace(study, images=tuple(images)), films, bad


def _provenance(source: Source, reader: Reader) -> dict[str, Any]:
    """What the shard was made from: the source's settings without places, and a digest of the ids that it held."""
    ids = hashlib.sha256("\n".join(sorted(reader.patients())).encode()).hexdigest()
    kept = source.model_dump(exclude={"path", "input", "reports", "images", "annotation", "section_overrides"})
    overrides = known(source.section_overrides)
    digest = hashlib.sha256(overrides.read_bytes()).hexdigest() if overrides else None
    return {"dataset": reader.dataset, "patients_sha256": ids, "section_overrides_sha256": digest, **kept}
