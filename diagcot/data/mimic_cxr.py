"""MIMIC-CXR-JPG 2.0.0 (PhysioNet, credentialed): the tables, the films' folders and the reports, exactly as downloaded.

Source: method.md 2.1; https://physionet.org/content/mimic-cxr-jpg/ (films, tables) and
https://physionet.org/content/mimic-cxr/ (`mimic-cxr-reports.zip`).
"""

import csv
import gzip
import zipfile
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path

from diagcot.data.errors import DataError
from diagcot.data.sections import Override, read_overrides, sections
from diagcot.data.study import CHEXPERT_LABELS, Box, Image, Study

PREFIX = "mimic-cxr-2.0.0-"
REPORTS_ZIP = "mimic-cxr-reports.zip"
METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
    "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip
SPLIT = ("dicom_id", "study_id", "subject_id", "split")
LABELS = ("subject_id", "study_id", *sorted(CHEXPERT_LABELS))
FINDINGS_FILE = "phantom-findings.csv.gz"  # of phantom trees alone; its presence is what tells that a tree is one
FINDINGS = ("subject_id", "study_id", "tags")
BOXES_FILE = "phantom-boxes.csv.gz"
BOXES = ("dicom_id", "label", "x1", "y1", "x2", "y2")


def folder(root: Path, subject: int | str, study: int | str) -> Path:
    """files/p10/p10000032/s50414267 under `root`: the films of a study; its report is the same path with `.txt`."""
    return root / "files" / f"p{str(subject)[:2]}" / f"p{subject}" / f"s{study}"


def missing(root: Path, reports: Path | None = None) -> list[str]:
    """What of the layout is not under `root`, in words; empty when the tree can be read. Only looks at names."""
    if not root.is_dir():
        return [f"the folder {root} itself"]
    wanted = [f"{PREFIX}{table}.csv.gz" for table in ("metadata", "split", "chexpert")]
    lacking = [name for name in wanted if not (root / name).is_file()]
    if not (root / "files").is_dir():
        lacking.append("files/ (the films)")
    if _reports_place(root, reports) is None:
        lacking.append(f"the reports ({REPORTS_ZIP}, or s*.txt beside the films' folders)")
    return lacking


class MimicCxr:
    """The studies of a MIMIC-CXR-JPG tree, real or phantom.

    `reports`: where the report texts are if not under `root`: the zip, or a folder that holds `files/`.
    overrides: JSON of the studies whose reports cannot be cut by rule, see `diagcot.data.sections`.
    Raises DataError, naming everything that is missing, when the tree is not whole.
    """

    def __init__(
        self, root: Path, reports: Path | None = None, labels: str = "chexpert", overrides: Path | None = None
    ) -> None:
        lacking = missing(root, reports)
        if lacking:
            raise DataError(
                f"{root} is not a whole MIMIC-CXR-JPG tree; missing: {'; '.join(lacking)}. "
                "Finish the download from PhysioNet, or point the recipe's `path` and `reports` at the right folders."
            )
        self.root = root
        self.phantom = (root / FINDINGS_FILE).is_file()
        self.dataset = "phantom" if self.phantom else "mimic-cxr"
        self._reports = reports
        self._labels_table = labels
        self._overrides: dict[str, Override] = read_overrides(overrides) if overrides else {}

    @cached_property
    def _films(self) -> dict[str, dict[str, list[Image]]]:
        """patient -> study -> films without boxes, in the table's order."""
        found: dict[str, dict[str, list[Image]]] = {}
        boxes = self._boxes
        for row in self._table("metadata", ("dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns")):
            dicom, subject, study, view, rows, columns = row
            view = "LATERAL" if view in ("LL", "RL") else view
            image = Image(dicom, view, int(columns or 0), int(rows or 0), tuple(boxes.get(dicom, ())), self.phantom)
            found.setdefault(subject, {}).setdefault(study, []).append(image)
        return found

    @cached_property
    def _boxes(self) -> dict[str, list[Box]]:
        boxes: dict[str, list[Box]] = {}
        if self.phantom:
            for dicom, label, *corners in _rows(self.root / BOXES_FILE, BOXES):
                boxes.setdefault(dicom, []).append(Box(label, *map(float, corners)))
        return boxes

    @cached_property
    def _splits(self) -> dict[str, str]:
        return dict(self._table("split", ("study_id", "split")))  # type: ignore[arg-type]

    @cached_property
    def _labels(self) -> dict[str, dict[str, int]]:
        columns = ("study_id", *CHEXPERT_LABELS)
        return {
            study: {name: int(float(value)) for name, value in zip(CHEXPERT_LABELS, values, strict=True) if value}
            for study, *values in self._table(self._labels_table, columns)
        }

    @cached_property
    def _tags(self) -> dict[str, tuple[str, ...]]:
        if not self.phantom:
            return {}
        rows = _rows(self.root / FINDINGS_FILE, FINDINGS[1:])
        return {study: tuple(tags.split("|")) for study, tags in rows}

    @cached_property
    def _report(self) -> Callable[[str, str], str | None]:
        place = _reports_place(self.root, self._reports)
        assert place is not None
        if place.is_dir():

            def from_tree(subject: str, study: str) -> str | None:
                path = folder(place, subject, study).with_suffix(".txt")
                return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None

            return from_tree
        archive = zipfile.ZipFile(place)
        names = {name.rsplit("/", 1)[-1]: name for name in archive.namelist() if name.endswith(".txt")}

        def from_zip(subject: str, study: str) -> str | None:
            name = names.get(f"s{study}.txt")
            return archive.read(name).decode("utf-8", errors="replace") if name else None

        return from_zip

    def patients(self) -> dict[str, int]:
        """Patient -> number of films, for every patient of the tree."""
        return {patient: sum(map(len, studies.values())) for patient, studies in self._films.items()}

    def studies(self, patient: str) -> Iterator[Study]:
        """The studies of one patient by number, without labels; of one without a report, the sections are empty."""
        for study, images in sorted(self._films[patient].items()):
            text = sections(self._report(patient, study) or "", self._overrides.get(study))
            concluded = "" if "findings" in text else text.get("conclusion", "")  # a last paragraph, or an override's
            yield Study(
                dataset=self.dataset,
                id=study,
                patient=patient,
                split=self._splits.get(study, "train"),
                findings=text.get("findings", ""),
                impression=text.get("impression", concluded),
                indication=text.get("indication", ""),
                comparison=text.get("comparison", ""),
                tags=self._tags.get(study, ()),
                images=tuple(images),
            )

    def labels(self, study: Study) -> dict[str, int]:
        """CheXpert labels of the study's row in the table; none where it has no row."""
        return self._labels.get(study.id, {})

    def film(self, study: Study, image: Image) -> Path | None:
        """The film's file (which may turn out to be missing when it is opened)."""
        return folder(self.root, study.patient, study.id) / f"{image.id}.jpg"

    def _table(self, name: str, columns: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        return _rows(self.root / f"{PREFIX}{name}.csv.gz", columns)


def _reports_place(root: Path, reports: Path | None) -> Path | None:
    """The zip, or the folder that holds `files/`; None where no report is found."""
    place = reports or root
    for archive in (place, place / REPORTS_ZIP):
        if archive.is_file() and archive.suffix == ".zip":
            return archive
    for base in (place, place / "mimic-cxr-reports"):
        patients = islice((base / "files").glob("p*/p*"), 20)  # not all 65,000: this also runs where jobs are planned
        if any(next(patient.glob("s*.txt"), None) for patient in patients):
            return base
    return None


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The named columns of a gzipped CSV, row by row. Raises DataError that names the file and the missing columns."""
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as text:
            reader = csv.reader(text)
            header = next(reader, [])
            lacking = [column for column in columns if column not in header]
            if lacking:
                raise DataError(f"{path} lacks the columns {', '.join(lacking)}; is it the official table?")
            places = [header.index(column) for column in columns]
            for row in reader:
                yield tuple(row[place] for place in places)
    except (EOFError, OSError, IndexError) as error:
        raise DataError(f"{path} cannot be read ({error}); download it again") from error
