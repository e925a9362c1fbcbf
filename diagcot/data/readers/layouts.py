"""Where the files of collections are, and what of them is missing: names alone, for commands that only plan."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from diagcot.data.readers.registry import Dataset, TableFile

PREFIX = "mimic-cxr-2.0.0-"
"""Of the tables; MIMIC-CXR-JPG 2.1.0 kept it for all but the one that it added."""

RADIOLOGISTS = "mimic-cxr-2.1.0-test-set-labeled.csv"
REPORTS_ZIP = "mimic-cxr-reports.zip"
IU_ARCHIVE, IU_FOLDER = "NLMCXR_reports.tgz", "ecgen-radiology"
IU_METADATA = "nlmcxr_dicom_metadata.csv.gz"
IU_REPORTS, IU_PROJECTIONS = "indiana_reports.csv", "indiana_projections.csv"
IU_ANNOTATION = "annotation.json"


def folder(root: Path, subject: int | str, study: int | str) -> Path:
    """files/p10/p10000032/s50414267 under `root`: the films of a study; its report is the same path with `.txt`."""
    return root / "files" / f"p{str(subject)[:2]}" / f"p{subject}" / f"s{study}"


def missing_mimic(root: Path, reports: Path | None = None, tables: Path | None = None) -> list[str]:
    """What of the layout is not under `root`, in words; empty when the tree can be read. Only looks at names."""
    if not root.is_dir():
        return [f"the folder {root} itself"]
    lacking = [
        f"{PREFIX}{table}.csv.gz"
        for table in ("metadata", "split", "chexpert")
        if mimic_table(tables or root, table) is None
    ]
    if lacking and tables is None and (root / "cxr-record-list.csv.gz").is_file():
        lacking.append(
            "which MIMIC-CXR-JPG has: give its folder as `tables`, since this is the tree of the DICOM files"
        )
    if not (root / "files").is_dir():
        lacking.append("files/ (the films)")
    if reports_place(root, reports) is None:
        lacking.append(f"the reports ({REPORTS_ZIP}, or s*.txt beside the films' folders)")
    return lacking


def mimic_table(root: Path, name: str) -> Path | None:
    """The table's file, gzipped as published or unpacked, with the prefix of any version."""
    if name == "radiologist":
        patterns = [RADIOLOGISTS, f"{RADIOLOGISTS}.gz"]
    else:
        patterns = [f"mimic-cxr-2.*-{name}.csv{end}" for end in (".gz", "")]
    return next((path for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_file()), None)


def reports_place(root: Path, reports: Path | None) -> Path | None:
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


def missing_iu(root: Path, images: Path | None = None, annotation: Path | None = None) -> list[str]:
    """What is not under `root`, in words; empty when the reports can be read in one of their forms."""
    lacking = []
    xml = (root / IU_ARCHIVE).is_file() or (root / IU_FOLDER).is_dir()
    kaggle = (root / IU_REPORTS).is_file() and (root / IU_PROJECTIONS).is_file()
    if not (xml or kaggle or annotation or (root / IU_ANNOTATION).is_file()):
        lacking.append(
            f"{root / IU_ARCHIVE} (`make data-iu` obtains it), or {IU_REPORTS} and {IU_PROJECTIONS}, or {IU_ANNOTATION}"
        )
    if images is not None and not images.is_dir():
        lacking.append(f"{images} (the folder of films; is IU_XRAY_DIR right?)")
    if annotation is not None and not annotation.is_file():
        lacking.append(f"{annotation} (R2Gen's split)")
    return lacking


def files(root: Path) -> Iterator[Path]:
    """Every file under `root` in a stable order, through links to folders, but each folder once: links may form loops."""
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(root, followlinks=True):
        there = os.stat(place)  # noqa: PTH116  os.walk gives text
        if (there.st_dev, there.st_ino) in seen:
            folders.clear()
            continue
        seen.add((there.st_dev, there.st_ino))
        folders.sort()
        yield from (Path(place) / name for name in sorted(names))


def missing_tables(entry: Dataset, root: Path, images: Path | None = None) -> list[str]:
    """What of the collection is not there, in words; empty when it can be read. Only looks at names."""
    if not root.is_dir():
        return [f"the folder {root}"]
    lacking = [
        f"{root / table.patterns[0]}"
        for table in entry.tables
        if not table.optional and table_file(root, table) is None
    ]
    if images is not None and not images.is_dir():
        lacking.append(f"the folder of films {images}")
    elif not film_places(entry, images or root):
        lacking.append(f"the films ({' or '.join(entry.films)} under {images or root})")
    return [f"{what} ({entry.title}; get it at {entry.url})" for what in lacking[:1]] + lacking[1:]


def table_file(root: Path, table: TableFile) -> Path | None:
    """The table's file: that of the first pattern that is there; of several names, the last (the newest version)."""
    for pattern in table.patterns:
        found = sorted(path for path in root.glob(pattern) if path.is_file())
        if not found and not pattern.endswith((".gz", "*")):
            found = [path for path in [root / f"{pattern}.gz"] if path.is_file()]
        if found:
            return found[-1]
    return None


def film_places(entry: Dataset, folder: Path) -> list[tuple[Path, str]]:
    """(folder that is there, pattern of paths in it) of each of the entry's patterns for films."""
    found = []
    for pattern in entry.films:
        fixed, brace, rest = pattern.partition("{")
        parent, _, start = fixed.rpartition("/")
        places = sorted(folder.glob(parent)) if parent else [folder]
        found += [(place, start + brace + rest) for place in places if place.is_dir()]
    return found
