"""The images of many shards as a torch data set, the order in which ranks and workers read them, and batches of them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

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


class Batches:
    """Batches of the items of a data set, made by worker processes in memory that is used again and again.

    Items are tuples; the first part is an array of one shape and type for all, such as the pixels of an image, and the
    batch begins with a tensor of them, [images, ...]. **Its memory is used again when the next batch is asked for**: move it
    to the device, or copy it, before. torch's own loader takes new shared memory for every batch, whose pages the system
    makes one by one: for images of 512 pixels that takes a third of the time that decoding takes.
    """

    def __init__(
        self,
        data: Dataset[Any],
        sampler: Sampler[int] | Sequence[int],
        batch_size: int,
        workers: int,
        ahead: int = 2,
        **options: Any,
    ) -> None:
        """ahead: batches that each worker makes before they are asked for. options: further ones of torch's DataLoader."""
        first = torch.as_tensor(data[0][0])
        # One more than can be under way: that which was handed out.
        self._memory = torch.empty((workers * (ahead + 1), batch_size, *first.shape), dtype=first.dtype).share_memory_()
        self._loader = DataLoader(
            data, batch_size, sampler=sampler, num_workers=workers, prefetch_factor=ahead, persistent_workers=True,
            collate_fn=_Placing(self._memory, ahead + 1), **options,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for place, count, *others in self._loader:
            yield self._memory[place, :count], *others


class _Placing:
    """Puts a batch into the shared memory, where its worker has `places` places by turns."""

    def __init__(self, memory: torch.Tensor, places: int) -> None:
        self._memory, self._places, self._made = memory, places, 0

    def __call__(self, items: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        """Where the batch is, how many items it has, and their other parts.

        Raises ValueError if an item is of another shape or type.
        """
        first, *others = zip(*items, strict=True)
        worker = get_worker_info()
        assert worker
        place = worker.id * self._places + self._made % self._places
        self._made += 1
        for room, item in zip(self._memory[place, : len(items)].numpy(), map(np.asarray, first), strict=True):
            if (item.shape, item.dtype) != (room.shape, room.dtype):
                raise ValueError(
                    f"an item of shape {item.shape}, {item.dtype}, in a batch of shape {room.shape}, {room.dtype}:"
                    " bring all to one shape and type in the data set's transform"
                )
            room[...] = item
        return place, len(items), *map(default_collate, others)


def _item(shard: Shard, row: int) -> tuple[str, str, Any]:
    return shard.study(shard.study_of(row)).key, shard.image(row).id, shard.pixels(row)
