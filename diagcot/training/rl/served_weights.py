"""Which weights the rollout servers hold, and whether they are awake."""

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from diagcot.jobs import Context
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.distributed import process_group
from diagcot.training.rl.curriculum import Curriculum
from diagcot.training.rl.policy import Policy, check_gap
from diagcot.training.rl.rollout import Rollout
from diagcot.training.rl.rollout_collector import RolloutCollector
from diagcot.training.rl.rollout_pool import RolloutPool, sleeps
from diagcot.training.rl.weight_transfer import WeightTransfer


class ServedWeights:
    """Keeps the servers' weights up to date. `pool` and `collector` are rank 0's. Methods are collectives.

    gap: mean |log p(policy) - log p(server)| that the last probe measured, in nats a token.
    """

    def __init__(
        self,
        policy: Policy,
        transfer: WeightTransfer,
        curriculum: Curriculum,
        settings: GrpoSettings,
        ctx: Context,
        pool: RolloutPool | None,
        collector: RolloutCollector | None,
    ) -> None:
        self._policy, self._transfer, self._settings, self._ctx = policy, transfer, settings, ctx
        self._pool, self._collector = pool, collector
        self._probe_prompt = curriculum.prompts[0]
        # The servers start with the weights before the first step. Those that sleep have forgotten them.
        self._asleep = sleeps(settings, ctx)
        self._served_step = -1 if self._asleep else 0
        self._probed_step = -1
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="probe")
        self._probe: Future[list[Rollout] | None] | None = None  # rank 0's, while it is not compared
        self._compared = True
        self.gap = 0.0

    def update(self, step: int) -> bool:
        """Send the weights after `step` steps, unless the servers hold them; False if a stop was requested.

        Sleeping servers get the memory of their weights first, and that of their cache when they hold them: while the
        weights are gathered and sent, the cache's memory is the policy's.
        Rollouts of earlier weights cannot show whether that worked: with `max_staleness` a short probe begins, once for each
        step, which `compare` waits for.
        """
        if self._asleep:
            self._free_memory()
            if self._pool:
                self._pool.wake_weights()
        if self._served_step != step and not self._transfer.send(step):
            return False
        self._served_step = step
        if self._asleep:
            self._free_memory()
            if self._pool:
                self._pool.wake_cache()
            self._asleep = False
        if self._settings.max_staleness and self._probed_step != step:
            self._probed_step, self._compared = step, False
            if self._collector:
                self._probe = self._threads.submit(self._collector.probe, self._probe_prompt, self._ctx.world_size)
        return True

    def compare(self) -> None:
        """Compare policy and servers by the probe that follows a transfer, if it has not been compared.

        Before the weights change: the probe is drawn behind the rollouts of coming steps, for which training need not wait. A
        probe that a stop request has ended is not compared. Raises FloatingPointError if its gap is above `max_gap`.
        """
        if self._compared:
            return
        rollouts = process_group.broadcast(self._probe.result() if self._probe else None)
        self._compared = True
        if rollouts is not None:
            self.gap = self._policy.probe_gap([self._probe_prompt], rollouts)
            check_gap(self.gap, self._settings.max_gap)

    def close(self) -> None:
        """Start no probe any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def sleep(self) -> None:
        """Let servers on the policy's GPUs give up their memory until the next weights."""
        if sleeps(self._settings, self._ctx):
            if self._pool:
                self._pool.sleep()
            self._asleep, self._served_step = True, -1

    @staticmethod
    def _free_memory() -> None:
        """Give what the policy's allocator keeps on every GPU of the job back to the GPUs."""
        torch.cuda.empty_cache()
        process_group.barrier()
