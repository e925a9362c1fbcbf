"""The image-report contrastive loss of DiagCoT's first stage, and retrieval.

DiagCoT's abstract (arXiv:2509.06409) names "contrastive image-report tuning"; its released code trains with the
language-model loss alone. So this is the loss as described, and its details are ours.

The embedding of a sample's images is the mean of their visual tokens after the merger. The embedding of a report is the
mean of the frozen language model's last hidden states over its tokens, so reports are embedded once. Both are centred
on the reports' mean (hidden states of a decoder share one large direction) and scaled to length 1.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from diagcot.training.data.collator import Batch
from diagcot.training.families import FAMILIES
from diagcot.training.losses.language import model_inputs, summed_loss
from diagcot.training.models import attention

Outputs = Literal["images", "images and language", "reports"]


class AlignerOutput(NamedTuple):
    """Result of a forward pass: embeddings (rows, hidden) float32, log(1 / temperature) (1,), summed language loss."""

    embeddings: torch.Tensor
    log_scale: torch.Tensor
    language_loss: torch.Tensor | None = None


class Aligner(nn.Module):
    """A vision-language model with a learned temperature."""

    def __init__(self, vlm: nn.Module, temperature: float) -> None:
        """temperature: the initial value, over 0."""
        super().__init__()
        self.vlm = vlm
        dtype = next(vlm.parameters()).dtype
        self.log_scale = nn.Parameter(torch.tensor([math.log(1 / temperature)], dtype=dtype))
        self.centre: torch.Tensor | float = 0.0  # the reports' mean (hidden,), once they are embedded

    def forward(self, batch: Batch, outputs: Outputs) -> AlignerOutput:
        """Embeddings of the batch's images (normalised) or of its texts (raw), and the language loss if wanted.

        One method computes everything, since ZeRO-3 has parameters only inside the engine's own forward pass.
        """
        network: Any = self.vlm
        family = FAMILIES[network.config.model_type]
        scale = self.log_scale.float() * 1.0  # a view of the parameter would outlive ZeRO-3's gathering
        if outputs == "reports":
            language_model = getattr(network.model, family.language)
            hidden = language_model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
            mask = batch["attention_mask"][..., None].float()
            return AlignerOutput((hidden.float() * mask).sum(1) / mask.sum(1), scale)
        images = {name: batch[name] for name in family.image_inputs}
        of_images = attention.of_images(network, batch, images["pixel_values"].device)
        visual = network.model.get_image_features(**images, return_dict=True, **of_images)
        tokens = torch.cat([part.flatten(0, -2) for part in visual.pooler_output])
        of_samples = (part.sum() for part in batch["image_tokens"].split(batch["image_counts"].tolist()))
        means = [part.float().mean(0) for part in tokens.split([int(size) for size in of_samples])]
        embeddings = self.normalize(torch.stack(means))
        if outputs == "images":
            return AlignerOutput(embeddings, scale)
        inputs = {name: value for name, value in model_inputs(batch).items() if name != "pixel_values"}
        inputs["mm_encoder_outputs"] = {"image": visual}
        return AlignerOutput(embeddings, scale, summed_loss(network, inputs, batch["labels"]))

    @property
    def width(self) -> int:
        """Size of an embedding."""
        return int(self.vlm.config.text_config.hidden_size)

    def normalize(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Embeddings (rows, hidden), centred and of length 1."""
        return functional.normalize(embeddings.float() - self.centre, dim=-1)


def info_nce(images: torch.Tensor, reports: torch.Tensor, keys: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE (van den Oord et al. 2018, arXiv:1807.03748) of a whole batch, a scalar in nats.

    images, reports: (pairs, hidden), length 1. keys: (pairs, columns); pairs that agree in any column are not negatives
    of each other. log_scale: (1,), log(1 / temperature); the temperature is at least 0.01.
    """
    diagonal = torch.arange(len(images), device=images.device)
    same = (keys[:, None, :] == keys[None, :, :]).any(-1)
    same[diagonal, diagonal] = False
    scale = log_scale.float().clamp(max=math.log(100)).exp()
    similarity = scale * images @ reports.T
    to_reports, to_images = similarity.masked_fill(same, -torch.inf), similarity.T.masked_fill(same, -torch.inf)
    return (functional.cross_entropy(to_reports, diagonal) + functional.cross_entropy(to_images, diagonal)) / 2


class CachedGradients(NamedTuple):
    """InfoNCE of a batch, and its gradient at this rank's image embeddings (pairs, hidden) and at log_scale (1,)."""

    contrastive_loss: torch.Tensor
    image_gradient: torch.Tensor
    scale_gradient: torch.Tensor

    def surrogate(self, images: torch.Tensor, log_scale: torch.Tensor, passes: float | torch.Tensor) -> torch.Tensor:
        """A scalar for one of `passes` forward passes over all ranks, from outputs that carry a graph.

        Its mean over the passes has the loss's value and its exact gradient.
        """
        linear = passes * (images * self.image_gradient).sum() + (log_scale * self.scale_gradient).sum()
        return linear - linear.detach() + self.contrastive_loss


def cached_gradients(
    images: torch.Tensor, reports: torch.Tensor, keys: torch.Tensor, log_scale: torch.Tensor
) -> CachedGradients:
    """The loss over the pairs of all ranks, and its gradient at this rank's (Gao et al. 2021, arXiv:2101.06983).

    images, reports: (pairs, hidden), keys: (pairs, columns), of this rank; all ranks have equally many pairs. Every rank
    computes the whole loss: compared with a model's forward pass, a product of two tables of embeddings costs nothing,
    and no gradient has to be exchanged. A collective.
    """
    with torch.enable_grad():
        all_images = gather_rows(images.detach()).requires_grad_()
        scale = log_scale.detach().clone().requires_grad_()
        loss = info_nce(all_images, gather_rows(reports), gather_rows(keys), scale)
        image_gradient, scale_gradient = torch.autograd.grad(loss, (all_images, scale))
    first = dist.get_rank() * len(images) if dist.is_initialized() else 0
    return CachedGradients(loss.detach(), image_gradient[first : first + len(images)], scale_gradient)


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows of all ranks in rank order, without gradients. A collective."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows.clone()
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def retrieval_recall(
    images: torch.Tensor, reports: torch.Tensor, keys: Sequence[int], cutoffs: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Share of images (0 to 1) whose own report, or one of the same words, is among the k nearest of all reports.

    images, reports, keys: see `retrieve`.
    """
    found = retrieve(images, reports, keys)
    shares = {f"recall_at_{k}": float((found.report_ranks <= k).float().mean()) for k in cutoffs}
    return shares | {"candidates": float(len(set(keys)))}


class Retrieved(NamedTuple):
    """Result of a retrieval in both directions, one entry for each of N pairs, all of shape (N,).

    report_ranks: rank (from 1) of the pair's report among all distinct reports, the nearest to its image first.
    image_ranks: rank (from 1) of the pair's image among it and the images whose reports have other words.
    nearest: index of a pair whose report is the nearest to the image.
    Candidates that are equally near come before the right one, so a constant embedding ranks it last.
    """

    report_ranks: torch.Tensor
    image_ranks: torch.Tensor
    nearest: torch.Tensor


def retrieve(images: torch.Tensor, reports: torch.Tensor, keys: Sequence[int]) -> Retrieved:
    """The report of each image, and the image of each report, among those of all pairs.

    images, reports: (pairs, hidden), length 1. keys: equal for reports of the same words, which are one candidate.
    """
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    distinct = torch.tensor(sorted(first.values()))
    own = torch.tensor([first[key] for key in keys])
    similarity = images @ reports.T
    to_reports, right = similarity[:, distinct], similarity.gather(1, own[:, None])
    others = own[:, None] != own[None, :]
    nearer = (similarity[:, own] >= right.T) & others  # image (rows) at least as near to a pair's report (columns)
    return Retrieved((to_reports >= right).sum(1), 1 + nearer.sum(0), distinct[to_reports.argmax(1)])
