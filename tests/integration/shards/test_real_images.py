"""Shards of images that were published."""

import json
from pathlib import Path

import pytest

from diagcot.jobs.testing import context
from diagcot.shards import Shard
from diagcot.shards.sources import DRAWN, LATERAL, NO_REPORT, NO_VIEW
from launchers.chain import open_chain
from tests.unit.shards.test_build import IMAGES, REPORTS, built, needs_iu


@needs_iu
def test_real_images_are_used_where_they_are_there(tmp_path: Path) -> None:
    source = {"kind": "iu_xray", "path": str(REPORTS), "images": str(IMAGES), "max_lost": 1}
    ctx = context(tmp_path, {"sources": [source], "shards": 1, "image_size": 64}, stage="shard")
    (result,) = built(ctx)
    shard = Shard(ctx.output / "00000.h5")
    ids = {shard.image(row).id for row in range(shard.images)}
    assert result is not None and result.counts["phantoms"] == 0
    assert {"CXR7_IM-2263-1001", "CXR7_IM-2263-2001", "CXR1000_IM-0003-1001"} <= ids
    assert len(ids) == result.counts["images"] <= 13


@needs_iu
def test_phantoms_are_drawn_only_where_an_image_is_missing_and_are_counted_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shards of `make demo DATA=iu`, with what `make data-iu` fetches, and of the images 13, frontal and lateral."""
    for name in ("NLMCXR_reports.tgz", "nlmcxr_dicom_metadata.csv.gz"):
        (tmp_path / name).symlink_to(REPORTS / name)
    monkeypatch.setenv("IU_XRAY_DIR", str(IMAGES))
    chain = open_chain("tiny-iu", "laptop", None)
    assert f"shard: iu_xray: 13 image files in {IMAGES}; other studies get phantoms" in chain.notes()
    settings = json.loads(chain.stage("shard").settings.model_dump_json()) | {"shards": 1, "image_size": 32}
    (source,) = settings["sources"]
    source |= {"path": str(tmp_path), "max_studies": None}
    ctx = context(tmp_path, settings, stage="shard")
    (result,) = built(ctx)
    assert result is not None
    shard = Shard(ctx.output / "00000.h5")
    images = [shard.image(row) for row in range(shard.images)]
    real = [image for image in images if not image.phantom]
    frontal = [
        *("7_IM-2263-1001", "25_IM-1024-2001", "54_IM-2145-1001", "303_IM-1404-1001", "1000_IM-0003-3001"),
        *("1001_IM-0004-1001", "1900_IM-0584-1001"),
    ]  # by Kaggle's table
    assert {image.id for image in real} == {f"CXR{name}" for name in frontal}
    assert all(image.frontal for image in images)
    assert result.counts["phantoms"] == len(images) - len(real) == len(shard) - len(real)
    account = result.counts["sources"]["iu-xray"]
    assert account["in_shards"]["images"] == len(real) and account["asked"]["images"][DRAWN] > 5000
    assert account["asked"]["images"][LATERAL] >= 3
    assert account["lost"]["images"] == {NO_VIEW: 1}  # the one image that has no header
    assert account["lost"]["studies"] == {NO_REPORT: 28}  # of 3,955
