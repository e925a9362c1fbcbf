"""What a supervised stage trains: the batches of a step, their loss and the held-out figures."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from diagcot.jobs import Context
from diagcot.training.config.settings import DeepSpeedSettings
from diagcot.training.cost.step_flops import ALL_COMPONENTS
from diagcot.training.data.collator import Batch, Collator
from diagcot.training.data.dataset import Dataset, Lengths
from diagcot.training.data.order import BatchOrder
from diagcot.training.distributed.engine import Engine
from diagcot.training.losses import language


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
    ) -> None:
        self.ctx, self.settings = ctx, settings
        self.data, self.lengths, self.collator = data, lengths, collator
        self.order = BatchOrder(lengths.tokens, settings.global_batch, settings.micro_batch, ctx.seed)
        self.passes = ctx.world_size * settings.accumulation(ctx.world_size)  # of a step over all ranks

    def batches(self, step: int) -> list[Batch]:
        """This rank's batches of step `step` (0-based), one for each forward pass; called in a thread.

        `share` (scalar) makes every learned token of the global batch weigh the same, however the batch is spread over
        passes and ranks.
        """
        learned = sum(self.lengths.learned[index] for index in self.order.batch(step))
        share = torch.tensor(self.passes / learned)
        return [
            {**self.collator([self.data.train[index] for index in indices]), "share": share, **self.extras(indices)}
            for indices in self.order.micro_batches(step, self.ctx.rank, self.ctx.world_size)
        ]

    def extras(self, indices: Sequence[int]) -> Batch:
        """Further tensors of the batch of these training samples."""
        return {}

    def prepare(self, engine: Engine, batches: list[Batch]) -> list[Batch]:
        """The batches of a step to train on, for a loss that spans all of them. A collective."""
        return batches

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
        return language.held_out_loss(engine, self.data.validation, self.collator, self.ctx, self.settings.micro_batch)
