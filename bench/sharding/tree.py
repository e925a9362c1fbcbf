"""Films like real ones in size and noise, and trees in the layout of MIMIC-CXR-JPG that hold them many times over."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from diagcot.data.phantom.drawing import draw
from diagcot.data.phantom.findings import Findings
from diagcot.data.phantom.tree import write_csv
from diagcot.data.readers.layouts import PREFIX, REPORTS_ZIP, folder
from diagcot.data.readers.mimic_cxr import LABELS, METADATA, SPLIT

FULL = (2500, 3000)
LINKS = 30_000  # names that a file may have: 65,000 on ext4
REPORT = """                                 FINAL REPORT
 FINDINGS:

 Study {0}. The lungs are clear without focal consolidation. No pleural effusion or pneumothorax. The heart is normal in
 size. The mediastinal and hilar contours are unremarkable. No acute osseous abnormality.

 IMPRESSION:

 No acute cardiopulmonary process, study {0}.
"""


def images(count: int, size: tuple[int, int] = FULL, sigma: float = 3.0) -> list[bytes]:
    """Phantoms enlarged to `size`, with so much noise that a full one takes about 2.2 MB as a JPEG of quality 95."""
    made = []
    for seed in range(count):
        small = Image.open(io.BytesIO(draw(str(seed), Findings(), "PA", 512).jpeg())).convert("L")
        noise = np.random.default_rng(seed).normal(0, sigma, size[::-1]).astype(np.float32)
        values = np.asarray(small.resize(size, Image.Resampling.BICUBIC), np.float32) + noise
        out = io.BytesIO()
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=95)
        made.append(out.getvalue())
    return made


def write(root: Path, images: list[bytes], studies: int) -> Path:
    """Study k shows image k modulo their number, a hard link; 1 to 8 studies a patient, 1 in 50 for tests."""
    root.mkdir(parents=True)
    sources: list[Path] = []
    rows: dict[str, list[tuple[object, ...]]] = {"metadata": [], "split": [], "labels": []}
    subject, left = 10_000_000, 0
    with zipfile.ZipFile(root / REPORTS_ZIP, "w") as reports:
        for k in range(studies):
            if left == 0:
                subject, left = subject + 1, 1 + k % 8
            left -= 1
            if k % LINKS == 0:
                sources = _sources(root, images, k)
            study, digits = 50_000_000 + k, f"{k:040x}"
            dicom = "-".join(digits[i : i + 8] for i in range(0, 40, 8))
            place = folder(root, subject, study)
            place.mkdir(parents=True)
            os.link(sources[k % len(images)], place / f"{dicom}.jpg")
            report = folder(Path("mimic-cxr-reports"), subject, study).with_suffix(".txt")
            reports.writestr(str(report), REPORT.format(k))
            about = {"dicom_id": dicom, "subject_id": subject, "study_id": study, "ViewPosition": "PA"}
            about |= {"Rows": FULL[1], "Columns": FULL[0]}
            rows["metadata"].append(tuple(about.get(name, "") for name in METADATA))
            rows["split"].append((dicom, study, subject, "test" if subject % 50 == 0 else "train"))
            rows["labels"].append((subject, study, *(1.0 if name == "No Finding" else "" for name in LABELS[2:])))
    write_csv(root / f"{PREFIX}metadata.csv.gz", METADATA, rows["metadata"])
    write_csv(root / f"{PREFIX}split.csv.gz", SPLIT, rows["split"])
    for labeler in ("chexpert", "negbio"):
        write_csv(root / f"{PREFIX}{labeler}.csv.gz", LABELS, rows["labels"])
    return root


def _sources(root: Path, images: list[bytes], start: int) -> list[Path]:
    paths = [root / f".image-{start}-{n}.jpg" for n in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(image)
    return paths
