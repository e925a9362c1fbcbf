"""Rank 0's side of a rollout: which prompts, what is asked, and the servers and reward workers that answer."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from diagcot.data.samples import Sample
from diagcot.jobs.context import Context
from diagcot.rewards.score import Reference, Score
from diagcot.serving import Reply, Request
from diagcot.training import raycluster
from diagcot.training.actors import RewardWorker, RolloutEngine, surroundings
from diagcot.training.grpo_settings import GrpoSettings

_BAN = -100.0


@dataclass(frozen=True)
class Rollout:
    """One sampled answer: `tokens` with its end token, and the server's log-probability of each, in nats."""

    prompt: int  # index of the prompt in the step
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    cut: bool  # ended by max_tokens
    prompt_tokens: tuple[int, ...]  # as the server saw the prompt
    prompt_length: int  # with image tokens


def choose(count: int, per_step: int, seed: int, step: int) -> list[int]:
    """Indices of the prompts of a step (0-based): shuffled epochs laid end to end, by seed and step alone."""
    positions = [divmod(position, count) for position in range(step * per_step, (step + 1) * per_step)]
    return [_epoch(count, seed, epoch)[place] for epoch, place in positions]


@lru_cache(maxsize=2)
def _epoch(count: int, seed: int, epoch: int) -> list[int]:
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def requests_of(
    samples: Sequence[Sample],
    films: Callable[[Sample], tuple[bytes, ...]],
    settings: GrpoSettings,
    seed: int,
    step: int,
    banned: Iterable[int],
) -> list[Request]:
    """One request for each prompt of a step, with a seed of its own."""
    return [
        Request(
            id=str(index),
            messages=sample.messages[:-1],
            images=films(sample),
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            n=settings.samples,
            logprobs=0,
            seed=random.Random(f"{seed}/{step}/{index}").getrandbits(31),
            logit_bias=dict.fromkeys(banned, _BAN),
            return_token_ids=True,
        )
        for index, sample in enumerate(samples)
    ]


def rollouts_of(samples: Sequence[Sample], replies: Sequence[Reply], group: int) -> list[Rollout]:
    """Rollouts in groups of one prompt. Raises RuntimeError that names the sample whose request failed."""
    found = []
    for index, (sample, reply) in enumerate(zip(samples, replies, strict=True)):
        if reply.error or len(reply.texts) != group:
            raise RuntimeError(
                f"rollout of {sample.id} failed: {reply.error or f'{len(reply.texts)} of {group} answers'}"
            )
        assert reply.token_ids is not None and reply.logprobs is not None
        for text, tokens, logprobs, finish in zip(
            reply.texts, reply.token_ids, reply.logprobs, reply.finish, strict=True
        ):
            if len(tokens) != len(logprobs):
                raise RuntimeError(
                    f"the server gave {len(tokens)} tokens of {sample.id} but {len(logprobs)} log-probabilities"
                )
            seen = tuple(reply.prompt_token_ids or ())
            found.append(
                Rollout(index, text, tuple(tokens), tuple(logprobs), finish == "length", seen, reply.prompt_tokens)
            )
    return found


class Crew:
    """The rollout engines on every node and the reward workers beside the driver. For rank 0 alone."""

    def __init__(self, model_dir: Path, settings: GrpoSettings, ctx: Context, corpus: Sequence[Reference]) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ctx, self._settings = ctx, settings
        engine, worker = ray.remote(RolloutEngine), ray.remote(RewardWorker)
        around = surroundings(ctx)
        self.engines = [
            engine.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False), max_concurrency=1
            ).remote(model_dir, settings.server, {**around, "node_rank": number}, index, settings.engines)
            for number, node in enumerate(raycluster.nodes(ctx.nodes, settings.start_timeout_s))
            for index in range(settings.engines)
        ]
        known = ray.put(list(corpus))
        reward = settings.reward
        self.workers = [
            worker.options(num_cpus=0).remote(reward.name, reward.chosen_mode, known) for _ in range(reward.workers)
        ]

    def _wait(self, references: Sequence[Any], deadline_s: float | None = None) -> list[Any] | None:
        """Results in order; None as soon as a stop is asked for. Errors of the actors are raised here."""
        import ray

        pending, waited = list(references), 0.0
        while pending:
            _, pending = ray.wait(pending, num_returns=len(pending), timeout=0.5)
            waited += 0.5
            if pending and self._ctx.stopping():
                return None
            if pending and deadline_s is not None and waited > deadline_s:
                raise TimeoutError(
                    f"{len(pending)} of {len(references)} workers were not ready after {deadline_s:.0f} s"
                )
        return list(ray.get(list(references)))

    def ready(self) -> bool:
        """Wait for the servers; False if a stop was asked for first."""
        return self._wait([one.ready.remote() for one in self.engines], self._settings.start_timeout_s) is not None

    def load(self, model_dir: Path) -> bool:
        """Serve the weights of `model_dir` on all engines."""
        return self._wait([one.load.remote(model_dir) for one in self.engines]) is not None

    def roll(self, requests: Sequence[Request]) -> list[Reply] | None:
        """Replies in order, the requests dealt to the engines in turn; None if a stop was asked for."""
        count = len(self.engines)
        parts = self._wait(
            [one.roll.remote(requests[at::count]) for at, one in enumerate(self.engines) if requests[at::count]]
        )
        if parts is None:
            return None
        return [parts[index % count][index // count] for index in range(len(requests))]

    def score(self, outputs: Sequence[str], references: Sequence[Reference], progress: float) -> list[Score] | None:
        """Scores in order; None if a stop was asked for."""
        count = len(self.workers)
        parts = self._wait(
            [
                one.score.remote(outputs[at::count], references[at::count], progress)
                for at, one in enumerate(self.workers)
            ]
        )
        if parts is None:
            return None
        return [parts[index % count][index // count] for index in range(len(outputs))]

    def close(self) -> None:
        """End the servers; called on every way out."""
        import ray

        ray.wait([one.close.remote() for one in self.engines], num_returns=len(self.engines), timeout=30)
