"""Shards of images that were published."""

from pathlib import Path

from diagcot.jobs.testing import context
from diagcot.shards import Shard
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
