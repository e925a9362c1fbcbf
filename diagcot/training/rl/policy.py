"""The policy over all ranks: log-probabilities of rollouts, updates by the objective, weights for the servers."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diagcot.jobs import Context
from diagcot.tasks.samples import Sample
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.data.collator import IGNORED, Collator, EncodedSample
from diagcot.training.distributed import engine, process_group
from diagcot.training.losses import language
from diagcot.training.models import freeze, model
from diagcot.training.rl.objective import Objective, k3, logprobs, ratios, reduced, token_losses, whole
from diagcot.training.rl.rollout import Rollout

_VISION = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


def vision_tokens(tokenizer: Any) -> list[int]:
    """Ids that a rollout must not hold: the model would look for an image behind them."""
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary[name] for name in _VISION if name in vocabulary)


@dataclass
class Micro:
    """One forward pass: B rollouts, T the columns from the first response token on."""

    inputs: dict[str, Any]
    tokens: torch.Tensor  # (B, T)
    mask: torch.Tensor  # (B, T), 1 for tokens of the rollout
    advantage: torch.Tensor  # (B,)
    engine: torch.Tensor  # (B, T), the server's log-probabilities
    old: torch.Tensor | None = None  # (B, T), before the first update of the step; None: the step has but one
    reference: torch.Tensor | None = None


class Policy:
    """The trained model, and the frozen one it started from where kl > 0."""

    def __init__(self, base: Path, settings: GrpoSettings, ctx: Context, steps: int) -> None:
        self.base, self.settings, self.ctx = base, settings, ctx
        self.where = process_group.device(ctx)
        clip = settings.ratio_clipping
        self.objective = Objective(
            clip.low, clip.high, clip.dual, settings.ratio, settings.importance_cap, kl_coef=settings.kl_coef
        )
        zero3 = engine.zero3_config(settings.deepspeed, ctx)
        network = model.load(base, settings.deepspeed.precision, zero3)
        freeze.freeze(network, settings)
        self.counts = freeze.describe(network)
        self.processor = model.load_processor(base)
        self.banned = vision_tokens(self.processor.tokenizer)
        longest = settings.server.max_model_len
        self.collator = Collator(self.processor, ctx.shards_root, longest, settings.image_cache_mb)
        self.engine = engine.initialize(network, settings.deepspeed, ctx, steps * settings.updates)
        self.reference = None
        if settings.kl_coef > 0:
            self.reference = model.load(base, settings.deepspeed.precision).requires_grad_(False).eval().to(self.where)

    def films(self, sample: Sample) -> tuple[bytes, ...]:
        """The sample's films as a server takes them."""
        return tuple(map(self.collator.images.source.jpeg, sample.images))

    def prompt(self, sample: Sample) -> tuple[int, ...]:
        """Token ids of a sample's prompt, image tokens included."""
        encoded = self.collator.encode(sample)
        return tuple(encoded.ids[: int((encoded.labels != IGNORED).int().argmax())].tolist())

    def check(self, samples: Sequence[Sample], rollouts: Sequence[Rollout]) -> None:
        """Raises ValueError unless the servers saw the prompts that training sees, and kept from banned tokens."""
        group = len(rollouts) // len(samples)
        for sample, rollout in zip(samples, rollouts[::group], strict=True):
            ours = self.prompt(sample)
            if rollout.prompt_length != len(ours) or (
                rollout.prompt_tokens and _folded(rollout.prompt_tokens, self.banned) != _folded(ours, self.banned)
            ):
                raise ValueError(
                    f"the server sees the prompt of {sample.id} as {rollout.prompt_length} tokens, training as"
                    f" {len(ours)}, or as other ones; chat template and pixel budget must be those of the model"
                    " directory on both sides"
                )
        banned = set(self.banned)
        if any(banned.intersection(one.tokens) for one in rollouts):
            raise ValueError("a rollout holds a vision token in spite of its logit bias; the server ignores logit_bias")

    def micros(
        self, samples: Sequence[Sample], rollouts: Sequence[Rollout], advantages: Sequence[float]
    ) -> list[list[Micro]]:
        """This rank's forward passes, a list for each update of the step."""
        size, world, rank = self.settings.deepspeed.micro_batch, self.ctx.world_size, self.ctx.rank
        update = self.settings.deepspeed.global_batch
        return [
            [
                self._micro(samples, rollouts[at + rank * size :][:size], advantages[at + rank * size :][:size])
                for at in range(first, first + update, size * world)
            ]
            for first in range(0, len(rollouts), update)
        ]

    def _micro(self, samples: Sequence[Sample], rollouts: Sequence[Rollout], advantages: Sequence[float]) -> Micro:
        encoded, mine = [], [samples[one.prompt] for one in rollouts]
        for sample, one in zip(mine, rollouts, strict=True):
            prompt = self.prompt(sample)
            ids = torch.tensor(prompt + one.tokens)
            labels = ids.clone()
            labels[: len(prompt)] = IGNORED
            encoded.append(EncodedSample(ids, labels))
        batch = {name: value.to(self.where) for name, value in self.collator.pad(encoded, mine).items()}
        inputs = language.model_inputs(batch)
        targets = batch["labels"][:, 1:][:, -(inputs["logits_to_keep"] - 1) :]
        mask = targets != IGNORED
        engine = torch.zeros(mask.shape, device=self.where)
        engine[mask] = torch.tensor([value for one in rollouts for value in one.logprobs], device=self.where)
        return Micro(inputs, targets.clamp(min=0), mask.float(), torch.tensor(advantages, device=self.where), engine)

    def _logprobs(self, network: Any, micro: Micro) -> tuple[torch.Tensor, torch.Tensor]:
        logits = network(**micro.inputs).logits[:, :-1]
        sampled, raw = logprobs(logits, micro.tokens, self.settings.temperature, self.banned)
        # Padding may name a banned id; its -inf must not reach a product with the mask.
        return torch.where(micro.mask > 0, sampled, 0.0), torch.where(micro.mask > 0, raw, 0.0)

    @torch.no_grad()
    def gap(self, samples: Sequence[Sample], rollouts: Sequence[Rollout]) -> float:
        """Mean |log p(policy) - log p(engine)| over the tokens of one rollout for each rank, nats. A collective."""
        self.engine.eval()
        micro = self._micro(samples, [rollouts[self.ctx.rank]], [0.0])
        _, raw = self._logprobs(self.engine, micro)
        self.engine.train()
        gap, tokens = process_group.sum_values(
            [float(((raw - micro.engine).abs() * micro.mask).sum()), float(micro.mask.sum())]
        )
        return gap / tokens

    @torch.no_grad()
    def look(self, micros: Sequence[Micro]) -> float:
        """Fill `old` and `reference` of the passes before the first of several updates; returns the gap.

        A collective.
        """
        sums = [0.0, 0.0]
        for micro in micros:
            micro.old, raw = self._logprobs(self.engine, micro)
            if self.reference is not None:
                micro.reference, _ = self._logprobs(self.reference, micro)
            sums[0] += float(((raw - micro.engine).abs() * micro.mask).sum())
            sums[1] += float(micro.mask.sum())
        gap, tokens = process_group.sum_values(sums)
        return gap / tokens

    def update(self, micros: Sequence[Micro], lengths: Sequence[int], max_gap: float) -> dict[str, float]:
        """One optimiser step over passes that hold rollouts of these lengths on all ranks. A collective.

        Returns means over the update's tokens: gap to the servers, k3, entropy (estimated by -log p), share outside the
        clip, share whose importance weight is capped. Raises FloatingPointError, before the weights are touched, if the
        loss is not finite or the gap above `max_gap`.
        """
        settings, objective = self.settings, self.objective
        passes = self.ctx.world_size * len(micros)  # DeepSpeed divides by both; `reduced` is a share of the whole
        divisor = whole(lengths, settings.loss_aggregation, settings.max_tokens)
        sums = torch.zeros(6, dtype=torch.float64)
        figures: dict[str, float] = {}
        for at, micro in enumerate(micros):
            logp, raw = self._logprobs(self.engine, micro)
            old = logp.detach() if micro.old is None else micro.old
            if self.reference is not None and micro.reference is None:
                with torch.no_grad():
                    micro.reference, _ = self._logprobs(self.reference, micro)
            values = token_losses(logp, old, micro.advantage, micro.mask, objective, micro.engine, micro.reference)
            loss = reduced(values, micro.mask, settings.loss_aggregation, divisor)
            self.engine.backward(loss * passes)
            sums += self._sums(micro, logp.detach(), raw, old, float(loss.detach()))
            if at == len(micros) - 1:
                figures = self._checked(process_group.sum_values(sums.tolist()), sum(lengths), max_gap)
            self.engine.step()
        return {**figures, "grad_norm": float(self.engine.get_global_grad_norm() or 0.0)}

    def _sums(
        self, micro: Micro, logp: torch.Tensor, raw: torch.Tensor, old: torch.Tensor, loss: float
    ) -> torch.Tensor:
        """Loss, gap, k3, -log p, clipped and capped, summed over the pass's tokens."""
        ratio = ratios(logp, old, micro.mask, self.objective.ratio)
        outside = (ratio > 1 + self.objective.high) | (ratio < 1 - self.objective.low)
        capped = (old - micro.engine).exp() > (self.objective.importance_cap or math.inf)
        none = torch.zeros_like(micro.mask)
        parts = (
            (raw - micro.engine).abs(),
            none if micro.reference is None else k3(old, micro.reference),
            -old,
            outside,
            capped,
        )
        return torch.tensor([loss, *(float((part * micro.mask).sum()) for part in parts)], dtype=torch.float64)

    def _checked(self, sums: Sequence[float], tokens: int, max_gap: float) -> dict[str, float]:
        names = ("gap", "kl", "entropy", "clipped", "capped")
        figures = {"loss": sums[0], **{name: value / tokens for name, value in zip(names, sums[1:], strict=True)}}
        if not figures["gap"] <= max_gap:
            raise stale(figures["gap"], max_gap)
        if not math.isfinite(figures["loss"]):
            raise FloatingPointError(f"the loss is {figures['loss']}; lower the learning rate or clip harder")
        return figures

    def publish(self, folder: Path) -> None:
        """Write the weights to `folder` as a model directory that a server of the base model can change over to.

        A collective; rank 0 writes.
        """
        state = engine.weights(self.engine)
        if state is None:
            return
        shutil.rmtree(folder, ignore_errors=True)
        self.engine.module.save_pretrained(folder, state_dict=state, max_shard_size="5GB")
        for path in self.base.iterdir():
            # Its small files as they are: a server restarts for a model whose configuration reads differently.
            if path.is_file() and ".safetensors" not in path.name:
                shutil.copyfile(path, folder / path.name)


def stale(gap: float, max_gap: float) -> FloatingPointError:
    """What to raise where servers and policy differ by more than they may."""
    return FloatingPointError(
        f"log-probabilities of policy and server differ by {gap:.4f} nats a token, max_gap is {max_gap}; the servers do"
        " not hold the policy's weights, or compute too coarsely"
    )


def _folded(ids: Sequence[int], image: Sequence[int]) -> list[int]:
    """Ids with each run of a vision token as one: a server may report an image by its placeholder alone."""
    return [one for at, one in enumerate(ids) if not (at and one == ids[at - 1] and one in image)]
