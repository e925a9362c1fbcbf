"""Where the files of collections are, and which are missing. Looks only at names, for commands that only plan."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from diagcot.data.readers.registry import CollectionEntry, TableFile

PREFIX = "mimic-cxr-2.0.0-"
"""Prefix of the tables; MIMIC-CXR-JPG 2.1.0 kept it for all tables except the one that it added."""

RADIOLOGISTS = "mimic-cxr-2.1.0-test-set-labeled.csv"
REPORTS_ZIP = "mimic-cxr-reports.zip"
IU_ARCHIVE, IU_FOLDER = "NLMCXR_reports.tgz", "ecgen-radiology"
IU_METADATA = "nlmcxr_dicom_metadata.csv.gz"
IU_REPORTS, IU_PROJECTIONS = "indiana_reports.csv", "indiana_projections.csv"
IU_ANNOTATION = "annotation.json"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")


def folder(root: Path, subject: int | str, study: int | str) -> Path:
    """files/p10/p10000032/s50414267 under `root`: the images of a study; its report is the same path with `.txt`."""
    return root / "files" / f"p{str(subject)[:2]}" / f"p{subject}" / f"s{study}"


def missing_mimic(root: Path, reports: Path | None = None, tables: Path | None = None) -> list[str]:
    """The parts of the layout that are missing under `root`, in words; empty if the tree can be read."""
    if not root.is_dir():
        return [f"the folder {root} itself"]
    missing = [
        f"{PREFIX}{table}.csv.gz{_instead(tables or root, table)}"
        for table in ("metadata", "split", "chexpert")
        if mimic_table(tables or root, table) is None
    ]
    if missing and tables is None and (root / "cxr-record-list.csv.gz").is_file():
        missing.append(
            "which MIMIC-CXR-JPG has: give its folder as `tables`, because this is the tree of the DICOM files"
        )
    if not (root / "files").is_dir():
        missing.append(f"files/ (the images){_instead(root, 'files')}")
    elif _without_folders(root / "files"):
        missing.append(
            "files/p10/p10000032/s50414267/… (the images): they lie in files/ without the folders of patients and studies;"
            " keep the published tree"
        )
    if reports_place(root, reports) is None:
        packed = any(next(patient.glob("s*.txt.gz"), None) for patient in islice((root / "files").glob("p*/p*"), 20))
        found = " (s*.txt.gz are there: unpack them)" if packed else _instead(reports or root, "report")
        missing.append(f"the reports ({REPORTS_ZIP}, or s*.txt next to the folders of the images){found}")
    return missing


def _instead(root: Path, word: str) -> str:
    """A file or folder in `root`, or in a folder in it, whose name has the word, and what to do with it; "" if there is none."""
    places = root.glob(f"*{word}*"), root.glob(f"*/*{word}*")
    for path in (path for place in places for path in sorted(place)):
        suffix, found = path.suffix.lower(), path.relative_to(root)
        if path.parent != root:
            return f" ({found} is there: give the folder {found.parent})"
        if suffix in (".xlsx", ".xls", ".ods"):
            return f" ({found} is there: save it as CSV under the published name)"
        if suffix == ".zip" and "report" in word:
            return f" ({found} is there: give this file as `reports`)"
        return f" ({found} is there: give it the published name, or unpack it)"
    return ""


def _without_folders(images: Path) -> bool:
    """Whether images lie in the folder itself, and none in the first folders of patients."""
    flat = any(path.suffix.lower() in IMAGE_SUFFIXES for path in islice(images.iterdir(), 1000))
    return flat and not any(path.suffix.lower() in IMAGE_SUFFIXES for path in islice(images.glob("p*/p*/s*/*"), 100))


def mimic_table(root: Path, name: str) -> Path | None:
    """The file of a table, gzipped as published or unpacked, with the prefix of any version; None if it is missing."""
    if name == "radiologist":
        patterns = [RADIOLOGISTS, f"{RADIOLOGISTS}.gz"]
    else:
        patterns = [f"mimic-cxr-2.*-{name}.csv{end}" for end in (".gz", "")]
    return next((path for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_file()), None)


def reports_place(root: Path, reports: Path | None) -> Path | None:
    """The zip file, or the folder that holds `files/`; None if no report is found."""
    place = reports or root
    for archive in (place, place / REPORTS_ZIP):
        if archive.is_file() and archive.suffix == ".zip":
            return archive
    for base in (place, place / "mimic-cxr-reports"):
        patients = islice((base / "files").glob("p*/p*"), 20)  # not all 65,000: commands that only plan run this too
        if any(next(patient.glob("s*.txt"), None) for patient in patients):
            return base
    return None


def missing_iu(root: Path, images: Path | None = None, annotation: Path | None = None) -> list[str]:
    """The parts that are missing under `root`, in words; empty if the reports can be read in one of their forms."""
    missing = []
    xml = (root / IU_ARCHIVE).is_file() or (root / IU_FOLDER).is_dir()
    kaggle = (root / IU_REPORTS).is_file() and (root / IU_PROJECTIONS).is_file()
    if not (xml or kaggle or annotation or (root / IU_ANNOTATION).is_file()):
        missing.append(
            f"{root / IU_ARCHIVE} (`make data-iu` obtains it), or {IU_REPORTS} and {IU_PROJECTIONS}, or {IU_ANNOTATION}"
            + (_instead(root, "ecgen-radiology") or _instead(root, "report") or _instead(root, "annotation"))
        )
    if images is not None and not images.is_dir():
        missing.append(f"{images} (the folder of the images; check IU_XRAY_DIR)")
    elif images is not None and next(image_files(images), None) is None:
        suffixes = ", ".join(IMAGE_SUFFIXES)
        found = _instead(images, ".tgz") or _instead(images, ".zip")
        missing.append(f"images in {images} (no {suffixes} file is in it or below; check IU_XRAY_DIR){found}")
    if annotation is not None and not annotation.is_file():
        missing.append(f"{annotation} (R2Gen's split)")
    return missing


def files(root: Path) -> Iterator[Path]:
    """Every file under `root` in a stable order. Follows links to folders, but visits each folder once: links may form loops."""
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(root, followlinks=True):
        status = os.stat(place)  # noqa: PTH116  os.walk gives text
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        yield from (Path(place) / name for name in sorted(names))


def image_files(root: Path) -> Iterator[Path]:
    """Every image of `IMAGE_SUFFIXES` under `root`, as `files`."""
    return (path for path in files(root) if path.suffix.lower() in IMAGE_SUFFIXES)


def missing_tables(entry: CollectionEntry, root: Path, images: Path | None = None) -> list[str]:
    """The parts of the collection that are missing, in words; empty if it can be read."""
    if not root.is_dir():
        return [f"the folder {root}"]
    missing = [
        f"{root / table.patterns[0]}"
        for table in entry.tables
        if not table.optional and table_file(table, root, images) is None
    ]
    if images is not None and not images.is_dir():
        missing.append(f"the folder of images {images}")
    elif not image_places(entry, images or root):
        missing.append(f"the images ({' or '.join(entry.images)} under {images or root})")
    return [f"{what} ({entry.title}; get it at {entry.url})" for what in missing[:1]] + missing[1:]


def table_file(table: TableFile, root: Path, images: Path | None = None) -> Path | None:
    """The file of a table, by the first pattern that matches; of several matches the last by name (the newest version)."""
    return next(iter(table_files(table, root, images)[-1:]), None)


def table_files(table: TableFile, root: Path, images: Path | None = None) -> list[Path]:
    """All files that the first pattern with a match names, by name.

    They are looked for under `root`, then under `images`, the folder of a collection that this one adds to.
    """
    for folder in (root, images):
        for pattern in table.patterns if folder is not None else ():
            assert folder is not None
            matches = sorted(path for path in folder.glob(pattern) if path.is_file())
            if not matches and not pattern.endswith((".gz", "*")):
                matches = [path for path in [folder / f"{pattern}.gz"] if path.is_file()]
            if matches:
                return matches
    return []


def image_places(entry: CollectionEntry, folder: Path) -> list[tuple[Path, str]]:
    """(existing folder, pattern of paths in it) of each image pattern of the entry."""
    places = []
    for pattern in entry.images:
        fixed, brace, rest = pattern.partition("{")
        parent, _, start = fixed.rpartition("/")
        folders = sorted(folder.glob(parent)) if parent else [folder]
        places += [(place, start + brace + rest) for place in folders if place.is_dir()]
    return places
