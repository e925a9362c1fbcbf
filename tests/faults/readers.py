"""Reads every kind of file of the suite while its storage fails: `python -m tests.faults.readers FOLDER`, preloaded.

Prints one row for each reader, call and error number: what a lasting error led to, and what one that passes led to.
"""

import errno
import gzip
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import torch

from diagcot.cot.review import traces
from diagcot.data import pixels
from diagcot.data.readers import iu_xray, tables
from diagcot.data.readers.archive import ReportZip
from diagcot.data.reports import sections
from diagcot.evaluation import predictions
from diagcot.exchange import tables as exchanged
from diagcot.jobs.errors import StorageError
from diagcot.jobs.state import files, ledger, reading
from diagcot.jobs.state.records import Records
from diagcot.serving.server import weights
from diagcot.shards import Shard, shard_paths, verify
from diagcot.tasks import samples
from diagcot.tasks.predictions import Prediction
from diagcot.training.checkpoint import shard as checkpoint
from diagcot.training.checkpoint.shard import CheckpointShard
from diagcot.training.models import pretrained
from tests.fakes import storage
from tests.unit.shards.test_files import write

ERRORS = (errno.ESTALE, errno.EIO, errno.EACCES, errno.EMFILE, errno.ENOLCK, errno.EAGAIN, reading.UNSUPPORTED)
PASSING = (errno.ESTALE, errno.EIO, errno.EMFILE, errno.ENOLCK, errno.EAGAIN)
HDF5_MODES = (None, "TRUE", "FALSE", "BEST_EFFORT")


class Reader(NamedTuple):
    """A way to read a file. streams: a passing error may end it, since what was read before cannot be taken back."""

    file: str
    read: Callable[[], Any]
    calls: tuple[str, ...] = ("open", "read")
    streams: bool = False


def readers(root: Path) -> dict[str, Reader]:
    """Every reader, each with a file of its own under `root`."""
    (root / "shards").mkdir()
    shard = write(root / "shards" / "00000.h5")
    lines = "".join(json.dumps({"id": str(n)}) + "\n" for n in range(3))
    named = _texts(root, lines)
    manifest = {"step": 1, "attempt": "a", "world_size": 1, "state": {}}
    own = CheckpointShard(root / "step-1", 0, manifest)
    own.folder.mkdir()
    own.add("weights.pt", {"a": torch.zeros(4)})
    own.write()
    manifests = checkpoint.read(own.folder)
    assert manifests is not None
    table = predictions.write_parquet(root / "all.parquet", [Prediction(**_prediction())])
    image = root / "image.jpg"
    image.write_bytes(Shard(shard).jpeg(0))

    def record_ids() -> list[str]:
        records = Records(root, "unit", "now")
        try:
            return sorted(records.ids)
        finally:
            records.close()

    return {
        "folder of shards": Reader("shards", lambda: shard_paths(shard.parent), ("list",)),
        "header of a shard": Reader("00000.h5", lambda: Shard(shard).attrs),
        "study of a shard": Reader("00000.h5", lambda: Shard(shard).study(0)),
        "image of a shard": Reader("00000.h5", lambda: Shard(shard).jpeg(0)),
        "check of a shard": Reader("00000.h5", lambda: list(verify.faults(shard))),
        "folder of a checkpoint": Reader("step-1", lambda: checkpoint.read(own.folder), ("list",)),
        "manifest of a checkpoint": Reader("part-0.json", lambda: checkpoint.read(own.folder)),
        "file of a checkpoint": Reader("weights.pt", lambda: [*checkpoint.damaged_files(own.folder, manifests, 0, 1)]),
        "manifest of a unit": Reader("done/unit.json", lambda: ledger.manifest(root, "unit")),
        "JSON file of a stage": Reader("about.json", lambda: files.read_json(named["about.json"])),
        "digest of an output": Reader("about.json", lambda: files.digest(named["about.json"])),
        "records of a unit": Reader("unit~before.jsonl", record_ids),
        "family of a model": Reader("config.json", lambda: pretrained.family_of(root / "model")),
        "weights of a model": Reader("index.json", lambda: pretrained.weights_of(root / "model")),
        "architecture of a model": Reader("config.json", lambda: weights.architecture(root / "model")),
        "samples": Reader("samples.jsonl", lambda: list(samples.read_samples(named["samples.jsonl"]))),
        "predictions": Reader("predictions.jsonl", lambda: list(predictions.read([named["predictions.jsonl"]]))),
        "table of predictions": Reader("all.parquet", lambda: list(predictions.read_parquet(table))),
        "conversations": Reader("rows.jsonl", lambda: list(exchanged.rows(named["rows.jsonl"]))),
        "traces": Reader("traces/0.jsonl", lambda: list(traces.pairs(root / "traces", root))),
        "folder of verdicts": Reader("verdicts", lambda: list(traces.pairs(root / "traces", root)), ("list",)),
        "table": Reader("table.csv", lambda: list(tables.rows(named["table.csv"], ("a",))), streams=True),
        "packed table": Reader(
            "packed.csv.gz", lambda: list(tables.rows(root / "packed.csv.gz", ("a",))), streams=True
        ),
        "zip of reports": Reader("reports.zip", lambda: ReportZip(root / "reports.zip").read(1), streams=True),
        "annotation": Reader("annotation.json", lambda: iu_xray.r2gen_records(named["annotation.json"])),
        "overrides": Reader("overrides.json", lambda: sections.read_overrides(named["overrides.json"])),
        "image": Reader("image.jpg", lambda: pixels.convert(image, 32, 90)),
        "size of an image": Reader("image.jpg", lambda: pixels.size(image), streams=True),
    }


def _texts(root: Path, lines: str) -> dict[str, Path]:
    sample = {"id": "a", "task": "report", "study": "s", "images": [], "messages": [["user", "x"], ["assistant", "y"]]}
    record = {"id": "1_IM", "report": "x", "image_path": [], "split": "train"}
    texts = {
        "about.json": "{}",
        "done/unit.json": json.dumps({"unit": "unit", "outputs": {}, "counts": {}}),
        "partial/unit~before.jsonl": lines,
        "model/config.json": json.dumps({"model_type": "qwen2_vl"}),
        "model/model.safetensors.index.json": json.dumps({"weight_map": {}}),
        "samples.jsonl": json.dumps(sample) + "\n",
        "predictions.jsonl": json.dumps(_prediction()) + "\n",
        "rows.jsonl": lines,
        "traces/0.jsonl": lines,
        "verdicts/0.jsonl": lines,
        "table.csv": "a\n1\n",
        "annotation.json": json.dumps({"train": [record]}),
        "overrides.json": json.dumps({"s1": {"span": [0, 3]}}),
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "packed.csv.gz").write_bytes(gzip.compress(b"a\n1\n"))
    with zipfile.ZipFile(root / "reports.zip", "w") as archive:
        archive.writestr("files/s1.txt", "text")
    return {name: root / name for name in texts}


def _prediction() -> dict[str, Any]:
    words = ("id", "study", "task", "dataset", "model", "output", "answer", "reference", "finish")
    return {**dict.fromkeys(words, "x"), "task": "report", "phantom": True, "images": []}


def outcome(reader: Reader, expected: Any) -> str:
    """What a read leads to: "same", "told" with the name of the file, or what else came of it."""
    try:
        found = reader.read()
    except StorageError as error:
        known = reader.file in str(error) and "no damage of the file" in str(error)
        return "told" if known else f"told without its name: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "same" if _comparable(found) == expected else "another result"


def _comparable(value: Any) -> str:
    return repr(value)


def results(root: Path) -> Iterator[dict[str, Any]]:
    for name, reader in readers(root).items():
        expected = _comparable(reader.read())
        for call in reader.calls:
            for number in ERRORS:
                storage.fault(call, number, reader.file)
                lasting = outcome(reader, expected)
                storage.fault(call, number, reader.file, times=1)
                passing = outcome(reader, expected)
                storage.whole()
                passes = ["same", "told"] if reader.streams else ["same"] if number in PASSING else ["told"]
                yield {
                    "row": (name, call, number),
                    "lasting": lasting,
                    "passing": passing,
                    "right": lasting == "told" and passing in passes,
                }


def main(root: Path) -> None:
    reading.PAUSES = (0.0,)
    print(json.dumps({"hdf5": h5py.version.hdf5_version, "rows": list(results(root))}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # threads of torch and pyarrow may still ask for the rule while the process ends
