"""Kind `import`: conversations in the formats of other suites become one shard of their images, and samples."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from diagcot.data.errors import DataError
from diagcot.data.pixels import libraries, transform
from diagcot.data.study import MIMIC_CXR, SPLITS, Image, Study, seeded_split
from diagcot.exchange import tables
from diagcot.exchange.conversations import Conversation, read
from diagcot.exchange.forms.form import ImageFile
from diagcot.exchange.grouping import Naming, Place, places, plain, unique_names
from diagcot.exchange.images import ImageStore
from diagcot.exchange.settings import ImportSettings
from diagcot.jobs import Context, Result, Unit
from diagcot.shards.audit.accounting import Account, excess, reason_of
from diagcot.shards.writer import ShardWriter
from diagcot.tasks.samples import ImageRef, Sample, write_samples

_BLOCK = 256  # rows whose images are converted together
_MIMIC = re.compile(r"(?:^|/)p\d{8}/s\d{8}/([\w-]+)\.\w+$")


@dataclass(frozen=True)
class _Row:
    """A row that can be used: where it stands, its conversation without images, and the keys of its images."""

    place: str
    conversation: Conversation
    images: tuple[str, ...]


@contextmanager
def prepare(ctx: Context) -> Iterator[ImportSettings]:
    """The stage's settings."""
    yield ImportSettings.model_validate(ctx.settings)


def run(unit: Unit, settings: ImportSettings, ctx: Context) -> Result | None:
    """Write `<key>.h5` with the images, `<key>.jsonl` with the samples to train on, and `test/<key>.jsonl`, if there are any.

    Raises DataError if a file cannot be read, or if more is lost than `max_lost` allows.
    """
    account = Account()
    with (
        ThreadPoolExecutor(max(1, ctx.cpus)) as pool,
        ImageStore.opened(ctx.workspace, pool, settings.image_size, settings.jpeg_quality) as store,
    ):
        rows = _rows(settings, store, account, ctx)
        if rows is None:
            return None
        namings = [Naming(row.images, row.conversation.about) for row in rows if row.images]
        used = dict.fromkeys(key for naming in namings for key in naming.images)
        paths = {key: store[key].path for key in used}
        where = places(namings, paths, settings.name, (settings.patient, settings.study), settings.shares)
        final = ctx.output / f"{unit.key}.h5"
        outputs = {final: ctx.staged(final)}
        names = dict(unique_names(paths))
        order = sorted(where, key=lambda key: (where[key].dataset, where[key].patient, where[key].study, names[key]))
        refs = {key: ImageRef(str(final.relative_to(ctx.shards_root)), row) for row, key in enumerate(order)}
        phantoms = {key for key in used if store[key].jpeg.phantom}
        samples = list(_samples(rows, where, refs, phantoms, settings, account))
        _write_shard(outputs[final], order, names, store, where, account, settings, ctx)
    account.check(settings.name)
    if what := excess(account.counts, settings.max_lost, (1, 1)):
        raise DataError(
            f"stage {ctx.stage}: more was lost than `max_lost: {settings.max_lost:g}` allows. {what}. Correct the files, or"
            " raise `max_lost` in the recipe"
        )
    if not samples:
        raise DataError(f"stage {ctx.stage}: no row of its files is a conversation; docs/exchange.md has the forms")
    counts: dict[str, Any] = {"samples": len(samples), "images": len(refs), "sources": {settings.name: account.counts}}
    for folder, wanted in ((ctx.output, SPLITS[:2]), (ctx.output / "test", SPLITS[2:])):
        part = [sample for sample in samples if sample.meta["split"] in wanted]
        if part or folder == ctx.output:
            final = folder / f"{unit.key}.jsonl"
            outputs[final] = ctx.staged(final)
            write_samples(outputs[final], part)
    for split in SPLITS:
        counts[split] = sum(sample.meta["split"] == split for sample in samples)
    return Result(outputs, counts)


def _rows(settings: ImportSettings, store: ImageStore, account: Account, ctx: Context) -> list[_Row] | None:
    """The rows that can be used, with their images in the store; None if the task is asked to stop."""
    kept: list[_Row] = []
    found = _conversations(settings, account)
    done = 0
    while block := list(islice(found, _BLOCK)):
        keys = iter(store.add([image for _, conversation in block for image in conversation.images]))
        for place, conversation in block:
            images = tuple(islice(keys, len(conversation.images)))
            if bad := next((store.bad[key] for key in images if key in store.bad), None):
                account.leave_out("rows", f"an image: {reason_of(bad[1])}", place)
            else:
                kept.append(_Row(place, replace(conversation, images=()), images))
        done += len(block)
        if ctx.stopping():
            return None
        ctx.progress(done, None, images=len(store), bad=len(store.bad))
    for path, why in store.bad.values():
        account.read("images")
        account.leave_out("images", reason_of(why), Path(path).name)
        ctx.event("bad_image", shard="00000", what=f"{path}: {why}")
    return kept


def _conversations(settings: ImportSettings, account: Account) -> Iterator[tuple[str, Conversation]]:
    for entry, path in settings.paths():
        base = Path(entry.images) if entry.images else path if path.is_dir() else path.parent
        for place, row in tables.rows(path, entry.sets):
            account.read("rows")
            try:
                conversation = read(_renamed(row, entry.columns))
            except ValueError as error:
                account.leave_out("rows", str(error), place)
                continue
            about = {**conversation.about, **({"split": entry.split} if entry.split else {})}
            images = tuple(_absolute(image, base) for image in conversation.images)
            yield place, replace(conversation, images=images, about=about)


def _renamed(row: Any, columns: Mapping[str, str]) -> Any:
    return row | {ours: row.get(theirs) for ours, theirs in columns.items()} if isinstance(row, dict) else row


def _absolute(image: ImageFile, base: Path) -> ImageFile:
    return image if image.data else ImageFile(str(base / image.path))


def _write_shard(
    path: Path,
    order: Sequence[str],
    names: Mapping[str, str],
    store: ImageStore,
    where: Mapping[str, Place],
    account: Account,
    settings: ImportSettings,
    ctx: Context,
) -> None:
    """Write the images in this order, those of a study together."""
    with ShardWriter(
        path,
        part=0,
        parts=1,
        image_size=settings.image_size,
        jpeg_quality=settings.jpeg_quality,
        seed=ctx.seed,
        sources=[
            {"dataset": dataset, "kind": "import"} for dataset in sorted({place.dataset for place in where.values()})
        ],
        transform=transform(settings.image_size, settings.jpeg_quality),
        libraries=libraries(),
    ) as writer:
        for place, group in groupby(order, key=lambda key: where[key]):
            keys = list(group)
            jpegs = [store.jpeg(key) for key in keys]
            images = tuple(Image(names[key], origin=_origin(store[key].path)) for key in keys)
            study = Study(place.dataset, place.study, place.patient, place.split, images=images)
            writer.add(study, jpegs)
            account.read_study(study)
            account.put(study)
            for image, jpeg in zip(images, jpegs, strict=True):
                for flag in jpeg.flags:
                    account.flag(flag, f"{study.key}/{image.id}")
                    ctx.event("image_flagged", image=f"{study.key}/{image.id}", what=flag)
        writer.describe(accounts={settings.name: account.counts})


def _origin(path: str) -> str:
    """The image of MIMIC-CXR that a path names, by which evaluation knows it again in other collections."""
    found = _MIMIC.search(path.replace("\\", "/"))
    return f"{MIMIC_CXR}/{found[1]}" if found else ""


def _samples(
    rows: Sequence[_Row],
    where: Mapping[str, Place],
    refs: Mapping[str, ImageRef],
    phantoms: set[str],
    settings: ImportSettings,
    account: Account,
) -> Iterator[Sample]:
    """A sample of each row; rows that repeat another one, or its id, are left out and counted."""
    splits = {(place.dataset, place.patient): place.split for place in where.values()}
    contents: dict[str, str] = {}
    for row in rows:
        about, turns = row.conversation.about, row.conversation.turns
        digest = hashlib.sha256(json.dumps([turns, row.images]).encode()).hexdigest()[:16]
        place = where[row.images[0]] if row.images else _place_of_text(about, digest, splits, settings)
        study = f"{place.dataset}/{plain(about['study'].removeprefix(f'{place.dataset}/')) if 'study' in about else place.study}"
        name = about.get("id", digest)
        name = name if name.startswith(study) else f"{study}:{name}"
        if name in contents:
            same = contents[name] == digest
            account.leave_out("rows", REPEATED if same else SAME_ID, row.place, asked=same)
            continue
        contents[name] = digest
        split = splits.get((place.dataset, place.patient), place.split)
        if (stated := about.get("split", split)) != split:
            account.move(stated, split, len(row.images))
        account.used_rows(1)
        yield Sample(
            id=name,
            task=about.get("task", settings.task),
            study=study,
            images=tuple(refs[key] for key in row.images),
            messages=turns,
            meta={
                "patient": f"{place.dataset}/{place.patient}",
                "split": split,
                "phantom": any(key in phantoms for key in row.images),
                **({"references": list(row.conversation.references)} if row.conversation.references else {}),
            },
            dataset=place.dataset,
        )


REPEATED = "repeats another row"
SAME_ID = "its id is that of another row"


def _place_of_text(
    about: Mapping[str, str], digest: str, splits: Mapping[tuple[str, str], str], settings: ImportSettings
) -> Place:
    """Where a conversation without images belongs."""
    dataset = plain(about.get("dataset", settings.name))
    study = plain(about.get("study", digest).removeprefix(f"{dataset}/"))
    patient = plain(about.get("patient", study).removeprefix(f"{dataset}/"))
    split = (
        splits.get((dataset, patient)) or about.get("split") or seeded_split(f"{dataset}/{patient}", settings.shares)
    )
    return Place(dataset, study, patient, split)
