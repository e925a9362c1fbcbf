"""The image-report contrastive loss of DiagCoT's stage 1 as its abstract describes it (method.md 1), and retrieval.

The films of a sample are the mean of their visual tokens after the merger; a report is the mean of the frozen language model's
last hidden states over its tokens, so reports are embedded once. Both are centred on the reports' mean
(hidden states of a decoder share one large direction) and scaled to length 1.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from diagcot.training.losses.language import inputs_of, summed_loss


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
        scale = self.log_scale.float() * 1.0  # a view of the parameter would outlive ZeRO-3's gathering
        if want == "reports":
            hidden = inner.model.language_model(
                batch["input_ids"], attention_mask=batch["attention_mask"]
            ).last_hidden_state
            mask = batch["attention_mask"][..., None].float()
            return (hidden.float() * mask).sum(1) / mask.sum(1), scale, None
        seen = inner.model.get_image_features(batch["pixel_values"], batch["image_grid_thw"], return_dict=True)
        tokens = iter(seen.pooler_output)
        films = torch.stack(
            [torch.cat([next(tokens) for _ in range(n)]).float().mean(0) for n in batch["films"].tolist()]
        )
        if want == "films":
            return self.place(films), scale, None
        known = {name: value for name, value in inputs_of(batch).items() if name != "pixel_values"}
        logits = inner(**known, mm_encoder_outputs={"image": seen}).logits
        return self.place(films), scale, summed_loss(logits, batch["labels"])

    def place(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Centred and of length 1."""
        return F.normalize(embeddings.float() - self.centre, dim=-1)


def info_nce(films: torch.Tensor, reports: torch.Tensor, keys: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE (van den Oord et al. 2018, arXiv:1807.03748) of a whole batch.

    films, reports: (pairs, hidden), length 1; keys: (pairs, kinds of likeness). Pairs that agree in any column are no
    negatives of each other. The temperature is exp(-log_scale), at least 0.01.
    """
    own = torch.arange(len(films), device=films.device)
    same = (keys[:, None, :] == keys[None, :, :]).any(-1)
    same[own, own] = False
    scale = log_scale.float().clamp(max=math.log(100)).exp()
    near = scale * films @ reports.T
    to_reports, to_films = near.masked_fill(same, -torch.inf), near.T.masked_fill(same, -torch.inf)
    return (F.cross_entropy(to_reports, own) + F.cross_entropy(to_films, own)) / 2


class Slopes(NamedTuple):
    """InfoNCE of a batch, and its gradient at this rank's embeddings (pairs, hidden) and at the scale (1,)."""

    near: torch.Tensor
    to_films: torch.Tensor
    to_scale: torch.Tensor

    def surrogate(self, films: torch.Tensor, log_scale: torch.Tensor, passes: int) -> torch.Tensor:
        """A scalar for one of `passes` forward passes over all ranks, from outputs that carry a graph.

        Its mean over the passes has the loss's value and its exact gradient.
        """
        linear = passes * (films * self.to_films).sum() + (log_scale * self.to_scale).sum()
        return linear - linear.detach() + self.near


def slopes(films: torch.Tensor, reports: torch.Tensor, keys: torch.Tensor, log_scale: torch.Tensor) -> Slopes:
    """The loss over the pairs of all ranks, and its slopes at this rank's (Gao et al. 2021, arXiv:2101.06983).

    films, reports, keys: of this rank, all ranks having equally many. Every rank computes the whole loss: next to
    a model's forward pass a product of two tables of embeddings is nothing, and no gradient has to travel. A collective.
    """
    with torch.enable_grad():
        everyone = gathered(films.detach()).requires_grad_()
        scale = log_scale.detach().clone().requires_grad_()
        loss = info_nce(everyone, gathered(reports), gathered(keys), scale)
        to_films, to_scale = torch.autograd.grad(loss, (everyone, scale))
    first = dist.get_rank() * len(films) if dist.is_initialized() else 0
    return Slopes(loss.detach(), to_films[first : first + len(films)], to_scale)


def gathered(mine: torch.Tensor) -> torch.Tensor:
    """Rows of all ranks in rank order, without gradients."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return mine.clone()
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine.contiguous())
    return torch.cat(parts)


def recall(
    films: torch.Tensor, reports: torch.Tensor, keys: Sequence[int], at: Sequence[int] = (1, 5, 10)
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
