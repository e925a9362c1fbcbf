"""Samples of stages, and of shards by task, written in the formats of other suites."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagcot.exchange import written
from diagcot.exchange.forms import alpaca, chat, problem, sharegpt, verl
from diagcot.exchange.forms.form import MARK, Form, ImageFile
from diagcot.jobs import UserError
from diagcot.jobs.names import near
from diagcot.jobs.state import reading
from diagcot.jobs.state.files import remove
from diagcot.shards.reader import Shard, shard_paths
from diagcot.tasks.augmentation import augmented_jpeg
from diagcot.tasks.diagnosis import SAMPLES
from diagcot.tasks.prompt_set import DEFAULT
from diagcot.tasks.samples import ImageRef, Sample, read_samples


@dataclass(frozen=True)
class Format:
    """A format to write: the form of its rows, its file, and whether images stand in the rows or in files beside them."""

    form: Form
    file: str
    write: Callable[[Path, Iterable[written.Row]], None]
    embedded: bool = False
    info: Callable[[], dict[str, Any]] | None = None  # an entry of LLaMA-Factory's dataset_info.json


def _sharegpt_info() -> dict[str, Any]:
    return {"formatting": "sharegpt", "columns": {"messages": "conversations", "system": "system", "images": "images"}}


def _alpaca_info() -> dict[str, Any]:
    names = {"prompt": "instruction", "query": "input", "response": "output", "history": "history", "system": "system"}
    return {"columns": names | {"images": "images"}}


FORMATS: dict[str, Format] = {
    "llamafactory": Format(sharegpt.FORM, "data.json", written.json_list, info=_sharegpt_info),
    "llamafactory-alpaca": Format(alpaca.FORM, "data.json", written.json_list, info=_alpaca_info),
    "easyr1": Format(problem.FORM, "data.jsonl", written.json_lines),
    "verl": Format(verl.FORM, "data.parquet", written.parquet, embedded=True),
    "openai": Format(chat.FORM, "data.jsonl", written.json_lines, embedded=True),
    "datasets": Format(chat.TRL, "data", written.saved_dataset, embedded=True),
}


def export(
    paths: Sequence[Path], name: str, out: Path, tasks: Sequence[str] = (), split: str = "train"
) -> tuple[int, int, Counter[str]]:
    """Write the samples of `paths` to the new folder `out`; returns the samples, the images and what was left out, by reason.

    paths: files of samples, or folders of a stage: their samples, or with `tasks` those of their shards. Only samples of
    `split` are written; those that name none count as train. Raises UserError for a format or task that is not known, a
    folder that exists, or if there is nothing to write.
    """
    if name not in FORMATS:
        raise UserError(f"there is no format {name!r}{near(name, FORMATS)}")
    if unknown := sorted(set(tasks) - set(SAMPLES)):
        raise UserError(f"there is no task {unknown[0]!r} of shards{near(unknown[0], SAMPLES)}")
    if out.exists():
        raise UserError(f"{out} exists; choose a new folder")
    partial = out.with_name(f".{out.name}.partial")
    remove(partial, out.parent)
    partial.mkdir(parents=True, mode=0o700)  # it holds reports and images
    try:
        found = _Export(FORMATS[name], partial)
        fmt = found.format
        fmt.write(partial / fmt.file, found.rows(_samples(paths, tasks, split)))
        if fmt.info:
            entry = {"diagcot": {"file_name": fmt.file, **fmt.info()}}
            (partial / "dataset_info.json").write_text(json.dumps(entry, indent=2) + "\n")
        if not found.written:
            reasons = "; ".join(f"{count}: {why}" for why, count in found.left_out.items())
            raise UserError(
                f"{', '.join(map(str, paths))}: nothing to write of the split {split}" + f" ({reasons})" * bool(reasons)
            )
        partial.rename(out)
    finally:
        remove(partial, out.parent)
    return found.written, len(found.images), found.left_out


class _Export:
    """What an export has written, and where its images are."""

    def __init__(self, fmt: Format, folder: Path) -> None:
        self.format, self._folder = fmt, folder
        self.written = 0
        self.left_out: Counter[str] = Counter()
        self.images: dict[str, None] = {}
        self._shards: dict[Path, Shard] = {}

    def rows(self, samples: Iterable[tuple[Sample, Path]]) -> Iterator[written.Row]:
        """The rows of the samples that the format can hold; the images of the others are not written."""
        for sample, root in samples:
            if sum(text.count(MARK) for _, text in sample.messages) != len(sample.images):
                self.left_out[f"its {MARK} marks are not as many as its images"] += 1
                continue
            try:
                self.format.form.row(sample.messages, [ImageFile("")] * len(sample.images))
            except ValueError as error:
                self.left_out[str(error)] += 1
                continue
            images = [self._image(root, ref) for ref in sample.images]
            self.written += 1
            yield self.format.form.row(sample.messages, images) | _about(sample, self.format.form)

    def _image(self, root: Path, ref: ImageRef) -> ImageFile:
        path = ref.path(root)
        shard = self._shards.setdefault(path, Shard(path))
        data = shard.jpeg(ref.row)
        if ref.change:
            shard.check_image(ref.row)
            data = augmented_jpeg(data, ref.change)
        name = f"images/{hashlib.sha256(data).hexdigest()[:16]}.jpg"
        if not self.format.embedded and name not in self.images:
            (self._folder / "images").mkdir(exist_ok=True)
            (self._folder / name).write_bytes(data)
        self.images[name] = None
        return ImageFile(name, data)


def _about(sample: Sample, form: Form) -> written.Row:
    dataset = sample.dataset or sample.study.partition("/")[0]
    about = {
        "id": sample.id,
        "dataset": dataset,
        "study": sample.study.removeprefix(f"{dataset}/"),
        "patient": str(sample.meta.get("patient", "")).removeprefix(f"{dataset}/"),
        "split": str(sample.meta.get("split", "train")),
        "task": sample.task,
    }
    if form.about == "extra_info":  # verl reads two of them by its own names
        return {"data_source": dataset, "ability": sample.task, form.about: about}
    return {form.about: about} if form.about else about


def _samples(paths: Sequence[Path], tasks: Sequence[str], split: str) -> Iterator[tuple[Sample, Path]]:
    """Each sample with the folder that its references to images begin at."""
    for path in paths:
        if tasks:
            folder = path.resolve()
            for shard in shard_paths(folder):
                for task in tasks:
                    for sample in SAMPLES[task](Shard(shard), shard.name, split, "image", DEFAULT):
                        yield sample.with_meta(split=split), folder
            continue
        files = (
            [path]
            if path.is_file()
            else [*reading.listing(path, "*.jsonl"), *reading.listing(path / "test", "*.jsonl")]
        )
        if not files:
            raise UserError(
                f"{path} holds no samples; name a stage that writes samples, or `--task` for those of its shards"
            )
        for file in files:
            for sample in read_samples(file):
                if sample.meta.get("split", "train") == split:
                    yield sample, _root(file, sample.images)


def _root(file: Path, images: Sequence[ImageRef]) -> Path:
    """The folder above `file` that references to images begin at. Raises UserError if no shard is found."""
    file = file.resolve()
    if not images:
        return file.parent
    for folder in file.parents:
        if images[0].path(folder).is_file():
            return folder
    raise UserError(f"{file} refers to the shard {images[0].shard}, which is in no folder above it; move the file back")
