"""Rows 3 and 31: damaged shards, forks and locks."""

import fcntl
import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import pytest
from torch.utils.data import DataLoader

from diagcot.cli import main as cli
from diagcot.data.errors import DataError
from diagcot.jobs import Plan, summary
from diagcot.jobs.execution import worker
from diagcot.jobs.plans.units import Units
from diagcot.shards import Shard, shard_paths
from diagcot.shards.dataset import ShardDataset, ShardSampler
from diagcot.shards.verify import faults
from launchers.data import phantoms
from tests import chains
from tests.faults.test_storage import forked

SHARDS = 3


def build(plan: Plan) -> None:
    for task_index in plan.open_tasks():
        assert forked(partial(worker.work, plan.path, task_index)) == 0
    assert summary.check(plan) == []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The stage `shard` of a run, done by its worker from phantoms."""
    root = tmp_path_factory.mktemp("shards") / "run"
    settings: dict[str, Any] = {"studies": 12, "size": 48}
    tree = chains.plan(root, "phantoms", 1, kind=phantoms.KIND.work, settings=settings, units=Units(["tree"]))
    settings = {"sources": [{"kind": "mimic_cxr", "input": "tree"}], "shards": SHARDS, "image_size": 48}
    plan = chains.plan(
        root, "shard", SHARDS, kind="diagcot.shards.build", settings=settings, inputs={"tree": [str(tree.output)]}
    )
    chains.write(root, [tree, plan], chains.cluster())
    build(tree)
    build(plan)
    return plan


def content(path: Path) -> list[Any]:
    shard = Shard(path)
    images = [shard.jpeg(row) for row in range(shard.images)]
    columns = [shard.numbers(f"images/{name}").tolist() for name in ("sha256", "study", "likeness")]
    return [*(shard.study(i) for i in range(len(shard))), images, columns, shard.left_out(), shard.attrs]


def places(size: int, count: int) -> Iterator[tuple[int, int]]:
    """`count` bits, one in each equal part of the file."""
    rng = random.Random(size)
    for n in range(count):
        yield rng.randrange(n * size // count, (n + 1) * size // count), 1 << rng.randrange(8)


@pytest.mark.heavy
@pytest.mark.row(
    3,
    promise="the reader names the shard, and the image if it is one; everything else reads as before",
    injected="one bit at 160 places over the whole file",
    daemons="real",
)
def test_row_03_a_flipped_bit_is_reported_or_harmless(built: Plan, tmp_path: Path) -> None:
    source = shard_paths(built.output)[0]
    data, good, told = source.read_bytes(), content(source), 0
    with h5py.File(source, locking=False) as file:
        first = file["images/jpeg"].id.get_offset()
        offsets = file["images/offset"][()] + first
    copy = tmp_path / "copy.h5"
    for position, bit in places(len(data), 160):
        damaged = bytearray(data)
        damaged[position] ^= bit
        copy.write_bytes(damaged)
        found = list(faults(copy))
        told += bool(found)
        assert all(str(copy) in fault for fault in found)
        if not found:
            assert content(copy) == good, position
            continue
        with pytest.raises(DataError, match=r"copy\.h5"):
            content(copy)
        if first <= position < offsets[-1]:
            row = int((offsets <= position).sum()) - 1
            shard = Shard(source)
            (fault,) = found
            assert f"image {shard.image(row).id} of {shard.study(shard.study_of(row)).key} (row {row})" in fault
    assert told > 120


@pytest.mark.row(
    3,
    promise="the reader names the shard",
    injected="the file cut at 60 lengths",
    daemons="real",
)
def test_row_03_a_shard_cut_short_is_reported(built: Plan, tmp_path: Path) -> None:
    source = shard_paths(built.output)[0]
    data, copy = source.read_bytes(), tmp_path / "copy.h5"
    for length in [0, 1, *(position for position, _ in places(len(data), 57)), len(data) - 1]:
        copy.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"copy\.h5"):
            content(copy)
        assert len(list(faults(copy))) >= 1


@pytest.mark.row(
    3,
    promise="`diagcot shards rebuild` sets the damaged shard aside; the next submission builds it alone, the same bytes",
    injected="one bit of an image of one shard",
    daemons="real",
)
def test_row_03_only_the_damaged_shard_is_built_again(
    built: Plan, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    paths = shard_paths(built.output)
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in paths}
    damaged = bytearray(before[paths[1]][0])
    with h5py.File(paths[1], locking=False) as file:
        damaged[file["images/jpeg"].id.get_offset() + 30] ^= 4
    paths[1].write_bytes(damaged)
    assert cli.main(["shards", "verify", str(built.output)]) == 1
    assert "(row 0) is damaged" in capsys.readouterr().out

    logs = str(built.path.parents[1])
    elsewhere = str(shutil.copy(paths[1], tmp_path / "00001.h5"))
    assert cli.main(["shards", "rebuild", elsewhere, "--logs", logs]) == 1  # no run has made it: it stays
    assert Path(elsewhere).exists() and built.missing() == []

    assert cli.main(["shards", "rebuild", str(built.output), "--logs", logs]) == 0
    assert built.missing() == ["00001"]
    assert shard_paths(built.output) == [paths[0], paths[2]]
    assert (paths[1].with_name(".00001.h5.damaged")).read_bytes() == damaged
    build(built)
    assert cli.main(["shards", "verify", str(built.output)]) == 0
    assert {path: path.read_bytes() for path in paths} == {path: data for path, (data, _) in before.items()}
    assert [path.stat().st_ino == before[path][1] for path in paths] == [True, False, True]


def _opened(shard: Shard, row: int) -> tuple[str, int, bytes]:
    """In a worker: the image, and how many HDF5 files this process holds open."""
    return shard.image(row).id, h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE), shard.jpeg(row)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # four workers are the point, however few the cores
@pytest.mark.row(
    31,
    promise="every image arrives once and whole; no process holds an HDF5 file open",
    injected="DataLoader with 4 forked workers over shards that the parent has read from, two passes",
    daemons="real",
)
def test_row_31_forked_workers_read_shards_that_their_parent_has_open(built: Plan) -> None:
    dataset = ShardDataset(shard_paths(built.output), transform=_opened)
    expected = {shard.image(row).id: shard.jpeg(row) for shard in dataset.shards for row in range(shard.images)}
    sampler = ShardSampler(len(dataset), seed=3)
    loader = DataLoader(dataset, batch_size=None, sampler=sampler, num_workers=4, multiprocessing_context="fork")
    for epoch in range(2):
        sampler.set_epoch(epoch)
        read = list(loader)
        assert {count for _, count, _ in read} == {0} == {h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)}
        assert len(read) == len(expected) and {name: image for name, _, image in read} == expected


@pytest.mark.row(
    31,
    promise="shards are read whatever locks there are; docs/data.md says what other programs need",
    injected="another process holds an exclusive lock on the file",
    daemons="real",
)
def test_row_31_a_lock_on_a_shard_does_not_stop_its_readers(built: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    path = shard_paths(built.output)[0]
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="unable to lock file"):
            h5py.File(path, "r")
        assert list(faults(path)) == []
    assert "HDF5_USE_FILE_LOCKING" in (chains.ROOT / "docs" / "data.md").read_text()
