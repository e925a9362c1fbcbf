"""Kind `grpo`: reinforcement learning from verifiable rewards (method.md 5, 8).

Every rank holds the policy (DeepSpeed). Rank 0 also drives Ray inside the allocation: vLLM servers roll out, CPU workers
score each reply as it comes. A step: bring the servers the present weights, roll out, score, normalise inside each
group, check that servers and policy agree on the log-probabilities, update. With `async_rollouts` the servers roll out the next
step's prompts while the policy trains on this one's.
"""

import contextlib
import time
from collections.abc import Iterator

from diagcot.jobs import Context, Result, Unit
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.distributed import process_group
from diagcot.training.distributed import ray_cluster as raycluster
from diagcot.training.models.inputs import model_input
from diagcot.training.rl import curriculum
from diagcot.training.rl.loop import Team, Training
from diagcot.training.rl.rollout_pool import Crew


@contextlib.contextmanager
def prepare(ctx: Context) -> Iterator[Team | None]:
    """Settings, checked before anything heavy; Ray with its servers, which start while the ranks load the policy.

    None on a node that holds servers alone, for as long as they are needed.
    """
    settings = GrpoSettings.model_validate(ctx.settings)
    everyone = ctx.world_size
    trainers = settings.trainers(everyone, ctx.nodes)
    settings.deepspeed.accumulation(trainers)
    notice = raycluster.Notice(ctx)
    if ctx.rank >= trainers:
        _host(ctx, settings, notice)
        yield None
        return
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, ctx, "world_size", everyone)
        ctx.world_size = trainers
        head = stack.enter_context(raycluster.head(ctx, settings.object_store_mb)) if ctx.rank == 0 else None
        if head and settings.rollout_nodes:
            stack.enter_context(notice.put(head.rendezvous))
        process_group.connect(ctx)
        stack.callback(process_group.disconnect)
        rendezvous = process_group.broadcast(head.rendezvous if head else None)
        if ctx.node_rank and ctx.local_rank == 0 and not settings.rollout_nodes:
            stack.enter_context(raycluster.join(ctx, rendezvous, settings.object_store_mb))
        prompts = curriculum.gather(ctx, settings)
        crew = None
        if head:
            crew = Crew(model_input(ctx), settings, ctx, prompts.corpus(), head)
            stack.callback(crew.close)
        yield Team(settings, prompts, crew)


def _host(ctx: Context, settings: GrpoSettings, notice: raycluster.Notice) -> None:
    """A node of servers: in rank 0's Ray until that ends."""
    rendezvous = notice.read(settings.start_timeout_s)
    if ctx.local_rank:
        notice.wait(None)
        return
    with raycluster.join(ctx, rendezvous, settings.object_store_mb) as node:
        notice.wait(node)


def run(unit: Unit, team: Team | None, ctx: Context) -> Result | None:
    """Train and write the model directory; None when stopped before the end."""
    if team is None:
        return Result()
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        training = Training(team, ctx, stack)
        if not process_group.broadcast(team.crew.ready() if team.crew else None):
            return None
        ctx.startup_s += time.monotonic() - began
        ctx.event("ready", seconds=round(time.monotonic() - began, 2))
        return training.run()
