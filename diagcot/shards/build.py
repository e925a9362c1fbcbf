"""The kind `shard`: unit k of K reads its part of every source, makes the films small and writes one shard."""

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
from diagcot.shards.partial import Bad, Done, Partial
from diagcot.shards.settings import BuildSettings, Source, known
from diagcot.shards.sources import Reader, open_reader, phantom_films, studies
from diagcot.shards.writer import ShardWriter, code

_AHEAD = 4
"""Studies in flight for each thread; bounds memory, and what is lost at a stop."""
_ADDRESS = re.compile(r"<_io\.\w+ object at 0x[0-9a-f]+>")  # in Pillow's messages; the same input is the same bytes


class Shared:
    """The opened readers, and a pool of threads that decode films (Pillow works outside the interpreter's lock)."""

    def __init__(self, ctx: Context) -> None:
        self.settings = BuildSettings(**ctx.settings)
        self.readers: list[tuple[Source, Reader]] = [
            (s, open_reader(s, self.settings, ctx)) for s in self.settings.sources
        ]
        self.pool = ThreadPoolExecutor(max(1, ctx.cpus))


@contextmanager
def prepare(ctx: Context) -> Iterator[Shared]:
    shared = Shared(ctx)
    with shared.pool:
        yield shared


def run(unit: Unit, shared: Shared, ctx: Context) -> Result | None:
    """Write `ctx.output/<key>.h5`. A film that cannot be used is named in the shard and in the stage's events and
    counted, or ends the unit. A unit that was interrupted goes on behind the studies whose films it had converted."""
    settings, part = shared.settings, int(unit.key)
    final = ctx.output / f"{unit.key}.h5"
    staged = ctx.staged(final)
    counts: Counter[str] = Counter(studies=0, images=0, phantoms=0, bad_images=0, studies_without_films=0, resumed=0)
    about = {
        "part": part,
        "parts": settings.shards,
        "image_size": settings.image_size,
        "jpeg_quality": settings.jpeg_quality,
        "seed": ctx.seed,
        "sources": [_provenance(source, reader) for source, reader in shared.readers],
        "transform": transform(settings.image_size, settings.jpeg_quality),
        "libraries": libraries(),
    }
    total = sum(sum(r.patients().values()) for _, r in shared.readers) / settings.shards
    # What is wrong in the tables every part sees alike, and the first one tells; of studies each part tells its own.
    told = [len(reader.bad) if part else 0 for _, reader in shared.readers]
    # Where phantoms are drawn, the report is what a film was made from: it does not change within a run.
    partial = Partial(ctx, unit, hashlib.sha256(json.dumps([about, code()], sort_keys=True).encode()).hexdigest()[:16])
    with closing(partial), ShardWriter(staged, **about) as writer:
        with closing(_converted(shared, part, ctx, partial, counts)) as converted:
            for study, films, bad in converted:
                for image, path, reason in bad:
                    what = f"{study.key}/{image} ({path}): {reason}"
                    if settings.on_bad_image == "fail":
                        raise ImageError(what)
                    ctx.event("bad_image", shard=unit.key, what=what)
                    writer.leave_out(study.key, image, reason)
                counts["bad_images"] += len(bad)
                if films:
                    writer.add(study, films)
                    counts["studies"] += 1
                    counts["images"] += len(films)
                    counts["phantoms"] += sum(film.phantom for film in films)
                else:
                    counts["studies_without_films"] += 1
                done = counts["images"]
                ctx.progress(done, max(total, done), studies=counts["studies"], bad=counts["bad_images"])
                if ctx.stopping():
                    writer.discard()
                    return None
    for (_, reader), start in zip(shared.readers, told, strict=True):
        for name, what in reader.bad[start:]:
            counts["bad_reports"] += 1
            ctx.event("bad_report", report=name, what=what)
    ctx.progress(counts["images"], counts["images"])
    partial.remove()
    return Result({final: staged}, dict(counts))


def _converted(
    shared: Shared, part: int, ctx: Context, partial: Partial, counts: Counter[str]
) -> Generator[tuple[Study, list[Jpeg], list[Bad]], None, None]:
    """Studies of the part, each with its films and what could not be read, in order, converted a bounded number ahead."""
    waiting: deque[tuple[Study, Future[tuple[Study, Done]] | Done]] = deque()

    def first() -> tuple[Study, list[Jpeg], list[Bad]]:
        study, found = waiting.popleft()
        if isinstance(found, Future):
            study, found = found.result()
            partial.put(study.key, found)
        else:
            counts["resumed"] += 1
        ids, films, bad = found
        by_id = {image.id: image for image in study.images}
        return replace(study, images=tuple(by_id[name] for name in ids)), films, bad

    try:
        for source, reader in shared.readers:
            for study in studies(source, reader, part, shared.settings.shards):
                # Phantoms are drawn anew, faster than they are read back, and bring boxes that are not kept.
                kept = None if source.phantom_films else partial.take(study.key)
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


def _convert(source: Source, reader: Reader, study: Study, settings: BuildSettings, seed: int) -> tuple[Study, Done]:
    """The study and its films that could be read, or phantoms where there are none and the source asks so."""
    places = [(image, reader.film(study, image)) for image in study.images]
    there = [(image, path) for image, path in places if path is not None]
    size, quality = settings.image_size, settings.jpeg_quality
    if not there and source.phantom_films:
        views = VIEWS[:1] if source.frontal_only else VIEWS
        study, drawn = phantom_films(study, views, size, seed)
        return study, ([image.id for image in study.images], [_film(raw, size, quality) for raw in drawn], [])
    ids: list[str] = []
    films: list[Jpeg] = []
    bad: list[Bad] = []
    for image, path in there:
        try:
            films.append(_film(_content(path), size, quality))
            ids.append(image.id)
        except ImageError as error:
            bad.append((image.id, str(path), _ADDRESS.sub("", str(error))))
    return study, (ids, films, bad)


def _film(raw: bytes, size: int, quality: int) -> Jpeg:
    return replace(convert(raw, size, quality, "it"), sha256=hashlib.sha256(raw).digest())


def _content(path: Path) -> bytes:
    """The file. Raises ImageError where it cannot be read, whatever the reason."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError("the file is not there") from None
    except OSError as error:
        raise ImageError(f"the file cannot be read ({error.strerror})") from error


def _provenance(source: Source, reader: Reader) -> dict[str, Any]:
    """What the shard was made from: the source's settings without places, and a digest of the ids that it held."""
    ids = hashlib.sha256("\n".join(sorted(reader.patients())).encode()).hexdigest()
    kept = source.model_dump(exclude={"path", "input", "reports", "images", "annotation", "section_overrides"})
    overrides = known(source.section_overrides)
    digest = hashlib.sha256(overrides.read_bytes()).hexdigest() if overrides else None
    return {"dataset": reader.dataset, "patients_sha256": ids, "section_overrides_sha256": digest, **kept}
