"""The image-report contrastive loss of DiagCoT's stage 1 as its abstract describes it (method.md 1), and retrieval.

A film is the mean of its visual tokens after the merger; a report is the mean of the frozen language model's
last hidden states over its tokens, so reports are embedded once. Both are centred on the reports' mean
(hidden states of a decoder share one large direction) and scaled to length 1.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from diagcot.training.language import inputs_of, summed_loss


class Aligner(nn.Module):
    """A vision-language model with a learned temperature."""

    def __init__(self, vlm: nn.Module, temperature: float) -> None:
        super().__init__()
        self.vlm = vlm
        dtype = next(vlm.parameters()).dtype
        self.log_scale = nn.Parameter(torch.tensor([math.log(1 / temperature)], dtype=dtype))
        self.centre: torch.Tensor | float = 0.0  # the reports' mean, once they are embedded

    def forward(
        self, batch: dict[str, torch.Tensor], want: Literal["films", "films and language", "reports"]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Embeddings (rows, hidden), the logarithm of 1 / temperature, and the summed language-model loss if wanted.

        One door for everything, since ZeRO-3 has parameters only inside of the engine's own forward pass.
        """
        inner: Any = self.vlm
        scale = self.log_scale.float() * 1.0
        if want == "reports":
            hidden = inner.model.language_model(
                batch["input_ids"], attention_mask=batch["attention_mask"]
            ).last_hidden_state
            mask = batch["attention_mask"][..., None].float()
            return (hidden.float() * mask).sum(1) / mask.sum(1), scale, None
        seen = inner.model.get_image_features(batch["pixel_values"], batch["image_grid_thw"], return_dict=True)
        films = torch.stack([tokens.float().mean(0) for tokens in seen.pooler_output])
        if want == "films":
            return self.place(films), scale, None
        known = {name: value for name, value in inputs_of(batch).items() if name != "pixel_values"}
        logits = inner(**known, mm_encoder_outputs={"image": seen}).logits
        return self.place(films), scale, summed_loss(logits, batch["labels"])

    def place(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Centred and of length 1."""
        return F.normalize(embeddings.float() - self.centre, dim=-1)


def gathered(mine: torch.Tensor) -> torch.Tensor:
    """Rows of all ranks in rank order; gradients flow back to the rank that made them."""
    if dist.get_world_size() == 1:
        return mine
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(mine.contiguous()))


def info_nce(films: torch.Tensor, reports: torch.Tensor, keys: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE over the pairs of all ranks; the mean over ranks is the loss of the whole batch.

    films, reports: (pairs, hidden) of this rank, length 1; keys: (pairs,) equal for identical reports, which are no
    negatives of each other. The temperature is exp(-log_scale), at least 0.01.
    """
    all_films, all_reports, all_keys = gathered(films), gathered(reports), gathered(keys)
    first = dist.get_rank() * len(films)
    own = torch.arange(first, first + len(films), device=films.device)
    same = keys[:, None] == all_keys[None, :]
    same[torch.arange(len(films), device=films.device), own] = False
    scale = log_scale.float().clamp(max=math.log(100)).exp()
    to_reports = (scale * films @ all_reports.T).masked_fill(same, -torch.inf)
    to_films = (scale * reports @ all_films.T).masked_fill(same, -torch.inf)
    return (F.cross_entropy(to_reports, own) + F.cross_entropy(to_films, own)) / 2


def recall(
    films: torch.Tensor, reports: torch.Tensor, keys: Sequence[int], at: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Share of films whose own report, or one with the same words, is among the k nearest of all held-out reports.

    Each distinct report counts once as a candidate.
    """
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    distinct = sorted(first.values())
    wanted = torch.tensor([distinct.index(first[key]) for key in keys])
    order = (films @ reports[distinct].T).argsort(dim=1, descending=True, stable=True)
    return {f"recall_at_{k}": float((order[:, :k] == wanted[:, None]).any(1).float().mean()) for k in at} | {
        "candidates": float(len(distinct))
    }
