"""A tree of invented patients in the layout of MIMIC-CXR-JPG 2.0.0, with MIMIC-CXR's `mimic-cxr-reports.zip`.

Two additional files hold what the phantoms show: `phantom-findings.csv.gz` (tags) and `phantom-boxes.csv.gz`. Readers
recognise a tree of phantoms by them.
"""

import csv
import gzip
import io
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from diagcot.data.phantom.drawing import SIZE, VIEWS, PhantomImage, draw
from diagcot.data.phantom.patients import Visit, visits
from diagcot.data.readers.layouts import PREFIX, REPORTS_ZIP, folder
from diagcot.data.readers.mimic_cxr import BOXES, BOXES_FILE, FINDINGS, FINDINGS_FILE, LABELS, METADATA, SPLIT
from diagcot.data.seeded import generator
from diagcot.jobs.state import reading

_VIEW_MEANING = {"PA": "postero-anterior", "LATERAL": "lateral"}


def write_tree(
    root: Path,
    studies: int,
    seed: int = 0,
    size: int = SIZE,
    views: Sequence[str] = VIEWS,
    held_out: float = 0.1,
    advance: Callable[[int], bool] = lambda done: True,
) -> bool:
    """Write `studies` studies under `root`, the same bytes for the same arguments; returns whether the tree is complete.

    size: width and height of an image in pixels. held_out: share of the patients in each of validate and test.
    advance: called with the number of studies written; when it returns false, the tree stays incomplete.
    """
    rows: dict[str, list[Sequence[object]]] = {
        name: [] for name in ("metadata", "split", "labels", "findings", "boxes")
    }
    with zipfile.ZipFile(root / REPORTS_ZIP, "w", zipfile.ZIP_DEFLATED) as reports:
        for done, visit in enumerate(visits(studies, seed, held_out), 1):
            _write_study(root, visit, seed, size, views, rows)
            name = folder(Path("mimic-cxr-reports"), visit.subject, visit.study).with_suffix(".txt")
            entry = zipfile.ZipInfo(str(name))  # its date is always 1980, so the same tree gives the same bytes
            reports.writestr(entry, _report(visit), zipfile.ZIP_DEFLATED)
            if not advance(done):
                return False
    write_csv(root / f"{PREFIX}metadata.csv.gz", METADATA, rows["metadata"])
    write_csv(root / f"{PREFIX}split.csv.gz", SPLIT, rows["split"])
    for labeler in ("chexpert", "negbio"):
        write_csv(root / f"{PREFIX}{labeler}.csv.gz", LABELS, rows["labels"])
    write_csv(root / FINDINGS_FILE, FINDINGS, rows["findings"])
    write_csv(root / BOXES_FILE, BOXES, rows["boxes"])
    return True


def _write_study(
    root: Path, visit: Visit, seed: int, size: int, views: Sequence[str], rows: dict[str, list[Sequence[object]]]
) -> None:
    place = folder(root, visit.subject, visit.study)
    place.mkdir(parents=True, exist_ok=True)
    ids = generator("dicom", seed, visit.study)
    for view in views:
        phantom = draw(str(visit.study), visit.findings, view, size, seed)
        dicom = _dicom_id(ids.bytes(20))
        with reading.File(place / f"{dicom}.jpg", "w") as file:
            file.write(phantom.jpeg())
        rows["metadata"].append(_metadata(dicom, visit, phantom))
        rows["split"].append((dicom, visit.study, visit.subject, visit.split))
        rows["boxes"] += [
            (dicom, b.label, f"{b.x1:.6f}", f"{b.y1:.6f}", f"{b.x2:.6f}", f"{b.y2:.6f}") for b in phantom.boxes
        ]
    labels = visit.findings.labels()
    values = [f"{labels[name]:.1f}" if name in labels else "" for name in LABELS[2:]]
    rows["labels"].append((visit.subject, visit.study, *values))
    rows["findings"].append((visit.subject, visit.study, "|".join(visit.findings.tags())))


def _report(visit: Visit) -> str:
    """The report in the layout of MIMIC-CXR."""
    findings, impression = visit.findings.report()
    return (
        " " * 33 + "FINAL REPORT\n"
        f" EXAMINATION:  CHEST (PHANTOM)\n\n INDICATION:  {visit.indication}.\n\n COMPARISON:  None.\n\n"
        f" FINDINGS:  {findings}\n\n IMPRESSION:  {impression}\n"
    )


def _dicom_id(token: bytes) -> str:
    digits = token.hex()
    return "-".join(digits[i : i + 8] for i in range(0, 40, 8))


def _metadata(dicom: str, visit: Visit, phantom: PhantomImage) -> tuple[object, ...]:
    width, height = phantom.image.size
    meaning = _VIEW_MEANING[phantom.view]
    date = 21_500_101 + visit.study % 28
    return (dicom, visit.subject, visit.study, "CHEST (PHANTOM)", phantom.view, height, width, date, "120000.000",
            "CHEST (PHANTOM)", meaning, "Erect")  # fmt: skip


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a gzipped CSV without a time stamp, so that the same rows give the same bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    with io.BufferedWriter(reading.File(path, "w")) as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as out:
        out.write(text.getvalue().encode())
