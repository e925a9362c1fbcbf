"""The films of many shards as a torch data set, dealt over ranks and workers."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from diagcot.shards.reader import Shard


class ShardDataset(IterableDataset[Any]):
    """Every film of a split once an epoch, in an order that depends on `seed` and the epoch alone.

    `transform(shard, row)` makes the item; by default (study key, film id, PIL image). Rank r of n and worker w of m
    take every (n * m)-th film of the order, so none is lost or met twice; ranks may differ by one film.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        split: str | None = None,
        transform: Callable[[Shard, int], Any] | None = None,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.shards = [Shard(path) for path in paths]
        self.split, self.transform, self.seed, self.shuffle = split, transform or _film, seed, shuffle
        self.rank, self.world_size, self.epoch = rank, world_size, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.epoch = epoch

    @cached_property
    def _films(self) -> list[tuple[int, int]]:
        """(shard, row) of every film of the split."""
        return [
            (number, row)
            for number, shard in enumerate(self.shards)
            for i in range(len(shard))
            if self.split is None or shard.split(i) == self.split
            for row in shard.rows(i)
        ]

    def order(self) -> list[tuple[int, int]]:
        """(shard, row) of every film of the epoch, for all ranks together."""
        if not self.shuffle:
            return self._films
        places = np.random.default_rng((self.seed, self.epoch)).permutation(len(self._films))
        return [self._films[place] for place in places]

    def __len__(self) -> int:
        """Films of this rank."""
        return len(range(self.rank, len(self._films), self.world_size))

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for shard, row in self.order()[self.rank + number * self.world_size :: self.world_size * workers]:
            yield self.transform(self.shards[shard], row)


def _film(shard: Shard, row: int) -> tuple[str, str, Any]:
    return shard.study(shard.study_of(row)).key, shard.image(row).id, shard.pixels(row)
