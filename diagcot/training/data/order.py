"""The order of an epoch: which samples make each step, on each rank and forward pass."""

import heapq
import random
from collections.abc import Sequence

from diagcot.data.errors import DataError


def balanced(lengths: Sequence[int], ranks: int, budget: int) -> list[list[list[int]]]:
    """Forward passes of packed sequences: rank -> pass -> positions in `lengths`, in as few passes as the budget allows.

    lengths: tokens of each sequence, a multiple of `ranks` in number. budget: most tokens of a pass; only a longer sequence
    exceeds it, alone. Every rank makes equally many passes, of about equally many tokens: from the longest on, each sequence
    goes to the pass with the fewest tokens, and pass k of all ranks hold neighbours in size.
    """
    most = max(budget, *lengths)
    for passes in range(max(1, -(-sum(lengths) // (most * ranks))), len(lengths) // ranks + 1):
        parts = _spread(lengths, passes * ranks)
        if sum(lengths[index] for index in parts[0]) <= most:
            break
    return [[sorted(part) for part in parts[rank::ranks]] for rank in range(ranks)]


def _spread(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Positions in `count` parts of about equal length, the largest part first (longest processing time first)."""
    parts = [(0, number, list[int]()) for number in range(count)]
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        total, number, part = heapq.heappop(parts)
        heapq.heappush(parts, (total + lengths[index], number, [*part, index]))
    return [part for _, _, part in sorted(parts, key=lambda entry: (-entry[0], entry[1]))]


class BatchOrder:
    """Which samples make step k on which rank: a function of seed, lengths and global batch alone.

    Batches hold samples of similar length (sorted within windows of 64 batches), their order is shuffled, and inside a
    batch neighbours in length go to the ranks at the same forward pass. The number of ranks changes only who computes
    what, so another number of ranks sees the same batches. An incomplete last batch is filled from the epoch's start.
    Packing changes only how a batch is cut into passes.
    """

    WINDOW = 64  # batches

    def __init__(
        self,
        lengths: Sequence[int],
        global_batch: int,
        micro_batch: int,
        seed: int,
        micro_batch_tokens: int | None = None,
    ) -> None:
        """lengths: tokens of each sample. micro_batch_tokens: see `balanced`; None: `micro_batch` samples in each pass.

        Raises DataError if there are no samples.
        """
        if not lengths:
            raise DataError("no samples to train on; check the stage's inputs and its `tasks`")
        self.lengths, self.seed = lengths, seed
        self.global_batch, self.micro_batch, self.micro_batch_tokens = global_batch, micro_batch, micro_batch_tokens
        self.steps_per_epoch = -(-len(lengths) // global_batch)
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def batch(self, step: int) -> list[int]:
        """Sample indices of step `step` (0-based) over all ranks."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._shuffled(epoch)
        return self._epoch[1][position]

    def micro_batches(self, step: int, rank: int, world_size: int) -> list[list[int]]:
        """Sample indices of a step's forward passes on one rank."""
        batch, size = self.batch(step), self.micro_batch
        if self.micro_batch_tokens is not None:
            passes = balanced([self.lengths[index] for index in batch], world_size, self.micro_batch_tokens)[rank]
            return [[batch[place] for place in part] for part in passes]
        return [batch[at + rank * size : at + (rank + 1) * size] for at in range(0, len(batch), size * world_size)]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        generator = random.Random(f"{self.seed}/{epoch}")
        order = list(range(len(self.lengths)))
        generator.shuffle(order)
        order += [order[i % len(order)] for i in range(self.steps_per_epoch * self.global_batch - len(order))]
        batches = []
        size = self.global_batch * self.WINDOW
        for start in range(0, len(order), size):
            window = sorted(order[start : start + size], key=lambda index: (self.lengths[index], index))
            batches += [window[at : at + self.global_batch] for at in range(0, len(window), self.global_batch)]
        generator.shuffle(batches)
        return batches
