"""IU-Xray (Open-I, Indiana University) in its three forms: NLM's 3,955 XMLs, Kaggle's two tables, R2Gen's annotation.

Source: Demner-Fushman et al., JAMIA 2016, doi 10.1093/jamia/ocv080; licence CC BY-NC-ND 4.0.
"""

import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from diagcot.data.errors import DataError, described
from diagcot.data.readers import iu_views, tables
from diagcot.data.readers.archive import MOST_UNPACKED, inflate
from diagcot.data.readers.documents import xml_fault
from diagcot.data.readers.layouts import (
    IU_ANNOTATION,
    IU_ARCHIVE,
    IU_FOLDER,
    IU_METADATA,
    IU_PROJECTIONS,
    IU_REPORTS,
    image_files,
    missing_iu,
)
from diagcot.data.readers.origins import Origin
from diagcot.data.reports.labeler import label
from diagcot.data.study import IU_XRAY, Image, Study, seeded_split, view_of
from diagcot.jobs.names import LONGEST, NAME, id_fault
from diagcot.jobs.state import json_text, reading

SHARES = {"train": 0.7, "validate": 0.1, "test": 0.2}
"""Shares of the studies, as in R2Gen's split (2,069 / 296 / 590; Chen et al. 2020, arXiv:2010.16056)."""
_R2GEN_FOLDER = re.compile(r"CXR\d+_IM-[\d-]+")


class IuXray:
    """The reports of Open-I. Each is a study and a patient, because the collection does not name patients.

    root: the folder with NLM's archive or its contents, with Kaggle's two tables, or with R2Gen's `annotation.json`.
    images: a folder with the images in any sub-folders; they are found by their ids. annotation: R2Gen's
    `annotation.json`, whose split is then used; studies that it does not list are left out. If `images` has R2Gen's own
    images (`CXR1_IM-0001/0.png`), or `root` has no other form, the images are those that the annotation names.
    on_bad_report: "skip" collects bad reports in `bad`; "fail" raises DataError for the first one.
    """

    dataset = IU_XRAY

    def __init__(
        self,
        root: Path,
        images: Path | None = None,
        annotation: Path | None = None,
        on_bad_report: Literal["skip", "fail"] = "skip",
    ) -> None:
        missing = missing_iu(root, images, annotation)
        if missing:
            raise DataError(f"IU-Xray is not complete; missing: {'; '.join(missing)}")
        self.root, self._folder, self._on_bad = root, images, on_bad_report
        self._xml = (root / IU_ARCHIVE).is_file() or (root / IU_FOLDER).is_dir()
        self._kaggle = not self._xml and (root / IU_REPORTS).is_file()
        self._annotation = annotation or (None if self._xml or self._kaggle else root / IU_ANNOTATION)
        self.taken_from: frozenset[str] = frozenset()
        self.bad: list[tuple[str, str]] = []  # (report, why it is left out)
        self.bad_boxes: list[tuple[str, str]] = []
        self.remarks: list[tuple[str, str]] = []  # (file or report, what is worth knowing)
        self.automatic: dict[
            str, tuple[str, ...]
        ] = {}  # report id -> automatic terms; `Study.tags` are those of people

    @property
    def rows(self) -> int:
        """Reports that were read, those that cannot be used among them."""
        return len(self._studies) + len(self.bad)

    def origins(self) -> Iterator[Origin]:
        """The names of each image and its report, and their split."""
        for name, study in self._studies.items():
            images = [(self.dataset, image.id) for image in study.images]
            for image in images or [(self.dataset, name)]:
                yield Origin(name, (image, (self.dataset, f"#{name}")), study.split, self._split is not None)

    @cached_property
    def _studies(self) -> dict[str, Study]:
        studies: dict[str, Study] = {}
        unlisted = 0
        reports = self._from_xml() if self._xml else self._from_kaggle() if self._kaggle else self._from_r2gen()
        for where, study in reports:
            if study.id in studies:
                self._fault(where, "a second report of the same id")
            elif self._split is None or study.id in self._split:
                studies[study.id] = study
            else:
                unlisted += 1
        if unlisted:
            self.remarks.append((str(self._annotation), f"does not list {unlisted} of the reports; they are not used"))
        for name in sorted(set(self._split or ()) - set(studies)):
            self._fault(f"{self._annotation}: {name}", "there is no report of this id")
        if self._folder is not None:
            missing = [image.id for study in studies.values() for image in study.images if image.id not in self._files]
            if missing:
                count = sum(len(study.images) for study in studies.values())
                what = f"{len(missing)} of {count} images are missing, the first is {missing[0]}"
                self.remarks.append((str(self._folder), what))
        return dict(sorted(studies.items(), key=lambda item: (len(item[0]), item[0])))

    def _fault(self, where: str, what: str, error: Exception | None = None) -> None:
        if self._on_bad == "fail":
            raise DataError(f"{where}: {what}") from error
        self.bad.append((where, what))

    def _from_xml(self) -> Iterator[tuple[str, Study]]:
        for name, text in self._members():
            try:
                study = self._parse(text)
            except ElementTree.ParseError as error:
                self._fault(name, f"is not a report ({xml_fault(error)})")
                continue
            except ValueError as error:
                self._fault(name, f"is not a report ({error})", error)
                continue
            yield name, study

    def _members(self) -> Iterator[tuple[str, bytes]]:
        archive = self.root / IU_ARCHIVE
        if not archive.is_file():
            for path in sorted((self.root / IU_FOLDER).glob("*.xml")):
                yield str(path), reading.read_bytes(path)
            return
        try:
            # Decompressed as a whole (20 MB): an incomplete stream would look like a shorter archive.
            unpacked = inflate(reading.read_bytes(archive), MOST_UNPACKED)
        except (ValueError, zlib.error) as error:
            raise DataError(f"{archive} is damaged ({error}); delete it and run `make data-iu`") from error
        try:
            with tarfile.open(fileobj=io.BytesIO(unpacked)) as members:
                for member in members:
                    if member.isfile() and member.name.endswith(".xml"):
                        source = members.extractfile(member)
                        assert source is not None
                        yield member.name, source.read()
        except (tarfile.TarError, ValueError, OSError) as error:  # whose messages may quote the header of a member
            reading.check_storage(archive, error)
            raise DataError(
                f"{archive} is damaged ({type(error).__name__}); delete it and run `make data-iu`"
            ) from None

    def _parse(self, text: bytes) -> Study:
        root = ElementTree.fromstring(text)
        uid = root.find("uId")
        if uid is None or not uid.get("id"):
            raise ValueError("no uId")
        name = str(uid.get("id"))
        if not NAME.fullmatch(name) or len(name) > LONGEST:
            raise ValueError("its uId is no name of letters, digits, '-', '_' and '.'")
        parts = {e.get("Label", "").lower(): " ".join((e.text or "").split()) for e in root.iter("AbstractText")}
        self.automatic[name] = tuple(" ".join((tag.text or "").split()) for tag in root.findall("MeSH/automatic"))
        tags = [" ".join((tag.text or "").split()) for tag in root.findall("MeSH/major")]
        return self._study(name, parts, tags, [_image_id(str(e.get("id"))) for e in root.findall("parentImage")])

    def _from_kaggle(self) -> Iterator[tuple[str, Study]]:
        images: dict[str, list[str]] = {}
        for line, (uid, name) in tables.rows(self.root / IU_PROJECTIONS, ("uid", "filename"), fault=self._fault):
            tables.identifier(name, f"{IU_PROJECTIONS}:{line}", "filename")
            if why := id_fault(name):
                self._fault(f"{self.root / IU_PROJECTIONS}:{line}", f"filename {why}")
                continue
            images.setdefault(uid, []).append(_image_id(name))
        columns = ("uid", "MeSH", "indication", "comparison", "findings", "impression")
        for line, (uid, mesh, *texts) in tables.rows(self.root / IU_REPORTS, columns, fault=self._fault):
            where = f"{self.root / IU_REPORTS}:{line}"
            if not tables.identifier(uid, where, "uid").isdecimal() or len(uid) > LONGEST:
                self._fault(where, f"uid is {described(uid)}, not a number of at most {LONGEST} digits")
                continue
            parts = {name: " ".join(text.split()) for name, text in zip(columns[2:], texts, strict=True)}
            yield where, self._study(f"CXR{uid}", parts, mesh.split(";"), images.get(uid, []))

    def _from_r2gen(self) -> Iterator[tuple[str, Study]]:
        for name, record in self._records.items():
            yield record["id"], self._study(name, {"findings": " ".join(str(record.get("report", "")).split())}, [], [])

    def _study(self, name: str, parts: dict[str, str], tags: list[str], images: list[str]) -> Study:
        if self._r2gen_images:
            images = [str(Path(path).with_suffix("")) for path in self._records.get(name, {}).get("image_path", [])]
        return Study(
            dataset=self.dataset,
            id=name,
            patient=name,
            split=default_split(name) if self._split is None else self._split.get(name, ""),
            findings=parts.get("findings", ""),
            impression=parts.get("impression", ""),
            indication=parts.get("indication", ""),
            comparison=parts.get("comparison", ""),
            tags=tuple(tag for tag in tags if tag),
            images=tuple(Image(i, self._views.get(i, ""), *self._size(i)) for i in images),
        )

    @cached_property
    def _headers(self) -> dict[str, iu_views.Header]:
        """Image -> fields of its DICOM header, from NLM's table of headers if it exists; those of `iu_views` and the size."""
        path = self.root / IU_METADATA
        if not path.is_file():
            return {}
        columns, optional = ("imageid", "View Position", "Columns", "Rows"), iu_views.COLUMNS[1:]
        names = (*columns[1:], *optional)
        return {
            _image_id(name): dict(zip(names, values, strict=True))
            for _, (name, *values) in tables.rows(path, columns, optional, fault=self._fault)
        }

    def _size(self, image: str) -> tuple[int, int]:
        """Width and height of an image by its header, 0 where that is not known."""
        header = self._headers.get(image, {})
        return int(float(header.get("Columns") or 0)), int(float(header.get("Rows") or 0))

    @cached_property
    def _views(self) -> dict[str, str]:
        """Image -> view. Kaggle's table decides between frontal and lateral, DICOM headers between PA and AP.

        Without Kaggle's table the headers decide both (`iu_views`).
        """
        if not (self.root / IU_PROJECTIONS).is_file():
            studies: dict[str, dict[str, iu_views.Header]] = {}
            for image, header in self._headers.items():
                studies.setdefault(image.partition("_")[0], {})[image] = header
            return iu_views.views(studies.values())
        headers = {name: view_of(header["View Position"]) for name, header in self._headers.items()}
        views: dict[str, str] = {}
        for line, (name, projection) in tables.rows(
            self.root / IU_PROJECTIONS,
            ("filename", "projection"),
            fault=lambda *_: None,  # reported with the reports
        ):
            image, view = _image_id(name), view_of(projection)
            if view in ("PA", "AP", "FRONTAL"):
                from_header = headers.get(image, "")
                views[image] = from_header if from_header in ("PA", "AP") else view
            else:
                views[image] = view
                if view != "LATERAL":
                    where = f"{self.root / IU_PROJECTIONS}:{line}"
                    self.remarks.append((where, "the projection is neither frontal nor lateral; the view is not known"))
        return views

    @cached_property
    def _records(self) -> dict[str, dict[str, Any]]:
        """Report id -> its record in R2Gen's annotation."""
        return {} if self._annotation is None else r2gen_records(self._annotation)

    @cached_property
    def _split(self) -> dict[str, str] | None:
        if self._annotation is None:
            return None
        return {
            name: {"val": "validate"}.get(record["split"], record["split"]) for name, record in self._records.items()
        }

    @cached_property
    def _files(self) -> dict[str, Path]:
        paths: dict[str, Path] = {}
        if self._folder is not None:
            for path in image_files(self._folder):
                r2gen = _R2GEN_FOLDER.fullmatch(path.parent.name) and path.stem.isdecimal()
                paths.setdefault(f"{path.parent.name}/{path.stem}" if r2gen else _image_id(path.name), path)
        return paths

    @cached_property
    def _r2gen_images(self) -> bool:
        """Whether the images of a study are those that the annotation names, not those of the report."""
        return self._annotation is not None and (
            not (self._xml or self._kaggle) or any("/" in name for name in self._files)
        )

    def patients(self) -> dict[str, int]:
        """Report id -> number of its images (at least 1, for the phantom of a study without images)."""
        return {name: max(1, len(study.images)) for name, study in self._studies.items()}

    def studies(self, patient: str) -> Iterator[Study]:
        """The study of a report id, without labels."""
        yield self._studies[patient]

    def labels(self, study: Study) -> dict[str, int]:
        """CheXpert labels of the report by the rule-based labeler, because the collection has none."""
        return label(f"{study.findings}\n{study.impression}")

    def image_file(self, study: Study, image: Image) -> Path | None:
        """The file in the folder of images; None if it does not exist."""
        return self._files.get(image.id)


def default_split(uid: str) -> str:
    """The split of a report without an annotation: fixed by its id, in the shares of `SHARES`."""
    return seeded_split(f"{IU_XRAY}/{uid}", SHARES)


def r2gen_records(path: Path) -> dict[str, dict[str, Any]]:
    """Report id -> record (id, report, image_path, split) of R2Gen's annotation.

    The `split` of each record is used, because a copy in circulation has four blanks as the key of its test split.
    Raises DataError for a file of another shape.
    """
    try:
        records = [
            record
            for part in json_text.parse_json(reading.read_bytes(path).decode("utf-8-sig")).values()
            for record in part
        ]
        by_id = {record["id"].split("_")[0]: record for record in records}
        for name in (*by_id, *(path for record in records for path in record.get("image_path", []))):
            if why := id_fault(name):
                raise ValueError(f"an id or a path {why}")
        if not {record["split"] for record in records} <= {"train", "val", "test"}:
            raise ValueError("the split of a record is not train, val or test")
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is not R2Gen's IU-Xray annotation ({type(error).__name__}: {error})") from error
    if len(by_id) != len(records):
        raise DataError(f"{path} has {len(records) - len(by_id)} reports twice; is it the published annotation?")
    return by_id


def _image_id(filename: str) -> str:
    """`CXR7_IM-2263-1001.png` (NLM) and `7_IM-2263-1001.dcm.png` (Kaggle) are both the XML's `CXR7_IM-2263-1001`.

    Only the XML of report 1 repeats its number, `CXR1_1_IM-0001-3001`; the two tables do not.
    """
    stem = Path(filename).stem.removesuffix(".dcm")
    return re.sub(r"^(?:CXR)?(\d+)_(?:\1_)?(?=IM)", r"CXR\1_", stem)
