"""A page of traces for review: one HTML file that works offline and contains the images."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagcot.cot.filtration.filter import dropped_by, failed_criteria
from diagcot.cot.records import TraceRecord, VerdictRecord
from diagcot.cot.review.statistics import found_by
from diagcot.data.errors import DataError
from diagcot.data.study import Box
from diagcot.shards import Shard
from diagcot.tasks.prompts import IMAGE
from diagcot.text import boxes
from diagcot.text.options import RIGHT, WRONG
from diagcot.text.pages import environment
from diagcot.text.prose import readable

SIDE = 420  # pixels of the longer side of an image on the page
_MARKS = str.maketrans({RIGHT: "✓", WRONG: "✗"})  # many cluster machines have no font with the others
BINS = 24  # of the histogram of lengths


@dataclass(frozen=True)
class PageImage:
    """An image as a data URI; empty if its shard cannot be read."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Example:
    """A trace on the page: its records, its images, and for grounding the boxes of both answers."""

    trace: TraceRecord
    verdict: VerdictRecord
    images: tuple[PageImage, ...]
    gold_boxes: tuple[Box, ...] = ()
    predicted_boxes: tuple[Box, ...] = ()
    untrue: tuple[str, ...] = ()  # in what, as far as is known

    @staticmethod
    def of(
        trace: TraceRecord, verdict: VerdictRecord, untrue: frozenset[str] = frozenset(), *, shards_root: Path
    ) -> "Example":
        """The trace with its images read from their shards."""
        wrong = tuple(sorted(untrue))
        images = tuple(_page_image(shards_root / image["shard"], image["row"]) for image in trace["images"])
        if trace["task"] != "grounding":
            return Example(trace, verdict, images, untrue=wrong)
        predicted = tuple(box for box in boxes.parse(trace["answer"]) if boxes.is_well_formed(box))
        return Example(trace, verdict, images, tuple(boxes.parse(trace["reference"])), predicted, wrong)

    @property
    def reason(self) -> str:
        """Why it was kept or dropped, in a few words."""
        if self.verdict["kept"]:
            if not self.verdict["judgements"]:
                return "kept by the rules"
            return (
                "kept by the rules, against the judge" if failed_criteria(self.verdict) else "kept by rules and judge"
            )
        return f"dropped: {dropped_by(self.verdict).replace('_', ' ')}"

    @property
    def found_by(self) -> str:
        """The step that led to the conclusion."""
        return found_by(self.trace)


def html(figures: Mapping[str, Any], examples: Sequence[Example], lengths: Mapping[str, Sequence[int]]) -> str:
    """The page, without scripts or requests. figures: `Statistics.figures` with run, stage and time."""
    page = environment(Path(__file__).parent)
    page.filters["words"] = lambda name: name.replace("_", " ")
    page.filters["share"] = lambda part, whole: f"{100 * part / whole:.0f} %" if whole else "–"
    page.filters["figure"] = _figure
    page.filters["plain"] = lambda text: readable(text.replace(IMAGE, "").translate(_MARKS))
    return page.get_template("traces.html.j2").render(figures=figures, examples=examples, histogram=_histogram(lengths))


def _figure(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _histogram(lengths: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Words of the reasoning in `BINS` bins from 0: (kept, dropped) of each, the largest bin, and the end of the last."""
    values = [value for values in lengths.values() for value in values]
    width = max(1, -(-(max(values, default=0) + 1) // BINS))
    bins = [
        [sum(i * width <= v < (i + 1) * width for v in lengths[name]) for name in ("kept", "dropped")]
        for i in range(BINS)
    ]
    return {"bins": bins, "most": max(map(sum, bins)), "end": width * BINS}


def _page_image(path: Path, row: int) -> PageImage:
    try:
        picture = Shard(path).pixels(row)
    except DataError:
        return PageImage("", 1, 1)
    picture.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    picture.convert("L").save(data, "JPEG", quality=80)
    return PageImage(f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}", *picture.size)
