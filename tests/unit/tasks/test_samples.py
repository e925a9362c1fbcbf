"""References to images: they lead to no file outside of the shards."""

from pathlib import Path

import pytest

from diagcot.exchange import export
from diagcot.jobs import UserError
from diagcot.tasks.samples import ImageRef


@pytest.mark.parametrize("shard", ["{folder}/a.h5", "../a.h5", "one/../../a.h5"])
def test_a_sample_names_no_shard_outside_of_the_root(tmp_path: Path, shard: str) -> None:
    (tmp_path / "a.h5").write_bytes(b"")
    (tmp_path / "shards" / "one").mkdir(parents=True)
    with pytest.raises(UserError, match="which is outside of "):
        export._root(tmp_path / "shards" / "00000.jsonl", [ImageRef(shard.format(folder=tmp_path), 0)])


def test_a_shard_is_found_below_the_root(tmp_path: Path) -> None:
    assert ImageRef("one/shard/00000.h5", 0).path(tmp_path) == tmp_path / "one" / "shard" / "00000.h5"
