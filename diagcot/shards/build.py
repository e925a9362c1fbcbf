"""The kind `shard`: unit k of K reads its part of every source, scales the images down and writes one shard."""

import hashlib
import json
import re
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from diagcot.data.errors import DataError, ImageError
from diagcot.data.phantom.drawing import VIEWS
from diagcot.data.pixels import Jpeg, content, convert, libraries, transform
from diagcot.data.readers.origins import decide
from diagcot.data.study import Study
from diagcot.jobs import Context, Result, Unit
from diagcot.jobs.state.counts import added, reasons_of
from diagcot.jobs.state.files import read_json, write_json
from diagcot.shards.audit.accounting import Account, Counts, excess, reason_of
from diagcot.shards.partial import Bad, Converted, Partial
from diagcot.shards.settings import BuildSettings, Source, usable
from diagcot.shards.sources import NO_FILE, CollectionReader, open_reader, phantom_images, studies
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
        self.splits = decide([reader for _, reader in self.readers])
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
    counts: Counter[str] = Counter(studies=0, images=0, phantoms=0, bad_images=0, resumed=0)
    accounts = [Account() for _ in shared.readers]
    owners: dict[str, Account] = {}  # key of a study in the shard -> its source
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
    reported = [_Reported(reader, part) for _, reader in shared.readers]
    # Phantoms are drawn from the report, which does not change within a run, so the digest need not contain it.
    partial = Partial(
        ctx, unit, hashlib.sha256(json.dumps([provenance, code()], sort_keys=True).encode()).hexdigest()[:16]
    )
    with closing(partial), ShardWriter(staged, **provenance) as writer:
        with closing(_converted(shared, part, ctx, partial, counts, accounts)) as converted:
            for account, study, jpegs, bad in converted:
                for image, path, reason in bad:
                    what = f"{study.key}/{image} ({path}): {reason}"
                    if settings.on_bad_image == "fail":
                        raise ImageError(what)
                    ctx.event("bad_image", shard=unit.key, what=what)
                    writer.leave_out(study.key, image, reason)
                counts["bad_images"] += len(bad)
                if jpegs:
                    writer.add(study, jpegs)
                    account.put(study)
                    owners[study.key] = account
                    for kept, jpeg in zip(study.images, jpegs, strict=True):
                        for flag in jpeg.flags:
                            account.flag(flag, f"{study.key}/{kept.id}")
                            ctx.event("image_flagged", image=f"{study.key}/{kept.id}", what=flag)
                    counts["studies"] += 1
                    counts["images"] += len(jpegs)
                    counts["phantoms"] += sum(jpeg.phantom for jpeg in jpegs)
                else:
                    account.leave_out_emptied(study, NONE_USABLE)
                done = counts["images"]
                ctx.progress(done, max(total, done), studies=counts["studies"], bad=counts["bad_images"])
                if ctx.stopping():
                    writer.discard()
                    return None
        for key, remaining, unasked in writer.settle_questions():
            owners[key].settle_questions(key, remaining, unasked)
        names = source_names([reader.dataset for _, reader in shared.readers])
        for name, account, faults in zip(names, accounts, reported, strict=True):
            counts["bad_reports"] += faults.report(account, ctx)
            account.check(name)
        sources = {name: account.counts for name, account in zip(names, accounts, strict=True)}
        writer.describe(accounts=sources)
        _require_enough(shared, unit, ctx, sources)
    ctx.progress(counts["images"], counts["images"])
    partial.remove()
    return Result({final: staged}, {**counts, "sources": sources})


NONE_USABLE = "none of its images can be used"


class _Reported:
    """The faults that a reader finds while a part is read.

    Every part sees the same faults in the tables, so only part 0 reports these; each part reports those of its studies.
    """

    def __init__(self, reader: CollectionReader, part: int) -> None:
        self._reader, self._first = reader, part == 0
        reader.patients()
        self._starts = [0 if self._first else len(faults) for faults in (reader.bad, reader.bad_boxes, reader.remarks)]

    def report(self, account: Account, ctx: Context) -> int:
        """Write an event for each fault and count what is left out; returns the number of rows and reports left out."""
        reader, (bad, boxes, remarks) = self._reader, self._starts
        rows = reader.bad[bad:]
        account.read("rows", reader.rows if self._first else len(rows))
        account.used_rows(reader.rows - len(rows) if self._first else 0)
        for name, what in rows:
            ctx.event("bad_report", report=name, what=what)
            account.leave_out("rows", reason_of(what), Path(name).name)
        for name, what in reader.bad_boxes[boxes:]:
            ctx.event("bad_box", image=name, what=what)
            account.read("boxes")
            account.leave_out("boxes", reason_of(what), name)
        for name, what in reader.remarks[remarks:]:
            ctx.event("data_remark", where=name, what=what)
        return len(rows)


def source_names(datasets: Sequence[str]) -> list[str]:
    """A name for each source: that of its collection, with a number where a collection is read more than once."""
    seen: Counter[str] = Counter()
    names = []
    for dataset in datasets:
        seen[dataset] += 1
        names.append(dataset if seen[dataset] == 1 else f"{dataset} ({seen[dataset]})")
    return names


def _require_enough(shared: ShardBuilder, unit: Unit, ctx: Context, sources: Mapping[str, Counts]) -> None:
    """Raise DataError if a source has lost more than it may, by what this unit and those that are done have counted.

    A unit leaves its counts in the stage's folder before it reads those of the others, so that of two that end together
    at least one sees both.
    """
    folder = ctx.stage_dir / "accounts"
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{unit.key}.json", sources)
    known = [found for path in sorted(folder.glob("[0-9]*.json")) if (found := read_json(path)) is not None]
    together = added(known)
    for (source, _), name in zip(shared.readers, sources, strict=True):
        whole = together.get(name, {})
        if what := excess(whole, source.max_lost, (len(known), shared.settings.shards)):
            raise DataError(
                f"stage {ctx.stage}: the source {name} lost more than `max_lost: {source.max_lost:g}` allows. {what}."
                " Correct the source, or raise `max_lost` of it in the recipe"
            )
        if len(known) == shared.settings.shards and not whole.get("in_shards", {}).get("studies"):
            left_out = ". ".join(
                "; ".join(reasons_of(whole, whole[part].get("studies", {}))) for part in ("asked", "lost")
            )
            raise DataError(
                f"stage {ctx.stage}: the source {name} has given no study to any shard ({left_out.strip('. ') or 'it has none'})."
                " Correct the source or its settings and use another RUN=name, or leave it out of the recipe"
            )


def _converted(
    shared: ShardBuilder, part: int, ctx: Context, partial: Partial, counts: Counter[str], accounts: Sequence[Account]
) -> Generator[tuple[Account, Study, list[Jpeg], list[Bad]], None, None]:
    """Studies of the part in order, each with its images and those that could not be read; converts some ahead."""
    waiting: deque[tuple[Account, Study, Future[tuple[Study, Converted]] | Converted]] = deque()

    def first() -> tuple[Account, Study, list[Jpeg], list[Bad]]:
        account, study, work = waiting.popleft()
        if isinstance(work, Future):
            study, converted = work.result()
            partial.put(study.key, converted)
        else:
            converted = work
            counts["resumed"] += 1
        ids, jpegs, bad = converted
        by_id = {image.id: image for image in study.images}
        for name, _, reason in bad:
            account.leave_out_image(study, by_id[name], reason_of(reason))
        return account, replace(study, images=tuple(by_id[name] for name in ids)), jpegs, bad

    try:
        for (source, reader), account, splits in zip(shared.readers, accounts, shared.splits, strict=True):
            for study in studies(source, reader, part, shared.settings.shards, account, splits):
                # Drawing a phantom again is faster than reading it back, and gives its boxes, which are not kept.
                kept = None if source.phantom_images else partial.take(study.key)
                work = kept or shared.pool.submit(_convert, source, reader, study, shared.settings, ctx.seed)
                waiting.append((account, study, work))
                if len(waiting) >= _AHEAD * max(1, ctx.cpus):
                    yield first()
        while waiting:
            yield first()
    finally:
        for *_, work in waiting:
            if isinstance(work, Future):
                work.cancel()


def _convert(
    source: Source, reader: CollectionReader, study: Study, settings: BuildSettings, seed: int
) -> tuple[Study, Converted]:
    """The study and its images that could be read, or phantoms if it has none and the source asks for them."""
    files = [(image, reader.image_file(study, image)) for image in study.images]
    size, quality = settings.image_size, settings.jpeg_quality
    if source.phantom_images and not files:  # see `sources`: none of its images is there
        views = VIEWS[:1] if source.frontal_only else VIEWS
        study, drawn = phantom_images(study, views, size, seed)
        return study, ([image.id for image in study.images], [_jpeg(raw, size, quality) for raw in drawn], [])
    ids: list[str] = []
    jpegs: list[Jpeg] = []
    bad: list[Bad] = []
    for image, path in files:
        if path is None:
            bad.append((image.id, "no file", NO_FILE))
            continue
        try:
            jpegs.append(_jpeg(content(path), size, quality))
            ids.append(image.id)
        except ImageError as error:
            bad.append((image.id, str(path), _ADDRESS.sub("", str(error))))
    return study, (ids, jpegs, bad)


def _jpeg(raw: bytes, size: int, quality: int) -> Jpeg:
    return replace(convert(raw, size, quality, "it"), sha256=hashlib.sha256(raw).digest())


def _origin(source: Source, reader: CollectionReader) -> dict[str, Any]:
    """What the shard was made from: the settings of the source without paths, and a digest of its patients."""
    ids = hashlib.sha256("\n".join(sorted(reader.patients())).encode()).hexdigest()
    kept = source.model_dump(
        exclude={"path", "input", "reports", "images", "annotation", "section_overrides", "max_lost"}
    )
    overrides = usable(source.section_overrides)
    digest = hashlib.sha256(overrides.read_bytes()).hexdigest() if overrides else None
    return {"dataset": reader.dataset, "patients_sha256": ids, "section_overrides_sha256": digest, **kept}
