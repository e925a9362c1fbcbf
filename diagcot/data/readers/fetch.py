"""Downloads the IU-Xray reports from the package index: `python -m diagcot.data.readers.fetch` (`make data-iu`).

The wheel of torchxrayvision (Cohen et al.) contains NLM's archive of the reports. It is downloaded and unzipped,
never installed.
"""

import argparse
import hashlib
import sys
import tempfile
import zipfile
from pathlib import Path

from diagcot.data.errors import DataError
from diagcot.jobs import UserError
from diagcot.jobs.environment import wheels

WHEEL = "torchxrayvision==1.5.7"
FILES = {
    "NLMCXR_reports.tgz": "8fb6de7eec73d8c3665067ad4bb003ccd57f971ae316d2642e1627ac7268667a",
    "nlmcxr_dicom_metadata.csv.gz": "996c7d7a23b6bef51b1308dfa9671fb59b00e67c8928f7ff45cc002ca16ebf3e",
    "BBox_List_2017.csv.gz": "cf9dc6029f65daa8b389415b0546af0eeeb91fbac7d63ec49d7f8de2fd8f40cd",
}
"""Files of the wheel -> their sha256."""

LICENCE = """\
NLMCXR_reports.tgz, nlmcxr_dicom_metadata.csv.gz
  Indiana University Chest X-ray Collection, Open-I, U.S. National Library of Medicine. Licence CC BY-NC-ND 4.0,
  named in every report. Cite: Demner-Fushman et al., JAMIA 2016, doi 10.1093/jamia/ocv080. Non-commercial use;
  do not publish changed texts or images; give the attribution above.
BBox_List_2017.csv.gz
  NIH ChestX-ray14, NIH Clinical Center. No restriction on use; link https://nihcc.app.box.com/v/ChestXray-NIHCC,
  cite Wang et al., CVPR 2017, and acknowledge the NIH Clinical Center as the provider.
Obtained from the wheel of torchxrayvision 1.5.7.
"""
PLACE = Path(__file__).resolve().parents[3] / "data" / "iu_xray"


def missing(folder: Path) -> list[str]:
    """Names of `FILES` that are not in `folder`, or differ from the published files."""
    return [name for name, digest in FILES.items() if not (folder / name).is_file() or _sha256(folder / name) != digest]


def fetch(folder: Path) -> list[str]:
    """Download the missing files into `folder`; returns their names.

    Raises UserError if the index cannot be reached, and DataError if a file differs from the published one.
    """
    names = missing(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "LICENCE.txt").write_text(LICENCE)
    if names:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            unpack(wheels.download(WHEEL, Path(scratch), "diagcot.data.readers.fetch"), folder, names)
    return names


def unpack(wheel: Path, folder: Path, names: list[str]) -> None:
    """Unpack `names` from the wheel; a file appears in `folder` only if its sha256 is right. Raises DataError otherwise."""
    with zipfile.ZipFile(wheel) as archive:
        for name in names:
            data = archive.read(f"torchxrayvision/data/{name}")
            if hashlib.sha256(data).hexdigest() != FILES[name]:
                raise DataError(f"{name} in {wheel.name} is not the published file (sha256 differs); do not use it")
            staged = folder / f".{name}"
            staged.write_bytes(data)
            staged.replace(folder / name)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    """Download or unpack the files of the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Download the IU-Xray reports from the package index.")
    parser.add_argument("--to", type=Path, default=PLACE, help="folder (default: data/iu_xray)")
    parser.add_argument("--wheel", type=Path, help="use this wheel instead of downloading it")
    options = parser.parse_args()
    try:
        if options.wheel:
            options.to.mkdir(parents=True, exist_ok=True)
            (options.to / "LICENCE.txt").write_text(LICENCE)
            names = missing(options.to)
            unpack(options.wheel, options.to, names)
        else:
            names = fetch(options.to)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        print(f"{options.wheel or options.to}: {error}", file=sys.stderr)
        return 1
    done = f"fetched {', '.join(names)}" if names else "nothing to fetch"
    print(f"IU-Xray reports are in {options.to} ({done})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
