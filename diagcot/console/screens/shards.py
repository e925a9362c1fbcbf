"""`diagcot shards info`: what shards hold, on one screen of 80 columns."""

import bisect
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from diagcot.console import text
from diagcot.data.study import CHEXPERT_LABELS, SPLITS
from diagcot.jobs import UserError
from diagcot.jobs.state import counts as accounts
from diagcot.jobs.state.counts import added
from diagcot.shards.reader import Shard

BAR = 18
WORDS = (0, 1, 10, 20, 40, 60, 100, 150, 200)
"""Lower bounds of the histogram's bins, in words; the first bin holds empty texts only."""
SECTIONS = ("findings", "impression")
REASONS = 5


@dataclass
class Content:
    """Counts over shards. Only the sets of patients grow with the size of the shards."""

    sizes: list[int] = field(default_factory=list)  # images of each shard
    bytes: int = 0
    studies: Counter[str] = field(default_factory=Counter)  # split -> number
    images: Counter[str] = field(default_factory=Counter)
    patients: dict[str, set[str]] = field(default_factory=dict)
    datasets: Counter[str] = field(default_factory=Counter)
    views: Counter[str] = field(default_factory=Counter)
    phantoms: int = 0
    labels: np.ndarray = field(default_factory=lambda: np.zeros((len(CHEXPERT_LABELS), 3), np.int64))
    words: dict[str, Counter[int]] = field(default_factory=lambda: {name: Counter() for name in SECTIONS})
    boxes: Counter[str] = field(default_factory=Counter)
    questions: Counter[str] = field(default_factory=Counter)  # asked by the collections themselves
    left_out: Counter[str] = field(default_factory=Counter)
    accounts: dict[str, Any] = field(default_factory=dict)  # source -> what was read, kept and left out
    copies: dict[str, set[str]] = field(default_factory=dict)  # digest of an image file -> its splits
    versions: set[str] = field(default_factory=set)  # image size, schema and code that wrote the shards

    def add(self, shard: Shard) -> None:
        """Count the contents of a shard."""
        splits, images = shard.texts("studies/split"), np.diff(shard.numbers("studies/first")).tolist()
        self.sizes.append(shard.images)
        self.bytes += shard.path.stat().st_size
        self.studies.update(splits)
        for split, dataset, patient, count in zip(
            splits, shard.texts("studies/dataset"), shard.texts("studies/patient"), images, strict=True
        ):
            self.images[split] += count
            self.patients.setdefault(split, set()).add(f"{dataset}/{patient}")
        self.datasets.update(shard.texts("studies/dataset"))
        self.views.update(view or "unknown" for view in shard.texts("images/view"))
        self.phantoms += int(shard.numbers("images/phantom").sum())
        values = shard.numbers("studies/labels")
        self.labels += np.stack([(values == value).sum(0) for value in (1, 0, -1)], 1)
        for name in SECTIONS:
            lengths = (len(section.split()) for section in shard.texts(f"studies/{name}"))
            self.words[name].update(_bin(length) for length in lengths)
        self.boxes.update(shard.texts("boxes/label"))
        if shard.has_questions:
            self.questions.update("with options" if options else "open" for options in shard.texts("questions/options"))
        self.accounts = added([self.accounts, shard.accounts])
        of_study = np.repeat(np.arange(len(splits)), images)
        for digest, row in zip(shard.numbers("images/sha256"), of_study, strict=True):
            self.copies.setdefault(digest.tobytes().hex(), set()).add(splits[row])
        self.left_out.update(reason.split(" (")[0] for *_, reason in shard.left_out())
        attributes = shard.attrs
        size = f"{attributes['image_size']} pixels, " if "image_size" in attributes else ""
        self.versions.add(f"{size}schema {attributes['schema']}, code {attributes['code']}")


def show(paths: Sequence[Path], screen: Console | None = None) -> int:
    """Print the contents of shards. Raises UserError if there are none, DataError for a damaged one."""
    if not paths:
        raise UserError("no shards found: name a shard, or a folder of shards such as shards/RUN/shard")
    content = Content()
    for path in paths:
        content.add(Shard(path))
    screen = screen or text.console()
    screen.print(render(content, screen))
    return 0


def render(content: Content, screen: Console) -> RenderableType:
    """All tables, one below the other."""
    total, images = sum(content.studies.values()), sum(content.sizes)
    least, most = min(content.sizes), max(content.sizes)
    head = [
        f"{len(content.sizes)} shard{'s' * (len(content.sizes) != 1)}, {content.bytes / 1e6:,.1f} MB, {images:,} images"
        f" of {total:,} studies; {least:,} to {most:,} images per shard",
        *sorted(content.versions),
        f"datasets: {_counts(content.datasets)}",
        f"views: {_counts(content.views)}",
    ]
    if content.phantoms:
        head.append(f"phantoms (drawn images, not of patients): {content.phantoms:,}")
    if content.boxes:
        head.append(f"boxes: {_counts(content.boxes)}")
    if content.questions:
        head.append(f"questions of the collections: {_counts(content.questions)}")
    if content.left_out:
        reasons = content.left_out.most_common(REASONS)
        head.append(f"images left out: {sum(content.left_out.values()):,}")
        head += [f"  {count:,}: {reason}" for reason, count in reasons]
    head += accounts.lines(content.accounts)
    if double := sum(len(splits) > 1 for splits in content.copies.values()):
        head.append(f"images whose file is in more than one split: {double:,}")
    shared = sum(map(len, content.patients.values())) - len(set().union(*content.patients.values()))
    if shared:
        head.append(f"patients in more than one split: {shared:,}")
    parts: list[RenderableType] = [Text(line) for line in head]
    parts += ["", _splits(content), "", _labels(content, total), "", _lengths(content, screen)]
    return Group(*parts)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counter.most_common())


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for n, name in enumerate(columns):
        table.add_column(name, justify="right" if n else "left", no_wrap=True)
    return table


def _splits(content: Content) -> Table:
    table = _table("split", "patients", "studies", "images")
    for split in sorted(content.studies, key=lambda s: (SPLITS.index(s) if s in SPLITS else len(SPLITS), s)):
        numbers = (len(content.patients[split]), content.studies[split], content.images[split])
        table.add_row(split, *(f"{number:,}" for number in numbers))
    return table


def _labels(content: Content, total: int) -> Table:
    table = _table("label", "present", "share", "absent", "uncertain", "not mentioned")
    for name, (present, absent, uncertain) in zip(CHEXPERT_LABELS, content.labels.tolist(), strict=True):
        rest = total - present - absent - uncertain
        share = f"{present / max(total, 1):.1%}"
        table.add_row(name, f"{present:,}", share, f"{absent:,}", f"{uncertain:,}", f"{rest:,}")
    return table


def _lengths(content: Content, screen: Console) -> Table:
    table = _table("words", *(heading for name in SECTIONS for heading in (name, "")))
    for column in (2, 4):
        table.columns[column].justify = "left"
    most = max((count for counter in content.words.values() for count in counter.values()), default=1)
    for n, low in enumerate(WORDS):
        high = f"-{WORDS[n + 1] - 1}" if n + 1 < len(WORDS) else "+"
        cells: list[RenderableType] = []
        for name in SECTIONS:
            count = content.words[name][n]
            length = math.ceil(count / most * BAR)
            cells += [f"{count:,}", Text(text.fits(screen, "█" * length), "cyan")]
        table.add_row(f"{low}{high}" if n else "none", *cells)
    return table


def _bin(words: int) -> int:
    """Index of the bin."""
    return bisect.bisect_right(WORDS, words) - 1
