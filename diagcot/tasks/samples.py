"""Samples for training and evaluation: conversations as JSON lines, with images by reference to shard and row."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from diagcot.jobs import UserError
from diagcot.jobs.state import json_text, reading


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image in a shard: the shard's path relative to the shards root, and the image's row in it."""

    shard: str
    row: int
    change: str = ""  # applied to the image when it is read, see `diagcot.tasks.augmentation`

    @property
    def outside(self) -> bool:
        """Whether the shard's path leads out of the shards root."""
        return self.shard.startswith("/") or ".." in self.shard.split("/")

    def path(self, root: Path) -> Path:
        """The shard's file. root: the shards root. Raises UserError if it is outside: whoever gave the sample does not choose
        what is read here.
        """
        if self.outside:
            raise UserError(
                f"a sample names the shard {self.shard}, which is outside of {root}: make the samples again"
            )
        return root / self.shard


@dataclass(frozen=True)
class Sample:
    """A conversation. Every `<image>` in the user's text stands for the next of `images`."""

    id: str  # dataset/study[/image][:what], unique over all tasks; never a position in a list
    task: str  # report, grounding, classification, or the name of a chain-of-thought conversation
    study: str  # dataset/study, the cluster of the bootstrap
    images: tuple[ImageRef, ...]
    messages: tuple[tuple[str, str], ...]  # (role, text): an optional system text, then user and assistant in turn
    meta: dict[str, Any] = field(default_factory=dict)
    dataset: str = ""  # the collection of the study; empty if the sample is not of one study's images

    @property
    def prompt(self) -> str:
        """The first text of the user."""
        return next(text for role, text in self.messages if role == "user")

    @property
    def answer(self) -> str:
        """The text of the last message."""
        return self.messages[-1][1]

    def with_meta(self, **entries: Any) -> "Sample":
        """A copy with these entries added to `meta`."""
        return replace(self, meta=self.meta | entries)

    def to_json(self) -> str:
        """The sample as one JSON line."""
        row = asdict(self)
        for image in row["images"]:
            if not image["change"]:
                del image["change"]
        if not self.dataset:
            del row["dataset"]
        return json.dumps(row, ensure_ascii=False, sort_keys=True)

    @staticmethod
    def from_json(line: str) -> "Sample":
        """The sample of one JSON line. Raises ValueError, KeyError or TypeError for a line of another shape."""
        row = json_text.parse_json(line)
        return Sample(
            id=row["id"],
            task=row["task"],
            study=row["study"],
            images=tuple(ImageRef(**ref) for ref in row["images"]),
            messages=tuple((role, text) for role, text in row["messages"]),
            meta=row.get("meta", {}),
            dataset=row.get("dataset", ""),
        )


def read_samples(path: Path) -> Iterator[Sample]:
    """Samples of a JSONL file in its order. Raises ValueError that names file and line for a broken line."""
    for number, line in enumerate(reading.lines(path), 1):
        try:
            yield Sample.from_json(line.decode())
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            what = type(error).__name__  # its message may show what the line holds
            raise ValueError(f"{path}:{number} is not a sample ({what}); rebuild the stage that wrote it") from None


def write_samples(path: Path, samples: Iterable[Sample]) -> int:
    """Write samples to `path`; returns their number."""
    count = 0
    with reading.written(path) as out:
        for sample in samples:
            out.write(sample.to_json() + "\n")
            count += 1
    return count


def order(sample_id: str) -> str:
    """A digest to sort by: picks the same samples for every model, without regard to their place or content."""
    return hashlib.sha256(sample_id.encode()).hexdigest()
