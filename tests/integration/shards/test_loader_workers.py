"""Workers of torch's loader."""

import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from diagcot.shards import Shard
from tests.unit.shards.test_files import STUDIES, row, write


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("many")
    return [write(root / f"{k}.h5", STUDIES[k::2]) for k in range(2)]


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])  # a spawned worker imports torch anew
def test_batches_do_not_depend_on_workers_and_go_on_where_they_stopped(
    paths: list[Path], method: str, workers: int
) -> None:
    from torch.utils import data as loading

    from diagcot.shards import dataset

    data = dataset.ShardDataset(paths, transform=row)
    sampler = dataset.ShardSampler(len(data), seed=5)
    alone = list(loading.DataLoader(data, batch_size=3, sampler=sampler))
    loader = loading.DataLoader(
        data, batch_size=3, sampler=sampler, num_workers=workers, multiprocessing_context=method
    )
    assert list(loader) == alone
    sampler.set_epoch(0, position=2 * 3)
    assert list(loading.DataLoader(data, batch_size=3, sampler=sampler)) == alone[2:]


def numbered(shard: Shard, row: int) -> tuple[np.ndarray, str]:
    """As many equal pixels as fit, so that a batch that is written over shows, and the study's key."""
    key = shard.study(shard.study_of(row)).key
    return np.full((64, 64), zlib.crc32(key.encode()) % 251 + row % 4, np.uint8), key


def test_a_batch_stays_until_the_next_is_asked_for_and_epochs_follow_each_other(paths: list[Path]) -> None:
    from diagcot.shards import dataset

    data = dataset.ShardDataset(paths, transform=numbered)
    sampler = dataset.ShardSampler(len(data), seed=5)
    batches = dataset.Batches(data, sampler, 2, workers=2, ahead=1, multiprocessing_context="fork")
    for epoch in range(3):
        sampler.set_epoch(epoch)
        order = [data[number] for number in sampler]
        expected = [order[at : at + 2] for at in range(0, len(order), 2)]
        assert len(expected) == len(batches) > 4
        for wanted, (pixels, keys) in zip(expected, batches, strict=True):
            time.sleep(0.02)  # the workers go on meanwhile
            assert list(keys) == [key for _, key in wanted]
            np.testing.assert_array_equal(pixels, np.stack([item for item, _ in wanted]))


def odd(shard: Shard, row: int) -> tuple[np.ndarray]:
    return (np.zeros((2, 2 + (row > 0)), np.uint8),)


def test_items_of_another_shape_are_refused(paths: list[Path]) -> None:
    from diagcot.shards import dataset

    data = dataset.ShardDataset(paths, transform=odd)
    with pytest.raises(ValueError, match=r"an item of shape \(2, 3\), uint8, in a batch of shape \(2, 2\), uint8"):
        list(dataset.Batches(data, range(len(data)), 2, workers=1, multiprocessing_context="fork"))
