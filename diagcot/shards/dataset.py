"""The images of many shards as a torch data set, and the order in which ranks and workers read them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from diagcot.shards.reader import Shard


class ShardDataset(Dataset[Any]):
    """Every image of a split, by number.

    transform: makes the item from a shard and a row; without it an item is (study key, image id, PIL image). Each process
    opens a shard when it first reads from it. Memory: 4 bytes for each image, besides what `Shard` keeps.
    """

    def __init__(
        self, paths: Sequence[Path], split: str | None = None, transform: Callable[[Shard, int], Any] | None = None
    ) -> None:
        self.shards = [Shard(path) for path in paths]
        self.transform = transform or _item
        rows = [shard.image_rows(split) for shard in self.shards]
        self._ends = np.cumsum([len(part) for part in rows], dtype=np.int64)
        self._rows = np.concatenate(rows) if rows else np.zeros(0, np.uint32)

    def __len__(self) -> int:
        return len(self._rows)

    def place(self, number: int) -> tuple[Shard, int]:
        """The shard of image `number`, and its row there. Raises IndexError."""
        if not 0 <= number < len(self._rows):
            raise IndexError(f"there are {len(self._rows)} images; there is no image {number}")
        return self.shards[int(np.searchsorted(self._ends, number, side="right"))], int(self._rows[number])

    def __getitem__(self, number: int) -> Any:
        return self.transform(*self.place(number))


class ShardSampler(Sampler[int]):
    """The numbers of the images that one rank reads in an epoch; a DataLoader deals them to its workers.

    The order of all ranks together depends only on `seed` and the epoch and runs over all shards. Rank r of n takes
    every n-th image of it, so no image is lost or read twice; ranks may differ by one image. To resume within an epoch,
    give the number of images that all ranks together have read; the number of ranks may have changed:

        sampler.set_epoch(epoch, position=steps * batch_size * world_size)
    """

    def __init__(self, images: int, seed: int = 0, shuffle: bool = True, rank: int = 0, world_size: int = 1) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"there is no rank {rank} of {world_size}")
        self.images, self.seed, self.shuffle = images, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch = self.position = 0

    def set_epoch(self, epoch: int, position: int = 0) -> None:
        """Choose the order of the next pass, and how many of its images all ranks together have already read."""
        self.epoch, self.position = epoch, position

    def __len__(self) -> int:
        """Images that this rank still has to read."""
        return len(range(self.position + self.rank, self.images, self.world_size))

    def __iter__(self) -> Iterator[int]:
        order = np.arange(self.images, dtype=np.uint32)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        for number in order[self.position + self.rank :: self.world_size]:
            yield int(number)


def _item(shard: Shard, row: int) -> tuple[str, str, Any]:
    return shard.study(shard.study_of(row)).key, shard.image(row).id, shard.pixels(row)
