"""The rollout servers on the nodes and the reward workers next to rank 0, which alone holds them."""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from diagcot.jobs import Context
from diagcot.metrics.green import CHAT_TEMPLATE
from diagcot.rewards.score import Reference, Score
from diagcot.serving import Reply, Request, ServerError, ServerSettings
from diagcot.serving.server.command import on_cpu
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.config.reward_settings import SERVED
from diagcot.training.distributed import ray_cluster
from diagcot.training.reward_models import missing
from diagcot.training.reward_models.plain import Output
from diagcot.training.reward_models.worker import RewardWorker, Scored
from diagcot.training.rl.actors import RolloutServer, ScoringServer, context_fields, server_gpus

_POLL_S = 0.5  # between looks at whether a stop was requested
SERVER, REWARD_WORKER = "rollout server", "reward worker"
_CALLS = 32  # groups that a reward worker scores at once: while one is with a server, the next is read


@dataclass(frozen=True)
class RolloutBatch:
    """Replies and scores of requests, in their order, and when the last reply and the last score arrived.

    Times are those of `time.monotonic`. scoring_s: component -> seconds that its model was at work, summed over workers.
    late: rollouts that a reward did not score before its deadline.
    """

    replies: list[Reply]
    scores: list[list[Score]]
    rolled_out_at: float
    scored_at: float
    scoring_s: dict[str, float] = field(default_factory=dict)
    late: int = 0


class RolloutPool:
    """Servers and reward workers. Every call has a deadline, and returns None (or False) once a stop is requested.

    corpus: references by reward key, of all prompts that may be scored.
    """

    def __init__(
        self,
        model_dir: Path,
        settings: GrpoSettings,
        ctx: Context,
        corpus: Mapping[str, Sequence[Reference]],
        head: ray_cluster.Head,
    ) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ctx, self._settings, self._head = ctx, settings, head
        self._closed = False
        server, scoring, worker = ray.remote(RolloutServer), ray.remote(ScoringServer), ray.remote(RewardWorker)
        context = context_fields(ctx)
        # With servers on separate nodes, Ray has only those nodes and rank 0's.
        expected = 1 + settings.rollout_nodes if settings.rollout_nodes else ctx.nodes
        nodes = list(enumerate(ray_cluster.node_ids(expected, settings.start_timeout_s)))
        self.servers = [
            server.options(
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                max_concurrency=1
                + settings.max_staleness
                + (settings.max_staleness > 0),  # steps, and a change of weights
            ).remote(
                model_dir,
                server_settings(settings, ctx),
                {**context, "node_rank": number},
                index,
                settings.engines,
                shares_gpus(settings, ctx),
            )
            for number, node in nodes[-settings.rollout_nodes :]
            for index in range(settings.engines)
        ]
        last, node = nodes[-1]
        self.scoring = {
            name: scoring.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False), max_concurrency=_CALLS
            ).remote(
                name,
                missing.folder(name, settings, ctx.inputs),
                scoring_settings(name, settings, ctx),
                {**context, "node_rank": last, "attempt": f"{ctx.attempt}-{name}"},
                0,
                1,
                shares_gpus(settings, ctx),
            )
            for name in settings.scoring_models
            if name in SERVED
        }
        self._corpus = ray.put(dict(corpus))  # kept: a worker that restarts reads it again
        # A worker that dies is restarted once, and what it was scoring is scored again.
        self.workers = [
            worker.options(
                num_cpus=0, max_restarts=1, max_task_retries=1, max_concurrency=_CALLS if settings.scoring_models else 1
            ).remote(
                settings.reward_table, self._corpus, settings.reward_models, self.scoring, _gpu(settings, ctx, number)
            )
            for number in range(settings.reward.workers)
        ]

    def ready(self) -> bool:
        """Wait for the servers and for the models of the rewards; False if a stop was requested first.

        Servers that may share a GPU start one after the other: each measures the memory that is left.
        """
        limit, ready = self._settings.start_timeout_s, [server.ready.remote() for server in self.servers]
        return (
            self._all(ready, limit)
            and all(self._all([server.ready.remote()], limit) for server in self.scoring.values())
            and self._all([worker.ready.remote() for worker in self.workers], limit, REWARD_WORKER)
        )

    def load(self, model_dir: Path) -> bool:
        """Serve the weights of `model_dir` on all servers; False if a stop was requested first."""
        return self._all([server.load.remote(model_dir) for server in self.servers], self._settings.step_timeout_s)

    def post(self, *paths: str, bodies: Sequence[Any] = (None,)) -> None:
        """Call vLLM's control routes on all servers, each with its own of `bodies` or the only one.

        Raises ServerError with the answer of a server that refuses.
        """
        from ray.exceptions import RayTaskError

        limit, count = self._settings.step_timeout_s, len(bodies) // len(self.servers)
        calls = [
            server.post.remote(paths, list(bodies[index * count : (index + 1) * count] or bodies), limit)
            for index, server in enumerate(self.servers)
        ]
        try:
            self._all(calls, limit)
        except RayTaskError as error:
            raise ServerError(f"a rollout server does not do what it is asked for: {error.cause}") from error

    def sleep(self) -> None:
        """Let the servers give up their GPUs' memory until they are woken.

        Rollout servers forget their weights (vLLM's level 2), since the policy sends new ones before the next rollout. The
        servers of rewards' models keep theirs in the host's memory (level 1).
        """
        self._call("/sleep?level=2", "/sleep?level=1")

    def wake_weights(self) -> None:
        """Let the rollout servers take the memory of their weights again, which then hold nothing until they are sent."""
        self._call("/wake_up?tags=weights", None)

    def wake_cache(self) -> None:
        """Let all servers take the rest of their memory; they answer requests again."""
        self._call("/wake_up?tags=kv_cache", "/wake_up")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """For the length of the block the rollout servers keep their requests without working on them, if there may be some.

        Afterwards they read prompts and begun answers again, by the weights that they have then, and go on.
        """
        if not self._settings.max_staleness:
            yield
            return
        self._call("/pause?mode=keep", None)
        try:
            yield
        finally:
            self._call("/resume", None)

    def _call(self, rollout: str, scoring: str | None) -> None:
        """Call one route of the rollout servers, and one of the servers of rewards' models that are ours."""
        limit = self._settings.step_timeout_s
        calls = [server.post.remote([rollout], [None], limit) for server in self.servers]
        if scoring is not None:
            ours = [self.scoring[name] for name in self.scoring if not _elsewhere(name, self._settings)]
            calls += [server.post.remote([scoring], [None], limit) for server in ours]
        self._all(calls, limit)

    def mark_pushed(self) -> None:
        """All servers now hold the policy's weights, sent from GPU to GPU."""
        self._all([server.mark_pushed.remote() for server in self.servers], self._settings.step_timeout_s)

    def roll_out(
        self, requests: Sequence[Request], outputs: Callable[[int, Reply], list[Output]], progress: float
    ) -> RolloutBatch | None:
        """Replies to the requests, dealt to the servers in turn, each scored as soon as it arrives.

        outputs: index of a request and its reply -> what to score. progress: share of training done, 0 to 1. May be called
        from several threads at once; the servers then work on the requests of all.
        """
        if len({request.id for request in requests}) < len(requests):
            raise ValueError("two requests of a step have one id, so their rollouts could not be told apart")
        count, workers = len(self.servers), cycle(self.workers)
        streams = [
            server.generate.options(num_returns="streaming").remote(requests[index::count])
            for index, server in enumerate(self.servers)
            if requests[index::count]
        ]
        replies: dict[int, Reply] = {}
        scores: dict[int, list[Score]] = {}
        scoring: dict[Any, tuple[int, str]] = {}  # call of a worker -> index of the request, sample
        scoring_s: Counter[str] = Counter()
        late = 0
        rolled_out_at = time.monotonic()
        limit = self._settings.step_timeout_s * (1 + self._settings.max_staleness)
        for reference, value in self._results([*streams], limit, scoring):
            if reference in scoring:
                scored: Scored = value
                scores[scoring.pop(reference)[0]] = scored.scores
                scoring_s.update(scored.seconds)
                late += len(scored.late)
                for sample, reward in scored.late:
                    self._ctx.event("score_late", sample=sample, reward=reward)
                continue
            index, reply = int(value[0]), value[1]
            replies[index], rolled_out_at = reply, time.monotonic()
            scored_outputs = outputs(index, reply)
            if not scored_outputs:  # a probe does not wait for workers that score rollouts
                scores[index] = []
                continue
            scoring[next(workers).score.remote(scored_outputs, progress)] = index, scored_outputs[0].sample
        if len(scores) < len(requests):
            return None
        order = range(len(requests))
        return RolloutBatch(
            [replies[index] for index in order],
            [scores[index] for index in order],
            rolled_out_at,
            time.monotonic(),
            dict(scoring_s),
            late,
        )

    def close(self) -> None:
        """End the servers, and what a thread still waits for; called on every way out."""
        import ray

        self._closed = True
        if not self._head.lost:  # else they have been killed
            ends = [server.close.remote() for server in [*self.servers, *self.scoring.values()]]
            ray.wait(ends, num_returns=len(ends), timeout=30)

    def _all(self, references: Sequence[Any], limit_s: float, who: str = SERVER) -> bool:
        return len(list(self._results(references, limit_s, who=who))) == len(references)

    def _results(
        self,
        references: Sequence[Any],
        limit_s: float,
        scoring: Mapping[Any, tuple[int, str]] | None = None,
        who: str = SERVER,
    ) -> Iterator[tuple[Any, Any]]:
        """(reference, value) as they finish, also of the keys of `scoring`, which may grow; ends early at a stop.

        For a stream, (stream, item) for each item. who: the actors of `references`; those of `scoring` are reward workers.
        Raises what a task raised, RuntimeError for an actor or a head that died, and TimeoutError after `limit_s` seconds.
        """
        import ray

        pending, deadline = list(references), time.monotonic() + limit_s
        while waiting := [*pending, *(scoring or ())]:
            ready, _ = ray.wait(waiting, num_returns=1, timeout=_POLL_S, fetch_local=False)
            self._head.check()
            if self._ctx.stopping() or self._closed:
                return
            if not ready and time.monotonic() > deadline:
                raise TimeoutError(slow(who, len(pending), [sample for _, sample in (scoring or {}).values()], limit_s))
            for reference in ready:
                try:
                    if isinstance(reference, ray.ObjectRefGenerator):
                        yield reference, ray.get(next(reference))
                    else:
                        value = ray.get(reference)
                        if reference in pending:
                            pending.remove(reference)
                        yield reference, value
                except StopIteration:
                    pending.remove(reference)
                except ray.exceptions.RayActorError as error:
                    named = REWARD_WORKER if scoring and reference in scoring else who
                    raise RuntimeError(dead(named, str(error).strip().splitlines()[-1])) from error


def dead(who: str, why: str) -> str:
    """That an actor died and what to do. why: Ray's last line about it."""
    remedy = (
        "out of memory is the usual cause: give rank 0's node more memory, or set fewer `reward.workers`"
        if who == REWARD_WORKER
        else "its server.*.log says more"
    )
    return f"a {who} died, or its node did: {remedy}; the next attempt resumes the stage ({why})"


def slow(who: str, calls: int, samples: Sequence[str], limit_s: float) -> str:
    """What was not done in time. calls: those of actors `who`. samples: those whose rollouts reward workers still score."""
    if who == REWARD_WORKER:
        return f"{calls} reward workers had not loaded their rewards and models after {limit_s:.0f} s; see Ray's logs"
    if calls or not samples:
        return f"{calls} calls of a {who} were not done after {limit_s:.0f} s; see server.*.log"
    named = ", ".join(sorted(samples)[:8])
    return (
        f"all rollouts are there, but reward workers are slow: they had not scored those of {len(samples)} prompts after"
        f" {limit_s:.0f} s (samples {named}). A model of the reward is slow or hangs: set more `reward.workers`, a smaller"
        " `reward.score_timeout_s`, or a larger `step_timeout_s`"
    )


def server_settings(settings: GrpoSettings, ctx: Context) -> ServerSettings:
    """Server settings with the flags that placement and weight transfer need."""
    flags: tuple[str, ...] = ()
    if sleeps(settings, ctx):
        flags += ("--enable-sleep-mode",)
    if settings.max_staleness:
        # Weights change while requests arrive: the two halves of vLLM's cache of images could then differ for good.
        flags += ("--scheduling-policy", "priority", "--mm-processor-cache-gb", "0")
    if settings.sync == "device" and ctx.gpus and not on_cpu():
        flags += ("--weight-transfer-config", f'{{"backend":"{"nccl" if settings.rollout_nodes else "ipc"}"}}')
    return settings.server.model_copy(update={"extra": (*settings.server.extra, *flags)})


def scoring_settings(name: str, settings: GrpoSettings, ctx: Context) -> ServerSettings:
    """Settings of the server behind a component. It reads text alone; GREEN's prompt has a format of its own."""
    chosen, flags = settings.reward_models.served(name).server, tuple[str, ...]()
    if name == "green":
        flags += ("--chat-template", CHAT_TEMPLATE)
    if sleeps(settings, ctx):
        flags += ("--enable-sleep-mode",)
    return chosen.model_copy(update={"images": 0, "extra": (*flags, *chosen.extra)})


def _elsewhere(name: str, settings: GrpoSettings) -> bool:
    """Whether a component's model is served by a server that is not ours."""
    return settings.reward_models.served(name).server.endpoint is not None


def _gpu(settings: GrpoSettings, ctx: Context, worker: int) -> str | None:
    """The GPU for the models of reward worker number `worker`; they take turns with those of rank 0's node."""
    if settings.reward_models.device == "cpu":
        return None
    names = server_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), ctx.gpus * ctx.local_world_size, 0, 1)
    return names[worker % len(names)]


def shares_gpus(settings: GrpoSettings, ctx: Context) -> bool:
    """Whether servers and policy are on the same GPUs. The CPU build of vLLM is on none, whatever GPUs Slurm reports."""
    return bool(ctx.gpus) and not on_cpu() and not settings.rollout_nodes


def sleeps(settings: GrpoSettings, ctx: Context) -> bool:
    """Whether the servers give their GPUs' memory to the policy while it trains."""
    return shares_gpus(settings, ctx) and not settings.max_staleness
