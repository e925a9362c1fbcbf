"""What a supervised stage trains: the batches of a step, their loss and the held-out figures."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from diagcot.jobs import Context
from diagcot.tasks.samples import Sample
from diagcot.training.config.settings import DeepSpeedSettings
from diagcot.training.cost.step_flops import ALL_COMPONENTS
from diagcot.training.data.collator import Batch, Collator
from diagcot.training.data.dataset import Dataset, Lengths
from diagcot.training.data.order import BatchOrder
from diagcot.training.distributed.engine import Engine
from diagcot.training.losses import language
from diagcot.training.models.frozen_tower import FrozenTower
from diagcot.training.supervised.sequence_parallel import SharedRows


def order_of(lengths: Lengths, settings: DeepSpeedSettings, ctx: Context) -> BatchOrder:
    """The order of a stage's training samples."""
    return BatchOrder(
        lengths.tokens, settings.global_batch, settings.micro_batch, ctx.seed, settings.micro_batch_tokens
    )


class TrainingObjective(ABC):
    """One stage's data and loss. `components`: those that a forward pass runs through."""

    components: Sequence[str] = ALL_COMPONENTS

    def __init__(
        self,
        ctx: Context,
        settings: DeepSpeedSettings,
        data: Dataset,
        lengths: Lengths,
        collator: Collator,
        tower: FrozenTower | None = None,
        shared: SharedRows | None = None,
    ) -> None:
        """tower: what the network is cut behind, if its vision tower is frozen. shared: where ranks share passes."""
        self.ctx, self.settings, self.tower, self._shared = ctx, settings, tower, shared
        self.data, self.lengths, self.collator = data, lengths, collator
        self.order = order_of(lengths, settings, ctx)

    def batches(self, step: int) -> list[Batch]:
        """This rank's batches of step `step` (0-based), one for each forward pass; called in a thread.

        `passes` (scalar): those of the step over all ranks. `share` (scalar) makes every learned token of the global batch
        weigh the same, however the batch is spread over passes and ranks.
        """
        learned = sum(self.lengths.learned[index] for index in self.order.batch(step))
        sharing = self.settings.sequence_parallel
        own = self.order.micro_batches(step, self.ctx.rank // sharing, self.ctx.world_size // sharing)
        passes = torch.tensor(float(len(own) * self.ctx.world_size))
        shares = {"passes": passes, "share": passes / learned}
        return [
            {**self.collated([self.data.train[index] for index in indices]), **shares, **self.extras(indices)}
            for indices in own
        ]

    def collated(self, samples: Sequence[Sample]) -> Batch:
        """The batch of these samples, or what this rank learns of it where ranks share passes."""
        batch = self.collator(samples)
        return self._shared.own(batch) if self._shared else batch

    def extras(self, indices: Sequence[int]) -> Batch:
        """Further tensors of the batch of these training samples."""
        return {}

    def prepare(self, engine: Engine, batches: list[Batch]) -> list[Batch]:
        """The batches of a step as the network takes them, made for a loss that spans all of them. A collective."""
        return [self.with_features(batch) for batch in batches]

    def with_features(self, batch: Batch) -> Batch:
        """The batch with what a frozen tower makes of its images. A collective."""
        return self.tower.with_features(batch) if self.tower else batch

    @abstractmethod
    def loss(self, engine: Engine, batch: Batch) -> torch.Tensor:
        """Loss of a batch on this rank's device, scaled so that the mean over all passes and ranks is the step's loss."""

    @abstractmethod
    def validate(self, engine: Engine) -> dict[str, float]:
        """Held-out figures. A collective."""


class LanguageObjective(TrainingObjective):
    """The causal language-model loss: mean nats over the learned tokens of the global batch."""

    def loss(self, engine: Engine, batch: Batch) -> torch.Tensor:
        """See `TrainingObjective.loss`."""
        return language.summed_loss(engine, language.model_inputs(batch), batch["labels"]) * batch["share"]

    def validate(self, engine: Engine) -> dict[str, float]:
        """Loss on the held-out samples. A collective."""

        def batch(samples: Sequence[Sample]) -> Batch:
            return self.with_features(self.collated(samples))

        settings = self.settings
        return language.held_out_loss(
            engine, self.data.validation, batch, self.ctx, settings.micro_batch, settings.sequence_parallel
        )
