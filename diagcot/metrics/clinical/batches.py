"""Texts of like length side by side, so that a batch is bounded by its tokens and padding is small."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 16384  # of a batch, padding included: some hundreds of megabytes of a BERT's activations


def batched(ids: Sequence[Sequence[int]], padding: int, device: str) -> Iterator[tuple[list[int], "Tensor", "Tensor"]]:
    """Places of the texts of a batch, their tokens (B, T), and the mask of what is not padding (B, T)."""
    import torch

    order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
    while order:
        longest = len(ids[order[-1]])
        count = max(1, TOKENS // max(1, longest))
        places, order = order[-count:], order[:-count]
        tokens = torch.full((len(places), longest), padding, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, place in enumerate(places):
            size = len(ids[place])
            tokens[row, :size] = torch.tensor(ids[place], dtype=torch.long)
            mask[row, :size] = 1
        yield places, tokens.to(device), mask.to(device)
