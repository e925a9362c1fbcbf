"""The reader of every collection that the registry describes by tables."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from diagcot.data import pixels
from diagcot.data.errors import DataError, ImageError
from diagcot.data.readers.layouts import film_places, missing_tables, table_file
from diagcot.data.readers.records import Layout, RawBox, agreed
from diagcot.data.readers.registry import Dataset, TableFile
from diagcot.data.reports.labeler import label
from diagcot.data.reports.sections import sections
from diagcot.data.study import CHEXPERT_LABELS, Box, Image, Study, hashed_split, ordinal

Record = dict[str, Any]


class Collection:
    """The studies of an entry of the registry.

    root: the folder of the tables. images: that of the films where it is another one. on_bad_row: "skip" takes note of
    rows that cannot be used in `bad`; "fail" raises DataError for the first.
    Raises DataError, naming all that is missing, when the collection is not whole.

    Tables are read once, when patients are first asked for, into an index of about as many bytes as the columns that the
    entry names have as text; films, and headers of films whose size boxes need, are opened only for the study at hand.
    """

    def __init__(
        self, entry: Dataset, root: Path, images: Path | None = None, on_bad_row: Literal["skip", "fail"] = "skip"
    ) -> None:
        lacking = missing_tables(entry, root, images)
        if lacking:
            raise DataError(f"{entry.name} is not whole; missing: {'; '.join(lacking)}")
        self.entry, self.root, self._on_bad = entry, root, on_bad_row
        self.dataset = entry.name
        self.bad: list[tuple[str, str]] = []  # (file:line, what is wrong)
        self._folder = images or root
        self._labels: list[str] = []  # own names of labels, by number
        self._number: dict[str, int] = {}
        self._films: dict[str, int] = {}  # patient -> number of films
        self._rows: dict[str, bytearray] = {}  # patient -> JSON lines
        self._joined: dict[tuple[str, str], bytearray] = {}  # (image or study, its name) -> JSON lines
        self._rated = any(table.rater is not None for table in entry.tables)

    def patients(self) -> dict[str, int]:
        """Patient -> number of films."""
        return self._indexed

    @cached_property
    def _indexed(self) -> dict[str, int]:
        seen: set[int] = set()  # hashes: names of a hundred thousand films would be most of the memory
        for table in self.entry.tables:
            path = table_file(self.root, table)
            if path is not None:
                self._index(path, table, seen)
        if not self._films:
            raise DataError(f"{self.entry.name}: no row of its tables under {self.root} names a film")
        return self._films

    def _index(self, path: Path, table: TableFile, seen: set[int]) -> None:
        before, rows = len(self.bad), 0
        for line, record in Layout(table, self.entry).records(path, self._fault):
            rows += 1
            boxes = record.pop("boxes", [])
            if "labels" in record:
                record["labels"] = [
                    part for name, value in record["labels"].items() for part in (self._id(name), value)
                ]
            if boxes:
                record["boxes"] = [(self._id(b.label), b.corners, b.size, b.phrase) for b in boxes]
            if table.join:
                joined = self._joined.setdefault((table.join, record.pop(table.join)), bytearray())
                joined += json.dumps(record, separators=(",", ":")).encode() + b"\n"
                continue
            image = record["image"]
            patient = record.pop("patient", "") or record.get("study") or image
            known = hash((patient, image)) if table.repeats else hash(image)
            if known in seen and not table.repeats:
                self._fault(f"{path}:{line}", f"a second row of film {image}; the first one counts")
                continue
            self._films[patient] = self._films.get(patient, 0) + (known not in seen)
            seen.add(known)
            self._rows.setdefault(patient, bytearray()).extend(
                json.dumps(record, separators=(",", ":")).encode() + b"\n"
            )
        bad = len(self.bad) - before
        if bad > rows:
            where, what = self.bad[before]
            raise DataError(f"{path}: {bad} of {bad + rows} rows cannot be used; the first is {where}: {what}")

    def _id(self, name: str) -> int:
        if name not in self._number:
            self._number[name] = len(self._labels)
            self._labels.append(name)
        return self._number[name]

    def _fault(self, where: str, what: str) -> None:
        if self._on_bad == "fail":
            raise DataError(f"{where}: {what}")
        self.bad.append((where, what))

    def studies(self, patient: str) -> Iterator[Study]:
        """The labelled studies of one patient, in the order of time where the collection tells it, else by name."""
        self.patients()
        grouped: dict[str, dict[str, list[Record]]] = {}
        for record in _lines(self._rows[patient]):
            films = grouped.setdefault(str(record.get("study", record["image"])), {})
            films.setdefault(record["image"], []).append(record)
        found = [self._study(patient, name, films) for name, films in grouped.items()]
        yield from sorted(found, key=lambda study: (study.order, study.id))

    def _study(self, patient: str, name: str, films: Mapping[str, list[Record]]) -> Study:
        extra = list(_lines(self._joined.get(("study", name), b"")))
        images, labels = [], defaultdict[str, int](lambda: -2)
        everything = list(extra)
        for image, rows in films.items():
            rows = [*rows, *_lines(self._joined.get(("image", image), b""))]
            everything += rows
            images.append(self._image(patient, name, image, rows))
            self._vote([*rows, *extra], labels)
        facts: Record = {}
        for record in everything:
            facts.update(record)
        parts = sections(facts["report"]) if "report" in facts else {}
        if "findings" not in parts:  # a report without headings: its last paragraph
            parts.setdefault("impression", parts.get("conclusion", ""))
        text = {
            part: facts.get(part, parts.get(part, ""))
            for part in ("findings", "impression", "indication", "comparison")
        }
        if self.entry.from_report:
            known = label(f"{text['findings']}\n{text['impression']}")
        else:
            known = self._chexpert(labels)
        return Study(
            dataset=self.dataset,
            id=name,
            patient=patient,
            split=facts.get("split") or self._hashed(patient),
            tags=tuple(
                own.replace("|", "/") for own, value in labels.items() if value == 1 and own not in CHEXPERT_LABELS
            ),
            labels=known,
            images=tuple(images),
            order=ordinal(facts.get("order", "")),
            **{part: " ".join(words.split()) for part, words in text.items()},
        )

    def _hashed(self, patient: str) -> str:
        shares: dict[str, float] = dict(self.entry.held_out.items())
        return hashed_split(f"{self.dataset}/{patient}", {"train": 1 - sum(shares.values()), **shares})

    def _image(self, patient: str, study: str, image: str, rows: list[Record]) -> Image:
        facts: Record = {}
        for record in rows:
            facts.update(record)
        raw = [
            RawBox(self._labels[number], tuple(corners), tuple(size), phrase, record.get("rater", ""))
            for record in rows
            for number, corners, size, phrase in record.get("boxes", [])
        ]
        width, height = facts.get("width", 0), facts.get("height", 0)
        if raw and not (width and height) and any(not all(box.size) for box in raw):
            try:
                width, height = pixels.size(self._path(patient, study, facts))
            except ImageError:  # told when the film itself is read; without its size the boxes mean nothing
                return Image(image, facts.get("view", ""))
        kept = agreed(raw, self._quorum(rows)) if self._rated else raw
        boxes = [self._placed(box, box.size if all(box.size) else (width, height)) for box in kept]
        if None in boxes:
            self._fault(
                f"{self.dataset}/{study}/{image}", "a box lies outside its film; are the sizes those of this edition?"
            )
        return Image(image, facts.get("view", ""), width, height, tuple(dict.fromkeys(box for box in boxes if box)))

    def _quorum(self, rows: Iterable[Record]) -> int:
        return min(self.entry.agree, max(1, len({record["rater"] for record in rows if "rater" in record})))

    def _placed(self, box: RawBox, size: tuple[float, float]) -> Box | None:
        """The box in fractions of its film; None where it lies outside."""
        width, height = size
        x1, y1, x2, y2 = (min(max(n, 0.0), 1.0) for n in (
            box.corners[0] / width, box.corners[1] / height, box.corners[2] / width, box.corners[3] / height))  # fmt: skip
        same = self.entry.chexpert.get(box.label)
        # A label that is CheXpert's under another name takes its name; a kind of one (mass, nodule) keeps its own.
        alone = same is not None and list(self.entry.chexpert.values()).count(same) == 1
        return Box(same if alone and same else box.label, x1, y1, x2, y2, box.phrase) if x1 < x2 and y1 < y2 else None

    def _vote(self, rows: list[Record], labels: dict[str, int]) -> None:
        """Add what the rows of one film say: present where enough raters say so, and that beats doubt, which beats absent."""
        quorum = self._quorum(rows)
        said: dict[str, dict[int, set[str]]] = {}
        for record in rows:
            flat = record.get("labels", [])
            for number, value in zip(flat[::2], flat[1::2], strict=True):
                said.setdefault(self._labels[number], {}).setdefault(value, set()).add(record.get("rater", ""))
        for own, votes in said.items():
            value = 1 if len(votes.get(1, ())) >= quorum else -1 if -1 in votes else 0
            labels[own] = max(labels[own], value, key=(-2, 0, -1, 1).index)

    def _chexpert(self, labels: Mapping[str, int]) -> dict[str, int]:
        """CheXpert labels of own ones; of those that every film was read for, what is not said is absent."""
        found: dict[str, int] = {}
        for own, value in {**dict.fromkeys(self.entry.classes, 0), **labels}.items():
            name = self.entry.chexpert.get(own, own)
            if name in CHEXPERT_LABELS:
                found[name] = max(found.get(name, 0), value, key=(0, -1, 1).index)
        return {name: found[name] for name in CHEXPERT_LABELS if name in found}

    def labels(self, study: Study) -> dict[str, int]:
        """CheXpert labels of the study, as `studies` has found them."""
        return study.labels

    def film(self, study: Study, image: Image) -> Path | None:
        """The film's file, or the place where it should be."""
        for record in _lines(self._rows[study.patient]):
            if record["image"] == image.id:
                return self._path(study.patient, study.id, record)
        return None

    @cached_property
    def _found(self) -> list[tuple[Path, str]]:
        return film_places(self.entry, self._folder)

    def _path(self, patient: str, study: str, record: Record) -> Path:
        names = {"path": "", "folder": "", **record, "study": study, "patient": patient}
        paths = [place / pattern.format_map(names) for place, pattern in self._found]
        return next((path for path in paths if path.is_file()), paths[0])


def _lines(text: bytes | bytearray) -> Iterator[Record]:
    return map(json.loads, text.splitlines())
