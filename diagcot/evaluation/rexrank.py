"""A run's reports in ReXrank's file: an object of studies, each with its sections and `model_prediction`.

Layout: rajpurkarlab/ReXrank, data/iu_xray/ReXRank_IUXray_test.json and example_files/evaluation_script.md.
"""

import json
import os
from pathlib import Path
from typing import Any

from diagcot.evaluation import predictions
from diagcot.jobs import UserError
from diagcot.jobs.names import near
from diagcot.jobs.plans import plan
from diagcot.shards import Shard
from diagcot.tasks.predictions import Prediction

TABLE = "predictions.parquet"


def write(run: Path, model: str, out: Path) -> int:
    """Write a model's reports on the test split of a finished run to the new file `out`, which only you can read.

    ReXrank evaluates studies: of a study that was asked image by image, the answer about its first frontal image is written,
    or about its first image if none is frontal. Returns the number of studies. Raises UserError if the run has no reports of
    the model, if two collections name a study alike, or if `out` exists.
    """
    if out.exists():
        raise UserError(f"{out} exists; choose another path")
    if not (run / TABLE).is_file():
        raise UserError(f"{run / TABLE} is not there: name the folder of a run whose evaluation has ended")
    rows = [row for row in predictions.read_parquet(run / TABLE) if row.task == "report" and row.split == "test"]
    own = [row for row in rows if row.model == model]
    if not own:
        raise UserError(f"{run} has no reports of {model!r}{near(model, {row.model for row in rows})}")
    root = _shards_root(run)
    shards: dict[Path, Shard] = {}
    found: dict[str, tuple[bool, Prediction, Any]] = {}
    for row in sorted(own, key=lambda row: row.id):
        if not row.images:
            raise UserError(
                f"{row.id} has no image, and ReXrank evaluates studies with images: evaluate them in a run of their own"
            )
        path = root / row.images[0]["shard"]
        shard = shards.setdefault(path, Shard(path))
        place = predictions.image_row(row, 0, shard)
        frontal = len(row.images) > 1 or shard.image(place).frontal
        study = row.study.removeprefix(f"{row.dataset}/")
        known = found.get(study)
        if known and known[1].study != row.study:
            raise UserError(
                f"{known[1].study} and {row.study} have one name in ReXrank's file: evaluate one collection"
            )
        if known is None or (frontal and not known[0]):
            found[study] = frontal, row, shard.study(shard.study_of(place))
    content = {name: _entry(row, study) for name, (_, row, study) in sorted(found.items())}
    with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
    return len(content)


def _entry(row: Prediction, study: Any) -> dict[str, Any]:
    context = [
        f"{title}: {text}"
        for title, text in (("Indication", study.indication), ("Comparison", study.comparison))
        if text
    ]
    return {
        "section_findings": study.findings,
        "section_impression": study.impression,
        "report": f"Findings: {study.findings} Impression: {study.impression}",
        "context": " ".join(context),
        "split": "test",
        "model_prediction": row.answer,
    }


def _shards_root(run: Path) -> Path:
    """The folder that references to images begin at, as the stages of the run know it."""
    for folder in sorted(path.parent for path in run.glob("*/plan.json")):
        return Path(plan.read(folder).shards_root)
    raise UserError(f"{run} holds no stage; name the folder of a run, such as logs/tiny")
