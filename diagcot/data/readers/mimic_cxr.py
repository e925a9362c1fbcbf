"""MIMIC-CXR-JPG 2.0.0 and 2.1.0, and MIMIC-CXR as DICOM (PhysioNet, credentialed), exactly as downloaded.

Source: https://physionet.org/content/mimic-cxr-jpg/ (images, tables; Johnson et al. 2019, arXiv:1901.07042) and
https://physionet.org/content/mimic-cxr/ (DICOM, `mimic-cxr-reports.zip`).
"""

import math
import re
import struct
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diagcot.data.errors import DataError, described
from diagcot.data.readers import tables
from diagcot.data.readers.archive import ReportZip
from diagcot.data.readers.layouts import (
    PREFIX,
    RADIOLOGISTS,
    folder,
    mimic_table,
    missing_mimic,
    reports_place,
)
from diagcot.data.readers.origins import Origin
from diagcot.data.reports.sections import Override, read_overrides, sections
from diagcot.data.study import (
    CHEXPERT_LABELS,
    MIMIC_CXR,
    PHANTOM,
    SPLITS,
    Box,
    Image,
    Study,
    age_of,
    sex_of,
    split_of,
    view_of,
)
from diagcot.jobs.state import reading

METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
    "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip
SPLIT = ("dicom_id", "study_id", "subject_id", "split")
LABELS = ("subject_id", "study_id", *sorted(CHEXPERT_LABELS))
FINDINGS_FILE = "phantom-findings.csv.gz"  # only in trees of phantoms, which are recognised by it
FINDINGS = ("subject_id", "study_id", "tags")
PATIENTS = "patients.csv"  # of MIMIC-IV
BOXES_FILE = "phantom-boxes.csv.gz"
BOXES = ("dicom_id", "label", "x1", "y1", "x2", "y2")

_DICOM_ID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{8}){4}")
_IMAGE_ROW = np.dtype(
    [("subject", "<u4"), ("study", "<u4"), ("dicom", "V20"), ("view", "u1"), ("rows", "<u2"), ("columns", "<u2"),
     ("date", "<u4"), ("time", "<f8")]
)  # fmt: skip
_NOT_MENTIONED = -2


class MimicCxr:
    """The studies of a MIMIC-CXR-JPG or MIMIC-CXR tree, real or phantom; images are .jpg or .dcm files.

    reports: the zip file of the reports, or a folder that holds `files/`, if they are not under `root`.
    labels: the table of labels: CheXpert's, NegBio's, or that of radiologists in 2.1.0 (687 studies of the test split).
    tables: the folder of the tables if it is not `root`, as for the DICOM tree, which has no tables.
    overrides: JSON file of the studies whose sections cannot be found by rule, see `diagcot.data.reports.sections`.
    on_bad_row: "skip" records rows that cannot be used in `bad`; "fail" raises DataError for the first one.
    Raises DataError that names all missing parts if the tree is not complete.

    Memory: 45 bytes for each image; for each study 5 bytes for its split, 18 for its labels and 16 for the place of its
    report in the zip file.
    """

    def __init__(
        self,
        root: Path,
        reports: Path | None = None,
        labels: Literal["chexpert", "negbio", "radiologist"] = "chexpert",
        tables: Path | None = None,
        on_bad_row: Literal["skip", "fail"] = "skip",
        overrides: Path | None = None,
    ) -> None:
        missing = missing_mimic(root, reports, tables)
        if missing:
            raise DataError(
                f"{root} is not a complete MIMIC-CXR tree; missing: {'; '.join(missing)}. "
                "Finish the download from PhysioNet, or give the right folders as `path`, `reports` and `tables` in the recipe."
            )
        self.root = root
        self.phantom = (root / FINDINGS_FILE).is_file()
        self.dataset = PHANTOM if self.phantom else MIMIC_CXR
        self.taken_from: frozenset[str] = frozenset()
        self.bad: list[tuple[str, str]] = []  # (file:line or study, why it is left out)
        self.bad_boxes: list[tuple[str, str]] = []
        self.remarks: list[tuple[str, str]] = []  # (file or report, what is worth knowing)
        self._reports = reports
        self._labels_table = labels
        self._tables = tables or root
        self._on_bad = on_bad_row
        self._overrides: dict[str, Override] = read_overrides(overrides) if overrides else {}
        self._views: list[str] = []

    @cached_property
    def _images(self) -> np.ndarray:
        """All images by subject and study, then in the order of the table; those of studies without a split are left out."""
        path, packed, seen = self._path("metadata"), bytearray(), set[bytes]()
        columns = ("dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns")
        for line, row in tables.rows(path, columns, ("StudyDate", "StudyTime"), fault=self._fault):
            where = f"{path}:{line}"
            dicom, view, *sizes = row[0], view_of(row[3]), *row[4:]
            try:
                if not _DICOM_ID.fullmatch(tables.identifier(dicom, where, "dicom_id")):
                    raise ValueError(f"dicom_id is {described(dicom)}, not an id of MIMIC-CXR")
                name = bytes.fromhex(dicom.replace("-", ""))
                if name in seen:
                    raise ValueError(f"a second row of image {dicom}; the first one is used")
                if view not in self._views:
                    self._views.append(view)
                subject, study = (
                    _number(text, where, column) for text, column in zip(row[1:3], columns[1:3], strict=True)
                )
                rows, width, date, time = (_figure(size or "0") for size in sizes)
                fields = (subject, study, name, self._views.index(view), int(rows), int(width), int(date), time)
                packed += struct.pack("<II20sBHHId", *fields)
                seen.add(name)
            except (ValueError, struct.error) as error:
                self._fault(where, str(error))
        images = np.frombuffer(packed, _IMAGE_ROW)
        if not len(images):
            raise DataError(f"{path} has no image that can be used: {self.bad[0][1] if self.bad else 'it has no rows'}")
        images = images[np.lexsort((images["study"], images["subject"]))]
        split = np.isin(images["study"], self._splits[0])
        for study in np.unique(images["study"][~split]):
            self._fault(f"study {study}", f"{self._path('split').name} has no row for it; it is left out")
        return images[split]  # type: ignore[no-any-return]

    @cached_property
    def _splits(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted study numbers, and for each the position of its split in SPLITS."""
        path, packed = self._path("split"), bytearray()
        for line, (study, split) in tables.rows(path, ("study_id", "split"), fault=self._fault):
            try:
                packed += struct.pack(
                    "<IB", _number(study, f"{path}:{line}", "study_id"), SPLITS.index(split_of(split))
                )
            except ValueError as error:
                self._fault(f"{path}:{line}", str(error))
        rows = np.unique(np.frombuffer(packed, np.dtype([("study", "<u4"), ("split", "u1")])))
        studies, counts = np.unique(rows["study"], return_counts=True)
        if (counts > 1).any():
            raise DataError(f"{path}: study {studies[counts > 1][0]} is in two splits; download the table again")
        return studies, rows["split"]

    @cached_property
    def _labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted study numbers, and their labels [studies, 14]."""
        path, names = self._path(self._labels_table), list(CHEXPERT_LABELS)
        if self._labels_table == "radiologist":
            names[names.index("Lung Opacity")] = "Airspace Opacity"
        studies, values = bytearray(), bytearray()
        optional = names if self._labels_table == "radiologist" else ()
        for line, (study, *row) in tables.rows(
            path, ("study_id", *(() if optional else names)), optional, fault=self._fault
        ):
            try:
                number = _number(study, f"{path}:{line}", "study_id")
                labels = [int(_figure(value)) if value else _NOT_MENTIONED for value in row]
                if not {-2, -1, 0, 1} >= set(labels):
                    raise ValueError("a label is not 1, 0, -1 or blank")
            except ValueError as error:
                self._fault(f"{path}:{line}", str(error))
                continue
            studies += struct.pack("<I", number)
            values += struct.pack("14b", *labels)
        numbers = np.frombuffer(studies, "<u4")
        first = np.unique(numbers, return_index=True)
        for study in np.unique(numbers[np.setdiff1d(np.arange(len(numbers)), first[1])]):
            self._fault(f"{path}: study {study}", "has a second row; the first one is used")
        return first[0], np.frombuffer(values, np.int8).reshape(-1, len(CHEXPERT_LABELS))[first[1]]

    @cached_property
    def _boxes(self) -> dict[str, list[Box]]:
        boxes: dict[str, list[Box]] = {}
        if self.phantom:
            for _, (dicom, label, *corners) in tables.rows(self.root / BOXES_FILE, BOXES):
                x1, y1, x2, y2 = map(float, corners)
                boxes.setdefault(dicom, []).append(Box(label, x1, y1, x2, y2))
        return boxes

    @cached_property
    def _tags(self) -> dict[str, tuple[str, ...]]:
        if not self.phantom:
            return {}
        rows = tables.rows(self.root / FINDINGS_FILE, FINDINGS[1:])
        return {study: tuple(tags.split("|")) for _, (study, tags) in rows}

    @cached_property
    def _persons(self) -> dict[int, tuple[str, int]]:
        """Subject -> sex, and the year of birth, from MIMIC-IV's table of patients, if it lies beside the others."""
        found: dict[int, tuple[str, int]] = {}
        subjects = set(np.unique(self._images["subject"]).tolist())
        for path in (self._tables / f"{PATIENTS}.gz", self._tables / PATIENTS):
            if path.is_file():
                columns = ("subject_id", "gender", "anchor_age", "anchor_year")
                for _, (subject, sex, age, year) in tables.rows(path, columns, fault=self._fault):
                    if subject.isdecimal() and int(subject) in subjects and age.isdecimal() and year.isdecimal():
                        found[int(subject)] = sex_of(sex), int(year) - int(age)
                break
        return found

    @cached_property
    def _report(self) -> Callable[[int, int], bytes | None]:
        place = reports_place(self.root, self._reports)
        assert place is not None
        if place.is_dir():

            def from_tree(subject: int, study: int) -> bytes | None:
                path = folder(place, subject, study).with_suffix(".txt")
                return reading.read_bytes(path) if path.is_file() else None

            return from_tree
        archive = ReportZip(place)
        return lambda subject, study: archive.read(study)

    @property
    def rows(self) -> int:
        """Rows of the tables that were read, those that cannot be used among them."""
        return len(self._images) + len(self._splits[0]) + len(self._labels[0]) + len(self.bad)

    def origins(self) -> Iterator[Origin]:
        """The names of each image and its patient, and their split."""
        studies, splits = self._splits
        places = splits[np.searchsorted(studies, self._images["study"])].tolist()
        for image, split in zip(self._images.tolist(), places, strict=True):
            patient = str(image[0])
            names = ((self.dataset, _dicom_id(image[2])), (self.dataset, f"#{patient}"))
            yield Origin(patient, names, SPLITS[split], True)

    def patients(self) -> dict[str, int]:
        """Patient -> number of images, for every patient of the tree."""
        subjects, counts = np.unique(self._images["subject"], return_counts=True)
        studies, (labelled, _) = np.unique(self._images["study"]), self._labels  # `bad` is complete after this call
        if self._labels_table != "radiologist" and (without := int((~np.isin(studies, labelled)).sum())):
            what = (
                self._path(self._labels_table).name,
                f"{without:,} of {len(studies):,} studies have no row: no labels",
            )
            self.remarks += [what] if what not in self.remarks else []
        return dict(zip(map(str, subjects.tolist()), counts.tolist(), strict=True))

    def studies(self, patient: str) -> Iterator[Study]:
        """The studies of one patient by number, without labels; a study without a report has empty sections."""
        rows = _rows_of(self._images["subject"], int(patient))
        for study in np.unique(self._images["study"][rows]).tolist():
            images = [image for image in self._images[rows].tolist() if image[1] == study]
            text = sections(self._text(int(patient), study), self._overrides.get(str(study)))
            concluded = (
                "" if "findings" in text else text.get("conclusion", "")
            )  # a last paragraph, or that of an override
            date, time = images[0][6:8]
            sex, born = self._persons.get(int(patient), ("", 0))
            yield Study(
                dataset=self.dataset,
                id=str(study),
                patient=patient,
                split=SPLITS[int(self._splits[1][_rows_of(self._splits[0], study)][0])],
                findings=text.get("findings", ""),
                impression=text.get("impression", concluded),
                indication=text.get("indication", ""),
                comparison=text.get("comparison", ""),
                tags=self._tags.get(str(study), ()),
                images=tuple(self._image(image) for image in images),
                order=f"{date:08d} {time:010.3f}" if date else "",
                age=age_of(str(date // 10000 - born)) if born and date else "",
                sex=sex,
            )

    def _image(self, row: tuple[Any, ...]) -> Image:
        dicom = _dicom_id(row[2])
        boxes = tuple(self._boxes.get(dicom, ()))
        return Image(dicom, self._views[row[3]], row[5], row[4], boxes, self.phantom)

    def _text(self, subject: int, study: int) -> str:
        raw = self._report(subject, study) or b""
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.remarks.append((f"report s{study}.txt", "is not UTF-8; it was read as Latin-1"))
            return raw.decode("latin-1")

    def labels(self, study: Study) -> dict[str, int]:
        """The CheXpert labels of the study in the table; none if the table has no row for it."""
        studies, values = self._labels
        rows = values[_rows_of(studies, int(study.id))]
        pairs = zip(CHEXPERT_LABELS, rows[0].tolist() if len(rows) else (), strict=False)
        return {name: value for name, value in pairs if value != _NOT_MENTIONED}

    @cached_property
    def _suffix(self) -> str:
        """The suffix of the images, from the first folders of the tree."""
        for patient in islice((self.root / "files").glob("p*/p*"), 20):
            for suffix in (".dcm", ".jpg", ".png", ".jpeg"):
                if next(patient.glob(f"s*/*{suffix}"), None):
                    return suffix
        return ".jpg"

    def image_file(self, study: Study, image: Image) -> Path | None:
        """The file of an image, which may turn out to be missing when it is opened."""
        return folder(self.root, study.patient, study.id) / f"{image.id}{self._suffix}"

    def _path(self, name: str) -> Path:
        path = mimic_table(self._tables, name)
        if path is None:
            wanted = RADIOLOGISTS if name == "radiologist" else f"{PREFIX}{name}.csv.gz"
            raise DataError(f"{self._tables / wanted} does not exist; finish the download from PhysioNet")
        return path

    def _fault(self, where: str, what: str) -> None:
        if self._on_bad == "fail":
            raise DataError(f"{where}: {what}")
        self.bad.append((where, what))


def _dicom_id(token: bytes) -> str:
    text = token.hex()
    return "-".join(text[i : i + 8] for i in range(0, 40, 8))


def _number(text: str, where: str, column: str) -> int:
    """A subject or study: eight digits. Raises ValueError, or DataError for an id that a spreadsheet changed."""
    tables.identifier(text, where, column)
    if not (text.isdecimal() and len(text) == 8):
        raise ValueError(f"{column} is {described(text)}, not a number of eight digits")
    return int(text)


def _figure(text: str) -> float:
    """A finite number. Raises ValueError, without the text."""
    if not math.isfinite(number := tables.number(text)):
        raise ValueError("not a finite number")
    return number


def _rows_of(column: np.ndarray, value: int) -> slice:
    """The rows of a sorted column that have this value."""
    first, end = np.searchsorted(column, (value, value + 1))
    return slice(int(first), int(end))
