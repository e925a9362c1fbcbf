"""Workers of torch's loader."""

from pathlib import Path

import pytest

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
