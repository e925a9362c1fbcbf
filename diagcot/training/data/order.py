"""The order of an epoch: which samples make each step, on each rank and forward pass."""

import random
from collections.abc import Sequence


class BatchOrder:
    """Which samples make step k on which rank: a function of seed, lengths and global batch alone.

    Batches hold samples of similar length (sorted within windows of 64 batches), their order is shuffled, and inside a
    batch neighbours in length go to the ranks at the same forward pass. The number of ranks changes only who computes
    what, so another number of ranks sees the same batches. An incomplete last batch is filled from the epoch's start.
    """

    WINDOW = 64  # batches

    def __init__(self, lengths: Sequence[int], global_batch: int, micro_batch: int, seed: int) -> None:
        """lengths: tokens of each sample. Raises ValueError if there are none."""
        if not lengths:
            raise ValueError("no samples to train on; check the stage's inputs and its `tasks`")
        self.lengths, self.seed = lengths, seed
        self.global_batch, self.micro_batch = global_batch, micro_batch
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
