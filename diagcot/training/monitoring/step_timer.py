"""Time, tokens and FLOPs of the steps of a stage, over all ranks."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from diagcot.jobs import Context
from diagcot.training.config.settings import DeepSpeedSettings
from diagcot.training.cost import step_flops
from diagcot.training.distributed import process_group
from diagcot.training.distributed.engine import Engine
from diagcot.training.models.frozen_tower import FrozenTower
from diagcot.training.monitoring import log


class StepTimer:
    """Measures one step after the other: `start`, `data_ready`, `count` for each pass, `sums`, `figures`.

    components: those that a forward pass runs through. tower: what the network is cut behind, whose work counts when it
    is done.
    """

    def __init__(
        self,
        ctx: Context,
        engine: Engine,
        settings: DeepSpeedSettings,
        components: Sequence[str] = step_flops.ALL_COMPONENTS,
        tower: FrozenTower | None = None,
    ) -> None:
        self.device, self._tower = process_group.device(ctx), tower
        self._ranks, self._sharing = ctx.world_size, settings.sequence_parallel
        apart = tower.components if tower else ()
        self._work = step_flops.StepFlops(engine.module, [name for name in components if name not in apart])
        self._peak = step_flops.peak(self.device, settings.precision)
        self.start()

    def start(self) -> None:
        """A step begins."""
        self._began = time.monotonic()
        self._waited = self._tokens = self._flops = 0.0

    def data_ready(self) -> None:
        """The step's batches have arrived."""
        self._waited = time.monotonic() - self._began

    def count(self, inputs: Mapping[str, Any]) -> None:
        """Count a forward and backward pass over the model's `inputs` and their `sequence_lengths`."""
        self._tokens += float(inputs["sequence_lengths"].sum()) / self._sharing
        if self._peak:
            self._flops += self._work.of(inputs, self._sharing)

    def sums(self) -> list[float]:
        """This rank's tokens, FLOPs and seconds of waiting, to be summed over the ranks for `figures`."""
        if self._tower and self._peak:
            self._flops += self._work.of_tower(self._tower.take_patches())
        return [self._tokens, self._flops, self._waited]

    def figures(self, sums: Sequence[float]) -> dict[str, float]:
        """tokens_per_s, mfu (0 to 1, where the peak is known), memory_gb (GiB), data_wait (0 to 1), seconds."""
        tokens, work, waited = sums
        seconds = time.monotonic() - self._began
        return {
            "tokens_per_s": round(tokens / seconds),
            **({"mfu": round(work / seconds / (self._peak * self._ranks), 4)} if self._peak else {}),
            "memory_gb": round(log.memory_gb(self.device), 3),
            "data_wait": round(waited / self._ranks / seconds, 4),
            "seconds": round(seconds, 4),
        }
