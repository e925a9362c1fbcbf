"""IU-Xray with all its reports: shards and splits."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from diagcot.data.readers.iu_xray import IuXray
from diagcot.jobs import Unit
from diagcot.jobs.testing import context, run_unit
from diagcot.shards import Shard, build, shard_paths
from diagcot.tasks.diagnosis import report_samples
from tests.unit.data.test_readers import ANNOTATION, REPORTS, needs_reports, reached
from tests.unit.data.test_transforms import SHARED


@pytest.mark.skipif(not (SHARED / "openi_reports").is_dir(), reason="no ../shared/data/openi_reports")
def test_shards_of_iu_xray_hold_the_590_references_and_their_provenance(tmp_path: Path) -> None:
    """590 studies of the test split, each frontal and lateral: 1,180 samples, as DiagCoT's evaluation has them."""
    reports = SHARED / "openi_reports"
    source: dict[str, Any] = {
        "kind": "iu_xray",
        "path": str(reports),
        "annotation": str(reports / "annotation.r2gen_iu_xray.json"),
    }
    source |= {"transforms": ["r2gen_iu"], "only_fi": False, "phantom_images": True, "splits": ["test"]}
    ctx = context(tmp_path, {"sources": [source], "shards": 1, "image_size": 16}, stage="shard")
    run_unit(build, Unit("00000"), ctx)
    shard = Shard(shard_paths(ctx.output)[0])
    assert json.loads(shard.attrs["sources"])[0]["transforms"] == ["r2gen_iu"]
    samples = list(report_samples(shard, "x", "test"))
    published = (SHARED / "metrics_aamn_r2gen590" / "gts.csv").read_text().splitlines()
    assert len(samples) == 1180
    assert sorted({sample.study: sample.answer for sample in samples}.values()) == sorted(published)
    raw = {s.id: s for s in IuXray(reports)._studies.values()}
    kept = [shard.study(i) for i in range(len(shard))]
    assert all(s.labels == IuXray.labels(None, raw[s.id]) for s in kept)  # type: ignore[arg-type]


@needs_reports
def test_r2gens_split_of_the_xmls_and_of_its_own_images(tmp_path: Path) -> None:
    studies = reached(IuXray(REPORTS, annotation=REPORTS / ANNOTATION))
    assert Counter(study.split for study in studies) == {"train": 2069, "validate": 296, "test": 590}
    assert all(study.images[0].id.startswith("CXR") and "/" not in study.images[0].id for study in studies)
    (tmp_path / "CXR2384_IM-0942").mkdir()
    (tmp_path / "CXR2384_IM-0942" / "0.png").touch()
    studies = reached(IuXray(REPORTS, images=tmp_path, annotation=REPORTS / ANNOTATION))
    assert sum(len(study.images) for study in studies if study.split == "test") == 1180
    assert sum(bool(study.impression) for study in studies) > 2900  # which the annotation alone does not have
