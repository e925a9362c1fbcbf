"""Kind `grpo`: reinforcement learning from verifiable rewards (DiagCoT, arXiv:2509.06409; CX-Mind, arXiv:2508.03733).

Every rank holds the policy (DeepSpeed). Rank 0 also drives Ray inside the allocation: vLLM servers roll out, CPU workers
score each reply as it arrives. A step: send the servers the current weights, roll out, score, normalise inside each
group, check that servers and policy agree on the log-probabilities, update. With `max_staleness` the servers roll out the
prompts of the next steps while the policy trains.
"""

import contextlib
import time
from collections.abc import Iterator

from diagcot.jobs import Context, Result, Unit
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.data.collator import Collator
from diagcot.training.distributed import process_group, ray_cluster
from diagcot.training.models import model
from diagcot.training.models.inputs import model_input
from diagcot.training.reward_models import missing
from diagcot.training.rl import curriculum
from diagcot.training.rl.loop import GrpoLoop, LoopState
from diagcot.training.rl.rollout_pool import RolloutPool, shares_gpus, sleeps

UNCUT = 2**31  # tokens of a sample that is measured and not trained on


@contextlib.contextmanager
def prepare(ctx: Context) -> Iterator[LoopState | None]:
    """Settings, checked before anything heavy; Ray with its servers, which begin to start.

    None on a node that holds only servers; there the block begins when the servers are no longer needed.
    """
    settings = GrpoSettings.model_validate(ctx.settings)
    missing.check(settings, ctx.inputs)
    all_ranks = ctx.world_size
    trainers = settings.trainers(all_ranks, ctx.nodes)
    settings.deepspeed.check_batches(trainers)
    rendezvous_file = ray_cluster.RendezvousFile(ctx)
    if ctx.rank >= trainers:
        _host_servers(ctx, settings, rendezvous_file)
        yield None
        return
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, ctx, "world_size", all_ranks)
        ctx.world_size = trainers
        head = stack.enter_context(ray_cluster.start_head(ctx, settings.object_store_mb)) if ctx.rank == 0 else None
        if head and settings.rollout_nodes:
            stack.enter_context(rendezvous_file.publish(head.rendezvous))
        stack.enter_context(process_group.connected(ctx))
        rendezvous = process_group.broadcast(head.rendezvous if head else None)
        if ctx.node_rank and ctx.local_rank == 0 and not settings.rollout_nodes:
            stack.enter_context(ray_cluster.join(ctx, rendezvous, settings.object_store_mb))
        prompts = curriculum.load(ctx, settings)
        pool = None
        if head:
            pool = RolloutPool(model_input(ctx), settings, ctx, prompts.corpus(), head)
            stack.callback(pool.close)
        # While the servers start, prompts that they cannot take are looked for.
        collator = Collator(model.load_processor(model_input(ctx)), ctx.shards_root, UNCUT, cache_mb=0)
        yield LoopState(settings, curriculum.within_limits(prompts, ctx, collator), pool)


def _host_servers(ctx: Context, settings: GrpoSettings, rendezvous_file: ray_cluster.RendezvousFile) -> None:
    """A node of servers: a part of rank 0's Ray until that ends."""
    rendezvous = rendezvous_file.read(settings.start_timeout_s)
    if ctx.local_rank:
        rendezvous_file.wait(None)
        return
    with ray_cluster.join(ctx, rendezvous, settings.object_store_mb) as node:
        rendezvous_file.wait(node)


def run(unit: Unit, state: LoopState | None, ctx: Context) -> Result | None:
    """Train and write the model directory; None when stopped before the end."""
    if state is None:
        return Result()
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        # A server measures the memory of its GPUs while it starts, so nobody else may take or free some then.
        servers_first = shares_gpus(state.settings, ctx)
        if servers_first and not _servers_ready(state, ctx):
            return None
        loop = GrpoLoop(state, ctx, stack)
        if not servers_first and not _servers_ready(state, ctx):
            return None
        ctx.startup_s += time.monotonic() - began
        ctx.event("ready", seconds=round(time.monotonic() - began, 2))
        return loop.run()


def _servers_ready(state: LoopState, ctx: Context) -> bool:
    """Wait for the servers, and let those sleep that give their memory to the policy; False if a stop was requested."""
    if not process_group.broadcast(state.pool.ready() if state.pool else None):
        return False
    if sleeps(state.settings, ctx):
        if state.pool:
            state.pool.sleep()
        process_group.barrier()
    return True
