"""The films of many shards as a torch data set, and the order in which ranks and workers meet them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from diagcot.shards.reader import Shard


class ShardDataset(Dataset[Any]):
    """Every film of a split, by number. `transform(shard, row)` makes the item; by default (study key, film id, PIL image).

    Each process opens a shard when it first reads from it. Takes 4 bytes a film beside what `Shard` keeps.
    """

    def __init__(
        self, paths: Sequence[Path], split: str | None = None, transform: Callable[[Shard, int], Any] | None = None
    ) -> None:
        self.shards = [Shard(path) for path in paths]
        self.transform = transform or _film
        kept = [shard.films(split) for shard in self.shards]
        self._ends = np.cumsum([len(rows) for rows in kept], dtype=np.int64)
        self._rows = np.concatenate(kept) if kept else np.zeros(0, np.uint32)

    def __len__(self) -> int:
        return len(self._rows)

    def place(self, number: int) -> tuple[Shard, int]:
        """The shard of film `number`, and its row there. Raises IndexError."""
        if not 0 <= number < len(self._rows):
            raise IndexError(f"there are {len(self._rows)} films; there is no film {number}")
        return self.shards[int(np.searchsorted(self._ends, number, side="right"))], int(self._rows[number])

    def __getitem__(self, number: int) -> Any:
        return self.transform(*self.place(number))


class ShardSampler(Sampler[int]):
    """The numbers of the films that one rank meets in an epoch; a DataLoader deals them to its workers.

    The order of all ranks together depends on `seed` and the epoch alone, over all shards, and rank r of n takes every
    n-th film of it, so none is lost or met twice; ranks may differ by one film. To go on within an epoch, say how many
    films all ranks together have been through, on as many ranks as you like:

        sampler.set_epoch(epoch, position=steps * batch_size * world_size)
    """

    def __init__(self, films: int, seed: int = 0, shuffle: bool = True, rank: int = 0, world_size: int = 1) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"there is no rank {rank} of {world_size}")
        self.films, self.seed, self.shuffle = films, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch = self.position = 0

    def set_epoch(self, epoch: int, position: int = 0) -> None:
        """Choose the order of the next pass, and how many films of it all ranks together are already through."""
        self.epoch, self.position = epoch, position

    def __len__(self) -> int:
        """Films of this rank that are left."""
        return len(range(self.position + self.rank, self.films, self.world_size))

    def __iter__(self) -> Iterator[int]:
        order = np.arange(self.films, dtype=np.uint32)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        for number in order[self.position + self.rank :: self.world_size]:
            yield int(number)


def _film(shard: Shard, row: int) -> tuple[str, str, Any]:
    return shard.study(shard.study_of(row)).key, shard.image(row).id, shard.pixels(row)
