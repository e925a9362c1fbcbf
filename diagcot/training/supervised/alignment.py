"""The objective of alignment: language-model loss, contrastive loss, or both."""

from collections.abc import Sequence

import torch

from diagcot.jobs import Context
from diagcot.training.config.settings import AlignSettings
from diagcot.training.data.collator import Batch, Collator
from diagcot.training.data.dataset import Dataset, Lengths
from diagcot.training.distributed import process_group
from diagcot.training.distributed.engine import Engine
from diagcot.training.losses import contrastive, language
from diagcot.training.losses.contrastive import CachedGradients, Outputs
from diagcot.training.models.frozen_tower import FrozenTower
from diagcot.training.supervised import reports
from diagcot.training.supervised.objective import TrainingObjective


class AlignmentObjective(TrainingObjective):
    """Pairs of images and report under `settings.loss`. The reports are embedded once, before the first step.

    engine: of a `contrastive.Aligner`, whose centre is set here. Creating it is a collective.
    """

    def __init__(
        self,
        ctx: Context,
        settings: AlignSettings,
        engine: Engine,
        data: Dataset,
        lengths: Lengths,
        collator: Collator,
        tower: FrozenTower | None = None,
    ) -> None:
        super().__init__(ctx, settings.deepspeed, data, lengths, collator, tower)
        self._loss, self._aligner = settings.loss, engine.module
        self._weight = settings.contrastive_weight if settings.loss == "combined" else 1.0
        self._outputs: Outputs = "images" if settings.loss == "contrastive" else "images and language"
        if settings.loss == "contrastive":
            self.components = ("vision", "merger")
        samples = [*data.train, *data.validation]
        micro_batch = settings.deepspeed.micro_batch
        self._reports = reports.embed(engine, self._aligner.width, samples, collator.processor, ctx, micro_batch)
        self._device = process_group.device(ctx)
        self._aligner.centre = self._reports[: len(data.train)].mean(0).to(self._device)
        self._keys = reports.keys(samples, ctx)

    def extras(self, indices: Sequence[int]) -> Batch:
        """`report` (samples, hidden) and `key` (samples, 2) of these training samples."""
        rows = list(indices)
        return {"report": self._reports[rows], "key": self._keys.pairs[rows]}

    def prepare(self, engine: Engine, batches: list[Batch]) -> list[Batch]:
        """With several passes a step, embed all images once without gradients: the loss is over all of them."""
        batches = super().prepare(engine, batches)
        if self._loss == "lm" or len(batches) == 1:
            return batches
        with torch.no_grad():
            outputs = [engine(self._moved(batch), "images") for batch in batches]
        gradients = self._gradients([output.embeddings for output in outputs], outputs[0].log_scale, batches)
        parts = gradients.image_gradient.split([len(batch["image_counts"]) for batch in batches])
        return [
            {**batch, **gradients._replace(image_gradient=part)._asdict()}
            for batch, part in zip(batches, parts, strict=True)
        ]

    def loss(self, engine: Engine, batch: Batch) -> torch.Tensor:
        """See `TrainingObjective.loss`."""
        output = engine(batch, self._outputs)
        images, scale = output.embeddings, output.log_scale
        total = torch.zeros((), device=images.device)
        if output.language_loss is not None:
            total = output.language_loss * batch["share"]
        if self._loss != "lm":
            if "contrastive_loss" in batch:
                gradients = CachedGradients(*(batch[name] for name in CachedGradients._fields))
            else:
                gradients = self._gradients([images], scale, [batch])
            total = total + gradients.surrogate(images, scale, batch["passes"]) * self._weight
        return total

    def validate(self, engine: Engine) -> dict[str, float]:
        """Language-model loss and retrieval on the held-out pairs, each rank computing its share. A collective."""
        samples, first = self.data.validation, len(self.data.train)
        if not samples:
            return {}
        images = torch.zeros(len(samples), self._reports.shape[1], device=self._device)
        total, tokens = torch.zeros((), device=self._device), 0.0
        for own in reports.shares(len(samples), self.settings.micro_batch, self.ctx):
            batch = self._moved(self.with_features(self.collator([samples[index] for index in own] or samples[:1])))
            output = engine(batch, "images and language")
            if len(own):
                images[own.start : own.stop] = output.embeddings
                total += output.language_loss
                tokens += language.learned_tokens(batch)
        loss_sum, tokens = process_group.sum_values([float(total), tokens])
        images = torch.from_numpy(process_group.sum_array(images.cpu().numpy())).float()
        candidates = self._aligner.normalize(self._reports[first:].to(self._device)).cpu()
        return {
            "loss": loss_sum / tokens,
            **contrastive.retrieval_recall(images, candidates, self._keys.words[first:]),
        }

    def _gradients(
        self, images: list[torch.Tensor], scale: torch.Tensor, batches: list[Batch]
    ) -> contrastive.CachedGradients:
        texts, keys = (torch.cat([batch[name] for batch in batches]).to(scale.device) for name in ("report", "key"))
        return contrastive.cached_gradients(torch.cat(images), self._aligner.normalize(texts), keys, scale)

    def _moved(self, batch: Batch) -> Batch:
        return language.on_device(batch, self._device)
