"""The loop of kind `grpo` on one rank: roll out, score, compare, update, hand over the weights."""

import contextlib
import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from diagcot.jobs import Context, Result
from diagcot.rewards.gate import Gate
from diagcot.rewards.names import GATED
from diagcot.training.checkpoint import checkpoint, export
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.distributed import process_group
from diagcot.training.models.inputs import model_input
from diagcot.training.monitoring.log import TrainingLog
from diagcot.training.monitoring.step_timer import StepTimer
from diagcot.training.rl import curriculum, sync, validation
from diagcot.training.rl import rollout_page as page
from diagcot.training.rl.curriculum import Curriculum
from diagcot.training.rl.experience import Experience, Player, rewarded, statistics
from diagcot.training.rl.objective import advantages
from diagcot.training.rl.policy import Policy, stale
from diagcot.training.rl.rollout_pool import Crew, sleeps
from diagcot.training.rl.step_breakdown import Phases


@dataclass
class Team:
    """What the unit's ranks share: settings, prompts, and on rank 0 the servers and reward workers."""

    settings: GrpoSettings
    prompts: Curriculum
    crew: Crew | None


class Training:
    """The loop of a stage on one rank. Methods without an underscore are collectives."""

    def __init__(self, team: Team, ctx: Context, stack: contextlib.ExitStack) -> None:
        self.settings, self.prompts, self.crew, self.ctx = team.settings, team.prompts, team.crew, ctx
        self.steps = self.prompts.steps
        self.policy = Policy(model_input(ctx), self.settings, ctx, self.steps)
        ctx.event("training", prompts=len(self.prompts.prompts), steps=self.steps, **self.policy.counts)
        self.gates = _gates(self.settings, ctx)
        self.channel = sync.channel(self.policy, self.crew, self.settings, ctx)
        self.player = None
        if self.crew:
            self.player = Player(self.crew, self.settings, self.policy.films, self.policy.banned, ctx.seed)
        self.patients = [curriculum.patient(sample) for sample in self.prompts.validation]
        self.record = validation.Record(ctx, self.patients, ctx.seed)
        self.best: dict[str, float] = {}
        self.phases = Phases()
        self._served = 0  # the step whose weights the servers hold
        self._probed, self._gap = -1, 0.0  # the step whose weights a probe has compared, and what it found
        self._asleep = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
        stack.callback(self.channel.close)
        stack.callback(self._pool.shutdown, wait=False, cancel_futures=True)
        saves = self.settings.deepspeed
        self.checkpoints = stack.enter_context(
            checkpoint.Checkpoints(ctx, self.policy.engine, saves.keep, saves.async_save)
        )
        self.first, state = self.checkpoints.resume() or (0, {"gates": {}, "best": {}})
        self.gates |= {name: Gate.of(one) for name, one in state["gates"].items() if name in self.gates}
        self.best = state["best"]
        if ctx.rank == 0:
            self.record.rewind(self.first)
        self.log = stack.enter_context(TrainingLog(ctx, self.first, self.steps, saves.wandb))
        self.meter = StepTimer(ctx, self.policy.engine, saves)
        self._coming: dict[int, Future[Experience | None]] = {}  # step -> its experience; rank 0's

    def run(self) -> Result | None:
        """The steps that are left; the model, or None when stopped before the end."""
        rule, every = self.settings.validation, self.settings.deepspeed.save_every
        first, figures = self.first, dict[str, float]()
        if rule.prompts and first == 0 and not self.validate(0):
            return None
        self.phases.reset()
        for number in range(first, self.steps):
            made = self.step(number)
            stop = process_group.sum_values([self.ctx.stopping() or made is None])[0] > 0
            completed = number + (made is not None)
            if made is not None:
                figures = made
                self.log.step(completed, figures)
                if rule.every and completed % rule.every == 0 and completed < self.steps and not stop:
                    stop = not self.validate(completed)
            if completed > first and (stop or completed == self.steps or completed % every == 0):
                gates = process_group.broadcast({name: gate.state() for name, gate in self.gates.items()})
                self.checkpoints.save(completed, {"gates": gates, "best": self.best})
                self.phases.reset()
            if stop and completed < self.steps:
                self.ctx.event("stopped", step=completed)
                return None
        if rule.prompts and not self.validate(self.steps):
            return None
        return self._result(figures)

    def step(self, number: int) -> dict[str, float] | None:
        """Step `number` (0-based); returns its figures, None if a stop was asked for before the update."""
        settings, phases = self.settings, self.phases
        overlap = settings.async_rollouts
        self.meter.start()
        if overlap:
            found = self._collect(number)
            if found is None or not self._sync(number):
                return None
            if number + 1 < self.steps:
                self._launch(number + 1)
        else:
            found = self._collect(number) if self._sync(number) else None
        if found is None:
            return None
        self.meter.data_ready()
        self._sleep()
        scores = process_group.broadcast(rewarded(found, settings, self.gates) if self.crew else None)
        rewards = torch.tensor([score["overall"] for score in scores]).view(-1, settings.group_size)
        if self.crew:
            self.policy.check(found.samples, found.rollouts)
        phases.skip()
        updates = self.policy.micros(
            found.samples, found.rollouts, advantages(rewards, settings.normalize_advantages).flatten().tolist()
        )
        max_gap = float("inf") if overlap else settings.max_gap
        looked = {}
        if len(updates) > 1:
            looked["gap"] = self.policy.look([micro for micros in updates for micro in micros])
            if not looked["gap"] <= max_gap:
                raise stale(looked["gap"], max_gap)
            max_gap = float("inf")
        lengths, size = [len(one.tokens) for one in found.rollouts], settings.deepspeed.global_batch
        learned = [
            self.policy.update(micros, lengths[at : at + size], max_gap)
            for at, micros in zip(range(0, len(lengths), size), updates, strict=True)
        ]
        for micros in updates:
            for micro in micros:
                self.meter.count(micro.inputs)
        phases.took("train_s")
        means = {name: sum(one[name] for one in learned) / len(learned) for name in learned[0]} | looked
        if overlap:  # the rollouts are of the step before: their distance is no fault, the probe's would be
            means |= {"drift": means["gap"], "gap": self._gap}
        if self.crew and settings.page_every and (number + 1) % settings.page_every == 0:
            page.write(self.ctx.workspace / "pages", number + 1, found.samples, found.rollouts, scores)
        return {
            **statistics(found, scores, settings),
            **means,
            "lr": self.policy.engine.get_lr()[0],
            **self.meter.figures(process_group.sum_values(self.meter.sums())),
            **phases.shares(),
        }

    def validate(self, step: int) -> bool:
        """Log the figures of the held-out prompts after `step` steps, and keep the weights if they are the best yet.

        False if a stop was asked for.
        """
        began = time.monotonic()
        for one in self._coming.values():  # weights change only while no server is busy
            one.exception()
        if not self._sync(step):
            return False
        scores = process_group.broadcast(self.player.validate(self.prompts.validation) if self.player else None)
        if scores is None:
            return False
        found = validation.figures(scores, self.patients, self.ctx.seed)
        if self.settings.best and (value := validation.named(found, self.settings.best)) > self.best.get(
            "value", float("-inf")
        ):
            self.best = {"step": step, "value": value}
            self.policy.publish(validation.best_folder(self.ctx))
        self.ctx.event("validated", step=step, **{name: round(value, 4) for name, value in found.items()})
        if self.ctx.rank == 0:
            self.record.add(step, scores)
        self.log.step(step, {**found, "validation_s": round(time.monotonic() - began, 4)})
        self.phases.reset()
        return True

    def _launch(self, number: int) -> None:
        if self.player and number not in self._coming:
            self._coming[number] = self._pool.submit(self.player.step, number, self.prompts)

    def _collect(self, number: int) -> Experience | None:
        """The experience of step `number` on all ranks, launched now if it was not before."""
        self._launch(number)
        found = self._coming.pop(number).result() if self.player else None
        found = process_group.broadcast(found)
        self.phases.took("rollout_s")
        if found is not None:
            self.phases.moved("rollout_s", "reward_s", found.waited_s)
        return found

    def _sync(self, step: int) -> bool:
        """Bring the servers the weights after `step` steps, where they hold others; False if a stop was asked for.

        With `async_rollouts` the rollouts cannot tell whether it worked: a short probe does, once for each weights.
        """
        if self._asleep:
            torch.cuda.empty_cache()
            process_group.barrier()
            if self.crew:
                self.crew.post("/wake_up")
        self._asleep = False
        if self._served != step and not self.channel.send(step):
            return False
        self._served = step
        if self.settings.async_rollouts and self._probed != step:
            sample = self.prompts.prompts[0]
            rollouts = process_group.broadcast(self.player.probe(sample, self.ctx.world_size) if self.player else None)
            if rollouts is None:
                return False
            self._gap, self._probed = self.policy.gap([sample], rollouts), step
            if not self._gap <= self.settings.max_gap:
                raise stale(self._gap, self.settings.max_gap)
        self.phases.took("sync_s")
        return True

    def _sleep(self) -> None:
        """Servers on the policy's GPUs leave it their memory until the next weights."""
        if sleeps(self.settings, self.ctx):
            if self.crew:
                self.crew.post("/sleep?level=1")
            self._asleep = True

    def _result(self, figures: dict[str, float]) -> Result:
        counts: dict[str, Any] = {**self.policy.counts, "steps": self.steps, **figures}
        counts |= {f"gate_{name}": gate.mean for name, gate in self.gates.items()}
        kept = int(self.best.get("step", self.steps))
        if self.settings.validation.prompts:
            counts |= process_group.broadcast(self.record.gain(kept) if self.ctx.rank == 0 else None)
        if kept == self.steps:
            return export.write(self.ctx, self.policy.engine, self.policy.processor, counts)
        return validation.export(self.ctx, {**counts, "best_step": kept})


def _gates(settings: GrpoSettings, ctx: Context) -> dict[str, Gate]:
    """Gates by the names of the gated rewards; with `carry_gate`, as the GRPO stage that made the model left them."""
    gates = {one.name: Gate(one.alpha, one.margin) for one in settings.reward_table.values() if one.name in GATED}
    about = model_input(ctx) / "diagcot.json"
    if settings.carry_gate and about.is_file():
        known = json.loads(about.read_text(encoding="utf-8"))
        for name, gate in gates.items():
            gate.mean = known.get(f"gate_{name}")
    return gates
