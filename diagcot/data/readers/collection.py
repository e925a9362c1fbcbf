"""The reader of all collections that the registry describes by tables."""

import contextlib
import heapq
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from diagcot.data import pixels, seeded
from diagcot.data.errors import DataError, ImageError
from diagcot.data.readers.given_questions import questions_of
from diagcot.data.readers.layouts import image_places, missing_tables, table_files
from diagcot.data.readers.origins import Origin
from diagcot.data.readers.records import SECTIONS, RawBox, TableLayout, agreed
from diagcot.data.readers.registry import CollectionEntry, TableFile
from diagcot.data.reports.labeler import label
from diagcot.data.reports.sections import free_sections
from diagcot.data.study import CHEXPERT_LABELS, SPLITS, Box, Image, Study, ordinal, seeded_split

Record = dict[str, Any]
_SAMPLED_PATIENTS, _SAMPLED_IMAGES = 512, 48
_MISFITS, _MARGIN = 0.1, 1.02
_RESIZED = (
    "its boxes are in pixels of another size than the image file has: this is a resized copy; put the table of the original"
    " sizes beside it, or take the original images"
)


class TableCollection:
    """The studies of an entry of the registry.

    root: the folder of the tables. images: the folder of the images, if it is another one. on_bad_row: "skip" records
    rows that cannot be used in `bad`; "fail" raises DataError for the first one.
    Raises DataError that names all missing parts if the collection is not complete.

    Tables are read once, when patients are first needed, into an index of about as many bytes as the named columns have
    as text. Images are opened only for the study at hand: to read them, or to read their size if boxes need it.
    """

    def __init__(
        self,
        entry: CollectionEntry,
        root: Path,
        images: Path | None = None,
        on_bad_row: Literal["skip", "fail"] = "skip",
    ) -> None:
        missing = missing_tables(entry, root, images)
        if missing:
            raise DataError(f"{entry.name} is not complete; missing: {'; '.join(missing)}")
        self.entry, self.root, self._on_bad = entry, root, on_bad_row
        self.dataset = entry.name
        self._used_rows = 0
        self.bad: list[tuple[str, str]] = []  # (file:line, why the row is left out)
        self.bad_boxes: list[tuple[str, str]] = []  # (image, why a box is left out)
        self.remarks: list[tuple[str, str]] = []  # (file, what is worth knowing)
        self._folder = images or root
        self._labels: list[str] = []  # the collection's names of labels, by number
        self._number: dict[str, int] = {}
        self._images: dict[str, int] = {}  # patient -> number of images
        self._records: dict[str, bytearray] = {}  # patient -> JSON lines
        self._joined: dict[tuple[str, str], bytearray] = {}  # ("image" or "study", its id) -> JSON lines
        self._required: dict[str, set[int]] = {}  # image or study -> hashes of those that required tables name
        self._known: dict[str, set[int]] = {"image": set(), "study": set()}  # hashes of the ids that the tables name
        self._has_raters = any(table.rater is not None for table in entry.tables)

    @property
    def rows(self) -> int:
        """Rows of the tables that were read, those that cannot be used among them."""
        return self._used_rows + len(self.bad)

    def patients(self) -> dict[str, int]:
        """Patient -> number of images."""
        return self._indexed

    @cached_property
    def _indexed(self) -> dict[str, int]:
        seen: set[int] = set()  # hashes, because the ids of a hundred thousand images would take most of the memory
        for table in sorted(self.entry.tables, key=lambda table: bool(table.join)):  # those that name the images first
            paths = table_files(table, self.root, self._folder)
            counts = [self._index(path, table, seen) for path in (paths if table.every else paths[-1:])]
            rows, strangers = map(sum, zip(*counts, strict=True)) if counts else (0, 0)
            if strangers:
                what = f"{strangers} of {rows} rows name no known {table.join} and are not used"
                self.remarks.append((table.patterns[0] if table.every else paths[-1].name, what))
        for key, names in self._required.items():
            self._keep(key, names)
        if not self._images:
            raise DataError(f"{self.entry.name}: no row of its tables under {self.root} names an image")
        if not (self.entry.states_splits or self.entry.held_out):
            self.remarks.append(
                (self.entry.name, "states no splits, and `held_out` is not set: all of it is for training")
            )
        return self._images

    def _index(self, path: Path, table: TableFile, seen: set[int]) -> tuple[int, int]:
        """Read a table; returns the number of its rows that can be used, and of those that no other table knows."""
        before, rows, strangers = len(self.bad), 0, 0
        for line, record in TableLayout(table, self.entry).records(path, self._fault):
            rows += 1
            boxes = record.pop("boxes", [])
            if "labels" in record:
                record["labels"] = [
                    part for name, value in record["labels"].items() for part in (self._number_of(name), value)
                ]
            if boxes:
                record["boxes"] = [(self._number_of(b.label), b.corners, b.size, b.phrase) for b in boxes]
            if table.join:
                name = record.pop(table.join)
                if table.required:
                    self._required.setdefault(table.join, set()).add(hash(name))
                if hash(name) not in self._known[table.join]:
                    strangers += 1
                    continue
                joined = self._joined.setdefault((table.join, name), bytearray())
                joined += json.dumps(record, separators=(",", ":")).encode() + b"\n"
                continue
            image = record["image"]
            patient = record.pop("patient", "") or record.get("study") or image
            key = hash((patient, image)) if table.repeats else hash(image)
            if key in seen and not table.repeats:
                rows -= 1
                self._fault(f"{path}:{line}", "a second row of an image; the first one is used")
                continue
            self._images[patient] = self._images.get(patient, 0) + (key not in seen)
            seen.add(key)
            self._known["image"].add(hash(image))
            self._known["study"].add(hash(str(record.get("study", image))))
            self._records.setdefault(patient, bytearray()).extend(
                json.dumps(record, separators=(",", ":")).encode() + b"\n"
            )
        self._used_rows += rows
        bad = len(self.bad) - before
        if bad > rows:
            where, what = self.bad[before]
            raise DataError(f"{path}: {bad} of {bad + rows} rows cannot be used; the first is {where}: {what}")
        return rows, strangers

    def _keep(self, key: str, names: set[int]) -> None:
        """Forget the images that no required table names, by themselves or by their study (`key`)."""
        for patient, records in list(self._records.items()):
            kept = [
                line
                for line in records.splitlines(keepends=True)
                for record in [json.loads(line)]
                if hash(str(record.get(key, record["image"]))) in names
            ]
            if kept:
                self._records[patient] = bytearray(b"".join(kept))
                self._images[patient] = len({record["image"] for record in map(json.loads, kept)})
            else:
                del self._records[patient], self._images[patient]

    def _number_of(self, name: str) -> int:
        if name not in self._number:
            self._number[name] = len(self._labels)
            self._labels.append(name)
        return self._number[name]

    def _fault(self, where: str, what: str) -> None:
        if self._on_bad == "fail":
            raise DataError(f"{where}: {what}")
        self.bad.append((where, what))

    def studies(self, patient: str) -> Iterator[Study]:
        """The labelled studies of one patient, sorted by time if the collection gives it, then by id."""
        self.patients()
        grouped: dict[str, dict[str, list[Record]]] = {}
        for record in _lines(self._records[patient]):
            images = grouped.setdefault(str(record.get("study", record["image"])), {})
            images.setdefault(record["image"], []).append(record)
        studies = [self._study(patient, name, images) for name, images in grouped.items()]
        yield from sorted(studies, key=lambda study: (study.order, study.id))

    def _study(self, patient: str, name: str, records: Mapping[str, list[Record]]) -> Study:
        of_study = list(_lines(self._joined.get(("study", name), b"")))
        images, labels = [], defaultdict[str, int](lambda: -2)
        questions = list(questions_of(of_study))
        all_records = list(of_study)
        for image, rows in records.items():
            of_image = [*rows, *_lines(self._joined.get(("image", image), b""))]
            all_records += of_image
            images.append(self._image(patient, name, image, of_image))
            self._vote([*of_image, *of_study], labels)
            questions += questions_of(of_image, image)
        facts = _merged(all_records) | _joined_texts(all_records)
        parts = free_sections(facts["report"]) if "report" in facts else {}
        if "findings" not in parts:  # a report without headings: use its last paragraph
            parts.setdefault("impression", parts.get("conclusion", ""))
        text = {
            part: facts.get(part, parts.get(part, ""))
            for part in ("findings", "impression", "indication", "comparison")
        }
        if self.entry.from_report:
            chexpert = label(f"{text['findings']}\n{text['impression']}")
        else:
            chexpert = self._chexpert(labels)
        return Study(
            dataset=self.dataset,
            id=name,
            patient=patient,
            split=_strictest(all_records) or self._split_of(patient),
            tags=tuple(
                own.replace("|", "/") for own, value in labels.items() if value == 1 and own not in CHEXPERT_LABELS
            ),
            labels=chexpert,
            images=tuple(images),
            order=ordinal(facts.get("order", "")),
            age=facts.get("age", ""),
            sex=facts.get("sex", ""),
            questions=tuple(dict.fromkeys(questions)),
            **{part: " ".join(words.split()) for part, words in text.items()},
        )

    def _split_of(self, patient: str) -> str:
        """The split of a patient whose tables state none; "" if they should state it."""
        shares: dict[str, float] = dict(self.entry.held_out.items())
        if self.entry.states_splits and not shares:
            return ""
        return seeded_split(f"{self.dataset}/{patient}", {"train": 1 - sum(shares.values()), **shares})

    def _image(self, patient: str, study: str, image: str, records: list[Record]) -> Image:
        facts = _merged(records)
        raw = self._raw_boxes(records)
        width, height = facts.get("width", 0), facts.get("height", 0)
        origin = next((f"{collection}/{name}" for collection, name in facts.get("names", ()) if name[0] != "#"), "")
        view = facts.get("view", "") or self._view_of_header(patient, study, facts)
        measured = (0, 0)
        if raw and not (width and height) and any(not all(box.size) for box in raw):
            try:
                measured = width, height = pixels.size(self._path(patient, study, facts))
            except ImageError:  # reported when the image itself is read; without its size the boxes cannot be used
                self._lose_boxes(f"{self.dataset}/{study}/{image}", len(raw), "the size of its image is not known")
                return Image(image, view, origin=origin)
        kept = agreed(raw, self._quorum(records)) if self._has_raters else raw
        if measured != (0, 0) and (
            not self._unscaled or any(_exceeds(box, measured) for box in kept if not all(box.size))
        ):
            self._lose_boxes(f"{self.dataset}/{study}/{image}", len(kept), _RESIZED)
            return Image(image, view, width, height, origin=origin)
        boxes = [self._placed(box, box.size if all(box.size) else (width, height)) for box in kept]
        if outside := boxes.count(None):
            what = "a box lies outside its image; are the sizes those of this edition?"
            self._lose_boxes(f"{self.dataset}/{study}/{image}", outside, what)
        return Image(image, view, width, height, tuple(dict.fromkeys(box for box in boxes if box)), origin=origin)

    def _raw_boxes(self, records: Iterable[Record]) -> list[RawBox]:
        return [
            RawBox(self._labels[number], tuple(corners), tuple(size), phrase, record.get("rater", ""))
            for record in records
            for number, corners, size, phrase in record.get("boxes", [])
        ]

    def _lose_boxes(self, image: str, count: int, what: str) -> None:
        if self._on_bad == "fail":
            raise DataError(f"{image}: {what}")
        self.bad_boxes += [(image, what)] * count

    def _view_of_header(self, patient: str, study: str, facts: Record) -> str:
        """The view that the DICOM header states, for collections whose tables have no views."""
        if any(table.view is not None for table in self.entry.tables):
            return ""
        path = self._path(patient, study, facts)
        return pixels.view(path) if path.suffix.lower() in (".dcm", ".dicom") else ""

    @cached_property
    def _unscaled(self) -> bool:
        """Whether boxes in pixels of the image file fit the files that are here, by a sample of the images with boxes.

        In a copy of smaller images most boxes exceed their image; those that do not are wrong, too.
        """
        found = exceeding = 0
        for patient in heapq.nsmallest(_SAMPLED_PATIENTS, self._records, key=seeded.rank):
            for record in _lines(self._records[patient]):
                study = str(record.get("study", record["image"]))
                boxes = self._raw_boxes([record, *_lines(self._joined.get(("image", record["image"]), b""))])
                if not boxes or found == _SAMPLED_IMAGES:
                    continue
                with contextlib.suppress(ImageError):
                    size = pixels.size(self._path(patient, study, record))
                    found += 1
                    exceeding += any(_exceeds(box, size) for box in boxes if not all(box.size))
        return exceeding <= _MISFITS * found

    def _quorum(self, records: Iterable[Record]) -> int:
        return min(self.entry.agree, max(1, len({record["rater"] for record in records if "rater" in record})))

    def _placed(self, box: RawBox, size: tuple[float, float]) -> Box | None:
        """The box in fractions of its image; None if it lies outside."""
        width, height = size
        x1, y1, x2, y2 = (min(max(n, 0.0), 1.0) for n in (
            box.corners[0] / width, box.corners[1] / height, box.corners[2] / width, box.corners[3] / height))  # fmt: skip
        chexpert = self.entry.chexpert.get(box.label)
        # A label that means the same as one of CheXpert takes its name; a subtype (mass, nodule) keeps its own name.
        only = chexpert is not None and list(self.entry.chexpert.values()).count(chexpert) == 1
        same = only or (chexpert is not None and chexpert.lower() == box.label.lower())
        return (
            Box(chexpert if same and chexpert else box.label, x1, y1, x2, y2, box.phrase)
            if x1 < x2 and y1 < y2
            else None
        )

    def _vote(self, records: list[Record], labels: dict[str, int]) -> None:
        """Add the labels of one image: present if enough raters say so, else in doubt if one does, else absent."""
        quorum = self._quorum(records)
        votes: dict[str, dict[int, set[str]]] = {}
        for record in records:
            flat = record.get("labels", [])
            for number, value in zip(flat[::2], flat[1::2], strict=True):
                votes.setdefault(self._labels[number], {}).setdefault(value, set()).add(record.get("rater", ""))
        for name, raters in votes.items():
            value = 1 if len(raters.get(1, ())) >= quorum else -1 if -1 in raters else 0
            labels[name] = max(labels[name], value, key=(-2, 0, -1, 1).index)

    def _chexpert(self, labels: Mapping[str, int]) -> dict[str, int]:
        """The CheXpert labels; a label that every image was read for is absent where it is not given."""
        chexpert: dict[str, int] = {}
        for own, value in {**dict.fromkeys(self.entry.classes, 0), **labels}.items():
            name = self.entry.chexpert.get(own, own)
            if name in CHEXPERT_LABELS:
                chexpert[name] = max(chexpert.get(name, 0), value, key=(0, -1, 1).index)
        return {name: chexpert[name] for name in CHEXPERT_LABELS if name in chexpert}

    @property
    def taken_from(self) -> frozenset[str]:
        """Other collections that the tables name for images of this one."""
        return frozenset(taken.collection for table in self.entry.tables for taken in table.taken_from)

    def origins(self) -> Iterator[Origin]:
        """The names of each image and its patient, and their split."""
        for patient in self.patients():
            for record in _lines(self._records[patient]):
                image = record["image"]
                keys = (("image", image), ("study", str(record.get("study", image))))
                joined = [row for key in keys for row in _lines(self._joined.get(key, b""))]
                split = _strictest([record, *joined])
                others = [(collection, name) for row in (record, *joined) for collection, name in row.get("names", ())]
                names = (*others, (self.dataset, image), (self.dataset, f"#{patient}"))
                yield Origin(patient, names, split or self._split_of(patient), bool(split))

    def labels(self, study: Study) -> dict[str, int]:
        """The CheXpert labels of the study."""
        return study.labels

    def image_file(self, study: Study, image: Image) -> Path | None:
        """The file of an image, or the path where it should be."""
        for record in _lines(self._records[study.patient]):
            if record["image"] == image.id:
                return self._path(study.patient, study.id, record)
        return None

    @cached_property
    def _places(self) -> list[tuple[Path, str]]:
        return image_places(self.entry, self._folder)

    def _path(self, patient: str, study: str, record: Record) -> Path:
        names = {"path": "", "folder": "", **record, "study": study, "patient": patient}
        paths = [_inside(place, pattern.format_map(names)) for place, pattern in self._places]
        return next((path for path in paths if path.is_file()), paths[0])


def _inside(place: Path, name: str) -> Path:
    """The file of that name in the collection's folder, links followed; a name that leads out of it is of none that is there."""
    path = place / name
    return path if place in Path(os.path.normpath(path)).parents else place / "outside-of-the-collection"


def _exceeds(box: RawBox, size: tuple[float, float]) -> bool:
    """Whether a box in pixels of its image goes beyond it by more than rounding."""
    return box.corners[2] > size[0] * _MARGIN or box.corners[3] > size[1] * _MARGIN


def _joined_texts(records: Iterable[Record]) -> Record:
    """The sections that tables give sentence by sentence, each with its different sentences in their order."""
    texts: dict[str, dict[str, None]] = {}
    for record in records:
        for section in SECTIONS:
            if section in record and "sentence" in record:
                texts.setdefault(section, {})[record[section]] = None
    return {section: " ".join(found) for section, found in texts.items()}


def _strictest(records: Iterable[Record]) -> str:
    """The split of an image that several tables state: test before validate before train; "" if none does."""
    return max((record["split"] for record in records if "split" in record), key=SPLITS.index, default="")


def _merged(records: Iterable[Record]) -> Record:
    """All values of the records in one; later records take precedence."""
    merged: Record = {}
    for record in records:
        merged.update(record)
    return merged


def _lines(text: bytes | bytearray) -> Iterator[Record]:
    return map(json.loads, text.splitlines())
