"""The loop of kind `grpo` on one rank: roll out, score, compare, update, send the weights."""

import contextlib
import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diagcot.jobs import Context, Result, UserError
from diagcot.rewards.gate import Gate
from diagcot.rewards.names import GATED
from diagcot.rewards.score import Score
from diagcot.training.checkpoint import export, origin
from diagcot.training.checkpoint.checkpoint import Checkpoints
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.distributed import process_group
from diagcot.training.models.inputs import model_input
from diagcot.training.monitoring.log import TrainingLog
from diagcot.training.monitoring.step_breakdown import StepBreakdown
from diagcot.training.monitoring.step_timer import StepTimer
from diagcot.training.rl import rollout_page, validation, weight_transfer
from diagcot.training.rl.curriculum import Curriculum, patient
from diagcot.training.rl.experience import (
    Experience,
    final_scores,
    learning_counts,
    nothing_to_learn,
    rollout_advantages,
    statistics,
)
from diagcot.training.rl.micro_batches import MicroBatch
from diagcot.training.rl.policy import Policy, check_gap
from diagcot.training.rl.rollout_collector import PendingRollouts, RolloutCollector
from diagcot.training.rl.rollout_pool import RolloutPool
from diagcot.training.rl.served_weights import ServedWeights


@dataclass
class LoopState:
    """What a rank brings to the loop: settings, prompts, and on rank 0 the servers and reward workers."""

    settings: GrpoSettings
    curriculum: Curriculum
    pool: RolloutPool | None


class GrpoLoop:
    """The loop of a stage on one rank. Methods without an underscore, and the constructor, are collectives."""

    def __init__(self, state: LoopState, ctx: Context, stack: contextlib.ExitStack) -> None:
        """stack: ends with the stage; it closes what is opened here."""
        self.settings, self.curriculum, self.pool, self.ctx = state.settings, state.curriculum, state.pool, ctx
        self.steps = self.curriculum.steps
        base = model_input(ctx)
        self.policy = Policy(base, self.settings, ctx, self.steps)
        ctx.event("training", prompts=len(self.curriculum.prompts), steps=self.steps, **self.policy.counts)
        transfer = weight_transfer.create(self.policy, self.pool, self.settings, ctx)
        stack.callback(transfer.close)
        self.collector, self.pending = None, None
        if self.pool:
            batcher = self.policy.batcher
            self.collector = RolloutCollector(self.pool, self.settings, batcher.images, batcher.banned, ctx.seed)
            self.pending = PendingRollouts(self.collector, self.curriculum, self.settings.max_staleness)
            stack.callback(self.pending.close)
        self.served = ServedWeights(
            self.policy, transfer, self.curriculum, self.settings, ctx, self.pool, self.collector
        )
        stack.callback(self.served.close)
        self.patients = [patient(sample) for sample in self.curriculum.validation]
        self.record = validation.ValidationRecord(ctx, self.patients, ctx.seed)
        self.breakdown = StepBreakdown()
        self.warned = False
        deepspeed = self.settings.deepspeed
        prompts = [*self.curriculum.prompts, *self.curriculum.mixed, *self.curriculum.validation]
        made_of = origin.of(ctx, self.settings, prompts, base)
        self.checkpoints = stack.enter_context(
            Checkpoints(ctx, self.policy.engine, made_of, deepspeed.keep, deepspeed.async_save)
        )
        self.first, saved = self.checkpoints.resume() or (0, {"gates": {}, "best": {}})
        self.gates = _initial_gates(self.settings, ctx)
        self.gates |= {name: Gate.of(gate) for name, gate in saved["gates"].items() if name in self.gates}
        self.best: dict[str, float] = saved["best"]  # step and value of the best validation, empty before one
        if ctx.rank == 0:
            self.record.rewind(self.first)
        self.log = stack.enter_context(TrainingLog(ctx, self.first, self.steps, deepspeed.trackers))
        self.timer = StepTimer(ctx, self.policy.engine, deepspeed, tower=self.policy.tower)

    def run(self) -> Result | None:
        """Run the remaining steps; the published model, or None when stopped before the end."""
        rule, every = self.settings.validation, self.settings.deepspeed.save_every
        first, last_figures = self.first, dict[str, float]()
        if rule.prompts and first == 0 and not self.validate(0):
            return None
        self.breakdown.reset()
        for number in range(first, self.steps):
            figures = self.step(number)
            stop = process_group.sum_values([self.ctx.stopping() or figures is None])[0] > 0
            completed = number + (figures is not None)
            if figures is not None:
                last_figures = figures
                self.log.step(completed, figures)
                self._warn(completed, figures["gap"])
                if rule.every and completed % rule.every == 0 and completed < self.steps and not stop:
                    stop = not self.validate(completed)
            if completed > first and (stop or completed == self.steps or completed % every == 0):
                self._save(completed)
            if stop and completed < self.steps:
                self.ctx.event("stopped", step=completed)
                return None
        if rule.prompts and not self.validate(self.steps):
            return None
        return self._result(last_figures)

    def step(self, number: int) -> dict[str, float] | None:
        """Step `number` (0-based); returns its figures, None if a stop was requested before the update."""
        self.timer.start()
        experience = self._experience(number)
        if experience is None or (number == 0 and not self._check_first(experience)):
            return None
        self.timer.data_ready()
        self.served.sleep()
        scores = process_group.broadcast(final_scores(experience, self.settings, self.gates) if self.pool else None)
        if self.pool:
            self.policy.batcher.check(experience.samples, experience.rollouts)
        self.breakdown.skip()
        means = self._update(experience, scores)
        if self.pool and self.settings.page_every and (number + 1) % self.settings.page_every == 0:
            pages = self.ctx.workspace / "pages"
            rollout_page.write(pages, number + 1, experience.samples, experience.rollouts, scores)
        return {
            **statistics(experience, scores, self.settings),
            **means,
            "lr": self.policy.engine.get_lr()[0],
            **self.timer.figures(process_group.sum_values(self.timer.sums())),
            **self.breakdown.figures(),
        }

    def validate(self, step: int) -> bool:
        """Log the figures of the held-out prompts after `step` steps, and keep the weights if they are the best so far.

        False if a stop was requested.
        """
        began = time.monotonic()
        if self.pending:
            self.pending.wait()  # figures of one model: weights that change meanwhile would mix two
        if not self._update_servers(step):
            return False
        self.served.compare()
        scores = process_group.broadcast(
            self.collector.validate(self.curriculum.validation) if self.collector else None
        )
        if scores is None:
            return False
        figures = validation.figures(scores, self.patients, self.ctx.seed)
        if self.settings.best:
            value = validation.figure(figures, self.settings.best)
            if value > self.best.get("value", float("-inf")):
                self.best = {"step": step, "value": value}
                self.policy.write_weights(validation.best_folder(self.ctx), self.ctx.workspace)
        self.ctx.event("validated", step=step, **{name: round(value, 4) for name, value in figures.items()})
        if self.ctx.rank == 0:
            self.record.add(step, scores)
        self.log.step(step, {**figures, "validation_s": round(time.monotonic() - began, 4)})
        self.breakdown.reset()
        return True

    def _experience(self, number: int) -> Experience | None:
        """Rollouts of a step; those of the next `max_staleness` steps go on while it trains."""
        if not self._update_servers(number):
            return None
        if self.pending:
            for launched in range(number, min(number + self.settings.max_staleness + 1, self.steps)):
                self.pending.launch(launched)
        return self._collect(number)

    def _collect(self, number: int) -> Experience | None:
        """The experience of step `number` on all ranks."""
        collected = self.pending.collect(number) if self.pending else None
        experience: Experience | None = process_group.broadcast(collected)
        self.breakdown.add("rollout_s")
        if experience is not None:
            self.breakdown.move("rollout_s", "reward_s", experience.waited_s)
        return experience

    def _check_first(self, first: Experience) -> bool:
        """Raises UserError if the rollouts before the first update would teach nothing; False if a stop was requested.

        Those of the first step are enough as a rule. Only where they would teach nothing are the prompts of further steps
        rolled out, up to `precheck_groups` groups in all.
        """
        experience, steps, reason = first, 1, ""
        while self.settings.precheck_groups:
            scores = final_scores(experience, self.settings, copy.deepcopy(self.gates))
            found = nothing_to_learn(experience, scores, self.settings)
            reason, groups = reason or found, steps * self.settings.prompts_per_step
            if not found:
                return True
            if groups >= self.settings.precheck_groups or steps == self.steps:
                raise UserError(
                    f"stage {self.ctx.stage} cannot learn, as the first {groups} groups of {self.settings.group_size} rollouts"
                    f" show: {reason}. `precheck_groups: 0` trains nevertheless"
                )
            further = self._collect(steps)
            if further is None:
                return False
            experience, steps = further, steps + 1
        return True

    def _warn(self, completed: int, gap: float) -> None:
        """Report the first step of this execution whose gap is above `warn_gap`."""
        if gap > self.settings.warn_gap and not self.warned:
            self.warned = True
            self.ctx.event("gap_warning", step=completed, gap=round(gap, 4), level=self.settings.warn_gap)

    def _update_servers(self, step: int) -> bool:
        updated = self.served.update(step)
        if updated:
            self.breakdown.add("sync_s")
        return updated

    def _update(self, experience: Experience, scores: Sequence[Score]) -> dict[str, float]:
        """Update the policy; returns the mean figures over the step's updates."""
        settings, rollouts = self.settings, experience.rollouts
        advantages = rollout_advantages(experience, scores, settings)
        updates = self.policy.batcher.updates(experience.samples, rollouts, advantages)
        # Rollouts of earlier weights differ from the policy: only the probe's gap shows a fault of the servers.
        max_gap = float("inf") if settings.max_staleness else settings.max_gap
        before = {}
        if len(updates) > 1:
            before["gap"] = self.policy.score_before_updates([batch for batches in updates for batch in batches])
            check_gap(before["gap"], max_gap)
            max_gap = float("inf")
        size = settings.deepspeed.global_batch
        figures = [
            self.policy.update(batches, rollouts[index * size : (index + 1) * size], max_gap, self.served.compare)
            for index, batches in enumerate(updates)
        ]
        self._count(updates)
        self.breakdown.add("train_s")
        means = {name: sum(row[name] for row in figures) / len(figures) for name in figures[0]} | before
        if settings.max_staleness:
            means |= {"drift": means["gap"], "gap": self.served.gap}
        return means

    def _count(self, updates: Sequence[Sequence[MicroBatch]]) -> None:
        for batches in updates:
            for batch in batches:
                self.timer.count(batch.sizes)

    def _save(self, completed: int) -> None:
        gates = process_group.broadcast({name: gate.state() for name, gate in self.gates.items()})
        self.checkpoints.save(completed, {"gates": gates, "best": self.best})
        self.breakdown.reset()

    def _result(self, figures: dict[str, float]) -> Result:
        counts: dict[str, Any] = {**self.policy.counts, "steps": self.steps, **figures}
        counts |= {f"gate_{name}": gate.mean for name, gate in self.gates.items()}
        if self.ctx.rank == 0:
            counts |= learning_counts(self.ctx.workspace / "train.jsonl", self.settings)
        exported = int(self.best.get("step", self.steps))
        if self.settings.validation.prompts:
            counts |= process_group.broadcast(self.record.gain(exported) if self.ctx.rank == 0 else None)
        if exported == self.steps:
            return export.write(self.ctx, self.policy.engine, self.policy.processor, counts, merge_adapter=True)
        return export.copy(self.ctx, validation.best_folder(self.ctx), {**counts, "best_step": exported})


def _initial_gates(settings: GrpoSettings, ctx: Context) -> dict[str, Gate]:
    """Gates by the names of the gated rewards; with `carry_gate`, as the GRPO stage that made the model left them."""
    rewards = [reward for reward in settings.reward_table.values() if reward.name in GATED]
    gates = {reward.name: Gate(reward.alpha, reward.margin) for reward in rewards}
    counts = model_input(ctx) / "diagcot.json"
    if settings.carry_gate and counts.is_file():
        previous = json.loads(counts.read_text(encoding="utf-8"))
        for name, gate in gates.items():
            gate.mean = previous.get(f"gate_{name}")
    return gates
