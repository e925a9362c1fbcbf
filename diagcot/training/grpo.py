"""Kind `grpo`: reinforcement learning from verifiable rewards (method.md 5, 8).

Every rank holds the policy (DeepSpeed). Rank 0 also drives Ray inside the allocation: one vLLM server or more on each
node rolls out, CPU workers score. A step: roll out with the present weights, score, normalise inside each group, check
that servers and policy agree on the log-probabilities, update, hand the new weights to the servers.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from diagcot.data.samples import Sample, read_samples
from diagcot.jobs.context import Context, Result, Unit
from diagcot.rewards.gate import Gate
from diagcot.rewards.names import GATED
from diagcot.rewards.score import Reference, Score
from diagcot.training import checkpoint, dataset, export, log, raycluster, rollout
from diagcot.training import engine as ranks
from diagcot.training.clock import Clock
from diagcot.training.grpo_settings import GrpoSettings
from diagcot.training.inputs import model_input
from diagcot.training.objective import advantages
from diagcot.training.policy import Drop, Policy
from diagcot.training.rollout import Crew, Rollout


@dataclass
class Team:
    """What the unit's ranks share: settings, prompts, and on rank 0 the servers and reward workers."""

    settings: GrpoSettings
    prompts: list[Sample]
    crew: Crew | None


@contextlib.contextmanager
def open(ctx: Context) -> Iterator[Team]:
    """Settings, checked before anything heavy; Ray with its servers, which start while the ranks load the policy."""
    settings = GrpoSettings.model_validate(ctx.settings)
    settings.deepspeed.accumulation(ctx.world_size)
    with contextlib.ExitStack() as stack:
        rendezvous = stack.enter_context(raycluster.head(ctx, settings.object_store_mb)) if ctx.rank == 0 else {}
        ranks.connect(ctx)
        stack.callback(ranks.disconnect)
        rendezvous = ranks.from_first(rendezvous)
        if ctx.node_rank and ctx.local_rank == 0:
            stack.enter_context(raycluster.join(ctx, rendezvous, settings.object_store_mb))
        prompts = prompts_of(ctx, settings)
        crew = None
        if ctx.rank == 0:
            crew = Crew(model_input(ctx), settings, ctx, [Reference(sample.answer) for sample in prompts])
            stack.callback(crew.close)
        yield Team(settings, prompts, crew)


def prompts_of(ctx: Context, settings: GrpoSettings) -> list[Sample]:
    """Samples whose prompts are rolled out. Raises ValueError if there are none or one is of the test split."""
    found: list[Sample] = []
    if ctx.inputs.get("shards"):
        found += dataset.from_shards(ctx, settings.task, settings.split, settings.views)
    if ctx.inputs.get("samples"):
        found += [sample for path in ctx.files("samples", "*.jsonl") for sample in read_samples(path)]
    if not found:
        raise ValueError(
            f"stage {ctx.stage} has no prompts of task {settings.task}, split {settings.split}, in its inputs"
        )
    if any(sample.meta.get("split") == "test" for sample in found):
        raise ValueError(f"samples of stage {ctx.stage} come from the test split, which is for evaluation only")
    return found


def run(unit: Unit, team: Team, ctx: Context) -> Result | None:
    """Train and write the model directory; None when stopped before the end."""
    settings, prompts = team.settings, team.prompts
    per_epoch = max(1, len(prompts) // settings.prompts)
    steps = settings.deepspeed.steps or max(1, math.ceil((settings.deepspeed.epochs or 0) * per_epoch))
    began = time.monotonic()
    policy = Policy(model_input(ctx), settings, ctx, steps)
    ctx.event("training", prompts=len(prompts), steps=steps, **policy.counts)
    gate = Gate(settings.reward.alpha, settings.reward.margin) if settings.reward.name in GATED else None
    drop = Drop(ctx, 4 * int(policy.counts["parameters"]))
    with contextlib.ExitStack() as stack:
        stack.callback(drop.clear if ctx.rank == 0 else lambda: None)
        saves = settings.deepspeed
        checkpoints = stack.enter_context(checkpoint.Checkpoints(ctx, policy.engine, saves.keep, saves.save_behind))
        first, state = checkpoints.resume() or (0, {"gate": None})
        gate = Gate.of(state["gate"]) if gate and state["gate"] else gate
        lines = stack.enter_context(log.Log(ctx, first, steps, saves.wandb))
        if not ranks.from_first(team.crew.ready() if team.crew else None):
            return None
        ctx.event("ready", seconds=round(time.monotonic() - began, 2))
        final: dict[str, Any] = {}
        meter = Clock(ctx, policy.engine, saves)
        for done in range(first, steps):
            figures = step(done, steps, team, policy, gate, drop, meter, fresh=done == 0, ctx=ctx)
            stop = ranks.agree([ctx.stopping() or figures is None])[0]
            completed = done + (figures is not None)
            if figures is not None:
                final = figures
                lines.step(completed, figures)
            if completed > first and (stop or completed == steps or completed % saves.save_every == 0):
                checkpoints.save(completed, {"gate": gate.state() if gate else None})
            if stop and completed < steps:
                ctx.event("stopped", step=completed)
                return None
        return export.write(ctx, policy.engine, policy.processor, {**policy.counts, "steps": steps, **final})


def step(
    number: int,
    steps: int,
    team: Team,
    policy: Policy,
    gate: Gate | None,
    drop: Drop,
    meter: Clock,
    fresh: bool,
    ctx: Context,
) -> dict[str, float] | None:
    """Step `number` (0-based); returns its figures, None if a stop was asked for before the update. A collective.

    fresh: the servers still hold the weights that the policy started from.
    """
    settings = team.settings
    meter.start()
    clock = [time.monotonic()]
    if not fresh:
        policy.publish(drop.folder(number))
        loaded = team.crew.load(drop.folder(number)) if team.crew else None
        if not ranks.from_first(loaded):
            return None
    clock.append(time.monotonic())
    chosen = [team.prompts[at] for at in rollout.choose(len(team.prompts), settings.prompts, ctx.seed, number)]
    played = ranks.from_first(play(number, steps, chosen, team, policy, gate, ctx) if team.crew else None)
    if played is None:
        return None
    rollouts, scores = played
    meter.have_data()
    clock.append(time.monotonic())
    rewards = torch.tensor([score["overall"] for score in scores]).view(settings.prompts, settings.samples)
    updates = policy.micros(chosen, rollouts, advantages(rewards).flatten().tolist())
    figures = policy.look([micro for micros in updates for micro in micros])
    if not figures["gap"] <= settings.max_gap:
        raise FloatingPointError(
            f"step {number + 1}: log-probabilities of policy and server differ by {figures['gap']:.4f} nats a token,"
            f" max_gap is {settings.max_gap}; the servers do not hold the policy's weights, or compute too coarsely"
        )
    learned = [
        policy.update(micros, sum(len(one.tokens) for one in rollouts[at : at + settings.deepspeed.global_batch]))
        for at, micros in zip(range(0, len(rollouts), settings.deepspeed.global_batch), updates, strict=True)
    ]
    for micros in updates:
        for micro in micros:
            meter.count(micro.inputs)
    clock.append(time.monotonic())
    means = {name: sum(one[name] for one in learned) / len(learned) for name in learned[0]}
    if not math.isfinite(means["loss"]):
        raise FloatingPointError(
            f"the loss is {means['loss']} at step {number + 1}; lower the learning rate or clip harder"
        )
    seconds = dict(zip(("sync_s", "rollout_s", "train_s"), (b - a for a, b in pairwise(clock)), strict=True))
    return {
        **_rewards(scores, rewards),
        **means,
        **figures,
        "length": sum(len(one.tokens) for one in rollouts) / len(rollouts),
        "cut": sum(one.cut for one in rollouts) / len(rollouts),
        "lr": policy.engine.get_lr()[0],
        **{name: round(value, 4) for name, value in seconds.items()},
        **meter.figures(ranks.agree(meter.sums())),
    }


def play(
    number: int, steps: int, chosen: list[Sample], team: Team, policy: Policy, gate: Gate | None, ctx: Context
) -> tuple[list[Rollout], list[Score]] | None:
    """Rollouts of a step and their scores, by rank 0; None if a stop was asked for."""
    assert team.crew is not None
    jpeg = policy.collator.films.source.jpeg
    requests = rollout.requests_of(
        chosen, lambda sample: tuple(map(jpeg, sample.images)), team.settings, ctx.seed, number, policy.banned
    )
    replies = team.crew.roll(requests)
    if replies is None:
        return None
    rollouts = rollout.rollouts_of(chosen, replies, team.settings.samples)
    for one in rollouts[:: team.settings.samples]:
        policy.same_prompt(chosen[one.prompt], one)
    banned = set(policy.banned)
    if any(banned.intersection(one.tokens) for one in rollouts):
        raise ValueError("a rollout holds a vision token in spite of its logit bias; the server ignores logit_bias")
    references = [Reference(chosen[one.prompt].answer) for one in rollouts]
    scores = team.crew.score([one.text for one in rollouts], references, number / steps)
    if scores is None:
        return None
    return rollouts, gate.apply(scores) if gate else scores


def _rewards(scores: list[Score], rewards: torch.Tensor) -> dict[str, float]:
    """Mean reward, its components, the mean spread inside a group, and the share of groups that teach nothing."""
    parts = {
        f"reward_{name}": sum(one[name] for one in scores) / len(scores) for name in scores[0] if name != "overall"
    }
    flat = (rewards.amax(1) == rewards.amin(1)).float().mean()
    return {"reward": float(rewards.mean()), "spread": float(rewards.std(1).mean()), "flat": float(flat), **parts}
