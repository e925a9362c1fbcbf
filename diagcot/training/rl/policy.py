"""The policy over all ranks: log-probabilities of rollouts, updates by the objective, weights for the servers."""

import contextlib
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from diagcot.jobs import Context
from diagcot.jobs.state.files import remove
from diagcot.tasks.samples import Sample
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.data.collator import Collator
from diagcot.training.distributed import engine, process_group
from diagcot.training.losses import logprobs
from diagcot.training.models import attention, freeze, frozen_tower, lora, model
from diagcot.training.rl.micro_batches import MicroBatch, MicroBatcher
from diagcot.training.rl.objective import Objective, aggregate, divisor, k3, ratios, token_losses, uncut
from diagcot.training.rl.rollout import Rollout

_SUMS = ("gap", "kl", "entropy", "clipped", "capped")  # figures that are means over an update's tokens


class Policy:
    """The trained model, and the frozen one that it started from where kl_coef > 0. Creating it is a collective.

    reference: the network of the frozen model; the engine itself where an adapter alone trains, whose base is that model.
    """

    def __init__(self, base: Path, settings: GrpoSettings, ctx: Context, steps: int) -> None:
        self.base, self.settings, self.ctx = base, settings, ctx
        bounds = settings.ratio_clipping
        self.objective = Objective(
            bounds.low,
            bounds.high,
            bounds.dual,
            kl_coef=settings.kl_coef,
            ratio=settings.ratio,
            loss=settings.policy_loss,
            importance_cap=settings.importance_cap,
        )
        zero3, packed = engine.zero3_config(settings.deepspeed, ctx), settings.lora and settings.lora.load_in_4bit
        network = model.load(base, settings.deepspeed.precision, zero3, bool(packed))
        if settings.lora is not None:
            network = lora.add_adapter(network, settings.lora)
        freeze.freeze(network, settings)
        self.counts = freeze.describe(network)
        self.processor = model.load_processor(base)
        longest = settings.server.max_model_len
        packed = settings.deepspeed.micro_batch_tokens is not None
        collator = Collator(self.processor, ctx.shards_root, longest, settings.image_cache_mb, packed=packed)
        self.tower = frozen_tower.of(network, settings, ctx)
        shares_prompts = packed and attention.shares_prompts(network)
        self.batcher = MicroBatcher(collator, settings.deepspeed, ctx, self.tower, shares_prompts)
        self._banned = torch.tensor(self.batcher.banned, device=process_group.device(ctx))
        self.engine = engine.initialize(network, settings.deepspeed, ctx, steps * settings.updates)
        self.reference = self.engine if settings.kl_coef > 0 else None
        if settings.own_reference:
            divided = engine.divided(settings.deepspeed, ctx)
            reference = model.load(base, divided.precision, engine.zero3_config(divided, ctx))
            if self.tower:
                self.tower.cut(reference)
            self.reference = engine.frozen(reference, divided, ctx)

    def _logprobs(self, network: Any, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """(sampled, raw), see `logprobs.forward`; 0 outside the mask."""
        sampled, raw = logprobs.forward(network, batch.inputs, batch.tokens, self.settings.temperature, self._banned)
        if sampled.shape != batch.mask.shape:  # of packed rollouts: a row for each
            rows = torch.zeros_like(batch.mask)
            sampled, raw = (rows.masked_scatter(batch.mask > 0, values) for values in (sampled, raw))
        # Padding may name a banned id, whose value must not reach a product with the mask.
        return torch.where(batch.mask > 0, sampled, 0.0), torch.where(batch.mask > 0, raw, 0.0)

    @torch.no_grad()
    def _reference_logprobs(self, batch: MicroBatch) -> torch.Tensor | None:
        """Log-probabilities of the frozen model under the sampled distribution."""
        if self.reference is None:
            return None
        base = lora.switched_off(self.engine.module) if self.reference is self.engine else contextlib.nullcontext()
        with base:
            return self._logprobs(self.reference, batch)[0]

    @torch.no_grad()
    def probe_gap(self, samples: Sequence[Sample], rollouts: Sequence[Rollout]) -> float:
        """Mean |log p(policy) - log p(server)| over the tokens of one rollout for each rank, nats. A collective."""
        self.engine.eval()
        batch = self.batcher.micro_batch(samples, [rollouts[self.ctx.rank]], [0.0])
        _, raw = self._logprobs(self.engine, batch)
        self.engine.train()
        return _mean_gap(_gap(batch, raw), batch.mask.sum())

    @torch.no_grad()
    def score_before_updates(self, batches: Sequence[MicroBatch]) -> float:
        """Fill `old` and `reference` of the passes before the first of several updates; returns the gap. A collective."""
        total = tokens = torch.zeros((), dtype=torch.float64, device=batches[0].mask.device)
        for batch in batches:
            batch.old, raw = self._logprobs(self.engine, batch)
            batch.reference = self._reference_logprobs(batch)
            total, tokens = total + _gap(batch, raw), tokens + batch.mask.sum()
        return _mean_gap(total, tokens)

    def update(
        self,
        batches: Sequence[MicroBatch],
        rollouts: Sequence[Rollout],
        max_gap: float,
        before_step: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """One optimiser step over passes that hold these rollouts on all ranks. A collective.

        before_step: a last check, a collective, while the weights are those of the passes. With `mask_cut` rollouts that are cut
        enter the figures and not the loss. Returns the loss, grad_norm, and means over the update's tokens: gap to the servers,
        k3 (`kl`), entropy (estimated by -log p), share outside the ratio's bounds (`clipped`), share whose importance weight is
        capped. Raises FloatingPointError, before the weights are touched, if the loss is not finite or the gap is above
        `max_gap`.
        """
        settings, objective = self.settings, self.objective
        lengths = [len(rollout.tokens) for rollout in rollouts if not (settings.mask_cut and rollout.cut)]
        tokens = sum(len(rollout.tokens) for rollout in rollouts)
        divided_by = divisor(lengths, settings.loss_aggregation, settings.max_tokens)
        # On the device until the last pass: reading a value would make the host wait for the device at every pass.
        sums = torch.zeros(1 + len(_SUMS), dtype=torch.float64, device=batches[0].mask.device)
        for batch in batches:
            if batch.reference is None:
                batch.reference = self._reference_logprobs(batch)
            policy, raw = self._logprobs(self.engine, batch)
            old = policy.detach() if batch.old is None else batch.old
            losses = token_losses(policy, old, batch.advantage, batch.mask, objective, batch.rollout, batch.reference)
            learned = uncut(batch.mask, batch.cut) if settings.mask_cut else batch.mask
            loss = aggregate(losses, learned, settings.loss_aggregation, divided_by)
            # `aggregate` gives a share of the loss, and DeepSpeed divides by the ranks.
            self.engine.backward(loss * self.ctx.world_size)
            sums += self._sums(batch, policy.detach(), raw, old, loss.detach())
        figures = self._checked(process_group.sum_values(sums.tolist()), tokens, max_gap)
        before_step()
        self.engine.step()
        return {**figures, "grad_norm": float(self.engine.get_global_grad_norm() or 0.0)}

    def _sums(
        self, batch: MicroBatch, policy: torch.Tensor, raw: torch.Tensor, old: torch.Tensor, loss: torch.Tensor
    ) -> torch.Tensor:
        """The loss, and each of _SUMS summed over the pass's tokens."""
        ratio = ratios(policy, old, batch.mask, self.objective.ratio)
        outside = ratio > 1 + self.objective.high
        if self.objective.loss == "ppo":
            outside |= ratio < 1 - self.objective.low
        capped = (old - batch.rollout).exp() > (self.objective.importance_cap or math.inf)
        kl = torch.zeros_like(batch.mask) if batch.reference is None else k3(old, batch.reference)
        sums = [(values * batch.mask).sum() for values in (kl, -old, outside, capped)]
        return torch.stack([loss, _gap(batch, raw), *sums])

    def _checked(self, sums: Sequence[float], tokens: int, max_gap: float) -> dict[str, float]:
        figures = {"loss": sums[0], **{name: value / tokens for name, value in zip(_SUMS, sums[1:], strict=True)}}
        check_gap(figures["gap"], max_gap)
        if not math.isfinite(figures["loss"]):
            raise FloatingPointError(f"the loss is {figures['loss']}; lower the learning rate or the gradient clipping")
        return figures

    def write_weights(self, folder: Path, root: Path) -> None:
        """Write the weights, an adapter merged, to `folder` as a model directory that a server of the base can switch to.

        A collective; rank 0 writes. root: a folder of the stage above it; raises UserError if it is not.
        """
        network = self.engine.module
        adapted = lora.has_adapter(network)
        state = lora.merged(network) if adapted else engine.weights(self.engine)
        if state is None:
            return
        remove(folder, root)
        network = network.get_base_model() if adapted else network
        network.save_pretrained(folder, state_dict=state, max_shard_size="5GB")
        for path in self.base.iterdir():
            # Small files are copied unchanged: a server restarts for a model whose configuration reads differently.
            if path.is_file() and ".safetensors" not in path.name:
                shutil.copyfile(path, folder / path.name)


def check_gap(gap: float, max_gap: float) -> None:
    """Raises FloatingPointError if policy and servers differ by more than `max_gap` nats a token, or by NaN."""
    if not gap <= max_gap:
        raise FloatingPointError(
            f"log-probabilities of policy and server differ by {gap:.4f} nats a token, max_gap is {max_gap}; the servers do"
            " not hold the policy's weights, or their precision is too low (see 'Check of the servers' in docs/grpo.md)"
        )


def _gap(batch: MicroBatch, raw: torch.Tensor) -> torch.Tensor:
    """|log p(policy) - log p(server)|, summed over the pass's tokens."""
    return ((raw - batch.rollout).abs() * batch.mask).sum()


def _mean_gap(total: torch.Tensor, tokens: torch.Tensor) -> float:
    gap, count = process_group.sum_values(torch.stack([total, tokens]).tolist())
    return gap / count
