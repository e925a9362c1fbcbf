"""The rollout engines on the nodes and the reward workers beside rank 0, which alone holds this."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from diagcot.jobs import Context
from diagcot.rewards.score import Reference, Score
from diagcot.serving import Reply, Request, ServerSettings
from diagcot.serving.server.command import on_cpu
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.distributed import ray_cluster as raycluster
from diagcot.training.rl.actors import Output, RewardWorker, RolloutEngine, surroundings

_LOOK_S = 0.5  # between looks at whether a stop was asked for


@dataclass(frozen=True)
class Played:
    """Replies and scores of requests, in their order, and when the last of each was there (`time.monotonic`)."""

    replies: list[Reply]
    scores: list[list[Score]]
    rolled: float
    scored: float


class Crew:
    """Every call has a deadline, and returns None (or False) as soon as a stop is asked for."""

    def __init__(
        self,
        model_dir: Path,
        settings: GrpoSettings,
        ctx: Context,
        corpus: Mapping[str, Sequence[Reference]],
        head: raycluster.Head,
    ) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ctx, self._settings, self._head = ctx, settings, head
        self._closed = False
        engine, worker = ray.remote(RolloutEngine), ray.remote(RewardWorker)
        around = surroundings(ctx)
        # With servers on nodes of their own, those and rank 0's are all that Ray has.
        wanted = 1 + settings.rollout_nodes if settings.rollout_nodes else ctx.nodes
        nodes = list(enumerate(raycluster.nodes(wanted, settings.start_timeout_s)))
        self.engines = [
            engine.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False), max_concurrency=1
            ).remote(model_dir, server_of(settings, ctx), {**around, "node_rank": number}, index, settings.engines)
            for number, node in nodes[-settings.rollout_nodes :]
            for index in range(settings.engines)
        ]
        table = {key: (reward.name, reward.chosen_mode) for key, reward in settings.reward_table.items()}
        self._corpus = ray.put(dict(corpus))  # kept: a worker that starts again reads it again
        # A worker that dies is started again once, and what it was scoring is scored again.
        self.workers = [
            worker.options(num_cpus=0, max_restarts=1, max_task_retries=1).remote(table, self._corpus)
            for _ in range(settings.reward.workers)
        ]

    def ready(self) -> bool:
        """Wait for the servers; False if a stop was asked for first."""
        return self._all([one.ready.remote() for one in self.engines], self._settings.start_timeout_s)

    def load(self, model_dir: Path) -> bool:
        """Serve the weights of `model_dir` on all engines."""
        return self._all([one.load.remote(model_dir) for one in self.engines], self._settings.step_timeout_s)

    def post(self, *paths: str, bodies: Sequence[Any] = (None,)) -> None:
        """Call vLLM's control routes on all servers, each with its own of `bodies` or the only one."""
        limit, each = self._settings.step_timeout_s, len(bodies) // len(self.engines)
        sent = [
            one.post.remote(paths, list(bodies[at * each : (at + 1) * each] or bodies), limit)
            for at, one in enumerate(self.engines)
        ]
        for _ in self._done(sent, limit):
            pass

    def pushed(self) -> None:
        """All engines hold the policy's weights."""
        self._all([one.pushed.remote() for one in self.engines], self._settings.step_timeout_s)

    def play(
        self, requests: Sequence[Request], outputs: Callable[[int, Reply], list[Output]], progress: float
    ) -> Played | None:
        """Replies to the requests, dealt to the engines in turn, each scored as soon as it is there."""
        count, workers = len(self.engines), cycle(self.workers)
        streams = [
            one.roll.options(num_returns="streaming").remote(requests[at::count])
            for at, one in enumerate(self.engines)
            if requests[at::count]
        ]
        replies: dict[int, Reply] = {}
        scores: dict[int, list[Score]] = {}
        scoring: dict[Any, int] = {}
        rolled = time.monotonic()
        for done, value in self._done([*streams], self._settings.step_timeout_s, scoring):
            if done in scoring:
                scores[scoring.pop(done)] = value
                continue
            name, reply = value
            replies[int(name)], rolled = reply, time.monotonic()
            scoring[next(workers).score.remote(outputs(int(name), reply), progress)] = int(name)
        if len(scores) < len(requests):
            return None
        order = range(len(requests))
        return Played([replies[at] for at in order], [scores[at] for at in order], rolled, time.monotonic())

    def close(self) -> None:
        """End the servers, and what a thread still waits for; called on every way out."""
        import ray

        self._closed = True
        if not self._head.lost:  # else they have been killed
            ray.wait([one.close.remote() for one in self.engines], num_returns=len(self.engines), timeout=30)

    def _all(self, references: Sequence[Any], limit_s: float) -> bool:
        return len(list(self._done(references, limit_s))) == len(references)

    def _done(
        self, references: Sequence[Any], limit_s: float, more: Mapping[Any, Any] | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """(reference, value) as they come, those of `more`, which may grow, included; ends early at a stop.

        Of a stream, (stream, item) for each item. Raises what a task raised, RuntimeError for an actor or a head that died and
        TimeoutError after `limit_s` seconds.
        """
        import ray

        pending, until = list(references), time.monotonic() + limit_s
        while waiting := [*pending, *(more or ())]:
            ready, _ = ray.wait(waiting, num_returns=1, timeout=_LOOK_S, fetch_local=False)
            self._head.check()
            if self._ctx.stopping() or self._closed:
                return
            if not ready and time.monotonic() > until:
                raise TimeoutError(
                    f"{len(waiting)} of Ray's tasks were not done after {limit_s:.0f} s; see server.*.log"
                )
            for one in ready:
                try:
                    if isinstance(one, ray.ObjectRefGenerator):
                        yield one, ray.get(next(one))
                    else:
                        value = ray.get(one)
                        if one in pending:
                            pending.remove(one)
                        yield one, value
                except StopIteration:
                    pending.remove(one)
                except ray.exceptions.RayActorError as error:
                    raise RuntimeError(
                        "a rollout engine or reward worker died, or its node did; the next attempt resumes the stage"
                        f" ({str(error).strip().splitlines()[-1]})"
                    ) from error


def server_of(settings: GrpoSettings, ctx: Context) -> ServerSettings:
    """Server settings with what the placement and the way of the weights need."""
    extra: tuple[str, ...] = ()
    if sleeps(settings, ctx):
        extra += ("--enable-sleep-mode",)
    if settings.sync == "device":
        extra += ("--weight-transfer-config", f'{{"backend":"{"nccl" if settings.rollout_nodes else "ipc"}"}}')
    return settings.server.model_copy(update={"extra": (*settings.server.extra, *extra)})


def sleeps(settings: GrpoSettings, ctx: Context) -> bool:
    """Whether the servers give their GPUs' memory to the policy while it trains.

    vLLM on CPU has no such mode, whatever GPUs the allocation is said to have.
    """
    return bool(ctx.gpus) and not on_cpu() and not settings.rollout_nodes and not settings.async_rollouts
