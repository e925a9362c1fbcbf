"""IU-Xray (Open-I, Indiana University): the 3,955 report XMLs straight from `NLMCXR_reports.tgz`, films from a folder.

Source: Demner-Fushman et al., JAMIA 2016, doi 10.1093/jamia/ocv080; licence CC BY-NC-ND 4.0, which stays with the data.
"""

import csv
import gzip
import hashlib
import io
import json
import os
import tarfile
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from diagcot.data.errors import DataError
from diagcot.data.labeler import label
from diagcot.data.study import Image, Study

ARCHIVE = "NLMCXR_reports.tgz"
METADATA = "nlmcxr_dicom_metadata.csv.gz"
PROJECTIONS = "indiana_projections.csv"  # Kaggle's table of frontals and laterals; optional
SHARES = (("train", 0.7), ("validate", 0.1), ("test", 0.2))
"""Of studies, as in R2Gen's split (2,069 / 296 / 590)."""
_FILMS = (".png", ".jpg", ".jpeg", ".dcm")
_HEADERS = {"PA": "PA", "AP": "AP", "LL": "LATERAL", "RL": "LATERAL", "LATERAL": "LATERAL", "LARGE LATERAL": "LATERAL"}


def missing(root: Path) -> list[str]:
    """What is not under `root`, in words; empty when the reports can be read."""
    return [] if (root / ARCHIVE).is_file() else [f"{root / ARCHIVE} (`make data-iu` obtains it)"]


class IuXray:
    """The reports of Open-I, each a study of a patient of its own (the collection names no patients).

    root: the folder with the archive. images: a folder with the films under any sub-folders, found by their ids.
    annotation: R2Gen's `annotation.json`; then its split is taken and studies that it leaves out are left out.
    on_bad_report: "skip" collects bad XMLs in `bad`; "fail" raises DataError for the first.
    """

    dataset = "iu-xray"

    def __init__(
        self,
        root: Path,
        images: Path | None = None,
        annotation: Path | None = None,
        on_bad_report: Literal["skip", "fail"] = "skip",
    ) -> None:
        lacking = missing(root)
        if images is not None and not images.is_dir():
            lacking.append(f"{images} (the folder of films; is IU_XRAY_DIR right?)")
        if annotation is not None and not annotation.is_file():
            lacking.append(f"{annotation} (R2Gen's split)")
        if lacking:
            raise DataError(f"IU-Xray is not complete; missing: {'; '.join(lacking)}")
        self.root, self._folder, self._annotation, self._on_bad = root, images, annotation, on_bad_report
        self.bad: list[tuple[str, str]] = []  # (name in the archive, what is wrong)
        self.automatic: dict[str, tuple[str, ...]] = {}  # report id -> automatic terms; people's are `Study.tags`

    @cached_property
    def _studies(self) -> dict[str, Study]:
        found: dict[str, Study] = {}
        for name, text in self._members():
            try:
                study = self._parse(text)
            except (xml.ParseError, ValueError) as error:
                if self._on_bad == "fail":
                    raise DataError(f"{self.root / ARCHIVE}: {name} is not a report ({error})") from error
                self.bad.append((name, str(error)))
                continue
            if study.id in found:
                self.bad.append((name, f"a second report {study.id}"))
            elif self._split is None or study.id in self._split:
                found[study.id] = study
        return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))

    def _members(self) -> Iterator[tuple[str, bytes]]:
        try:
            # All at once (20 MB), since a stream that is cut short would only look like a shorter archive.
            with tarfile.open(fileobj=io.BytesIO(gzip.decompress((self.root / ARCHIVE).read_bytes()))) as archive:
                for member in archive:
                    if member.isfile() and member.name.endswith(".xml"):
                        source = archive.extractfile(member)
                        assert source is not None
                        yield member.name, source.read()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"{self.root / ARCHIVE} is damaged ({error}); delete it and run `make data-iu`") from error

    def _parse(self, text: bytes) -> Study:
        root = xml.fromstring(text)
        uid = root.find("uId")
        if uid is None or not uid.get("id"):
            raise ValueError("no uId")
        name = str(uid.get("id"))
        parts = {e.get("Label", "").lower(): " ".join((e.text or "").split()) for e in root.iter("AbstractText")}
        self.automatic[name] = tuple(" ".join((tag.text or "").split()) for tag in root.findall("MeSH/automatic"))
        tags = [" ".join((tag.text or "").split()) for tag in root.findall("MeSH/major")]
        images = [str(e.get("id")) for e in root.findall("parentImage")]
        return Study(
            dataset=self.dataset,
            id=name,
            patient=name,
            split=split_of(name) if self._split is None else self._split.get(name, ""),
            findings=parts.get("findings", ""),
            impression=parts.get("impression", ""),
            indication=parts.get("indication", ""),
            comparison=parts.get("comparison", ""),
            tags=tuple(tag for tag in tags if tag),
            images=tuple(Image(i, self._views.get(i, "")) for i in images),
        )

    @cached_property
    def _views(self) -> dict[str, str]:
        """Film -> view. Kaggle's table decides between frontal and lateral, DICOM headers between PA and AP.

        Headers say PA of 1,368 laterals (and of 2,222 frontals), so without Kaggle's table only their laterals are believed.
        """
        headers: dict[str, str] = {}
        if (self.root / METADATA).is_file():
            with gzip.open(self.root / METADATA, "rt", encoding="utf-8", newline="") as text:
                rows = csv.reader(text)
                columns = next(rows)
                name, view = columns.index("imageid"), columns.index("View Position")
                headers = {row[name]: _HEADERS.get(row[view], "") for row in rows}
        if not (self.root / PROJECTIONS).is_file():
            return {name: view for name, view in headers.items() if view == "LATERAL"}
        with (self.root / PROJECTIONS).open(encoding="utf-8", newline="") as text:
            lateral = {_image_id(row["filename"]): row["projection"] == "Lateral" for row in csv.DictReader(text)}
        return {
            name: "LATERAL" if aside else {"PA": "PA", "AP": "AP"}.get(headers.get(name, ""), "FRONTAL")
            for name, aside in lateral.items()
        }

    @cached_property
    def _split(self) -> dict[str, str] | None:
        return None if self._annotation is None else r2gen_split(self._annotation)

    @cached_property
    def _files(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        if self._folder is not None:
            for place, folders, names in os.walk(self._folder):
                folders.sort()
                for name in sorted(names):
                    if name.lower().endswith(_FILMS):
                        found.setdefault(_image_id(name), Path(place) / name)
        return found

    def patients(self) -> dict[str, int]:
        """Report id -> number of films that its XML names (at least 1, for the phantom of a study without films)."""
        return {name: max(1, len(study.images)) for name, study in self._studies.items()}

    def studies(self, patient: str) -> Iterator[Study]:
        """The one study of a report id; its labels are those of the rule-based labeler."""
        study = self._studies[patient]
        yield replace(study, labels=label(f"{study.findings}\n{study.impression}"))

    def film(self, study: Study, image: Image) -> Path | None:
        """The film's file in the folder of images; None where it is not there."""
        return self._files.get(image.id)


def split_of(uid: str) -> str:
    """The split of a report where no annotation is given: by the hash of its id, in the shares of `SHARES`."""
    fraction = int.from_bytes(hashlib.blake2b(f"iu-xray/{uid}".encode(), digest_size=8).digest(), "big") / 2**64
    for split, share in SHARES[:-1]:
        if fraction < share:
            return split
        fraction -= share
    return SHARES[-1][0]


def r2gen_split(path: Path) -> dict[str, str]:
    """Report id -> split of R2Gen's annotation.

    Each record's own `split` is used, since a copy in circulation has four blanks for the key of its test split.
    Raises DataError for a file of another shape.
    """
    try:
        records = [record for part in json.loads(path.read_text(encoding="utf-8")).values() for record in part]
        return {r["id"].split("_")[0]: {"val": "validate"}.get(r["split"], r["split"]) for r in records}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not R2Gen's IU-Xray annotation ({error!r})") from error


def _image_id(filename: str) -> str:
    """`CXR7_IM-2263-1001.png` (NLM) and `7_IM-2263-1001.dcm.png` (Kaggle) are both the XML's `CXR7_IM-2263-1001`."""
    stem = Path(filename).stem.removesuffix(".dcm")
    return stem if stem.startswith("CXR") else f"CXR{stem}"
