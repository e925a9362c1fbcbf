"""The policy over all ranks: log-probabilities of rollouts, updates by the objective, weights for the servers."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diagcot.data.samples import Sample
from diagcot.jobs.context import Context
from diagcot.serving.engine import mark
from diagcot.training import engine as ranks
from diagcot.training import freeze, language, model
from diagcot.training.batch import IGNORED, Collator, Encoded
from diagcot.training.grpo_settings import GrpoSettings
from diagcot.training.objective import Clip, k3, logprobs, token_losses, token_mean
from diagcot.training.rollout import Rollout

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
    old: torch.Tensor | None = None
    reference: torch.Tensor | None = None


class Policy:
    """The trained model, and the frozen one it started from where kl > 0."""

    def __init__(self, base: Path, settings: GrpoSettings, ctx: Context, steps: int) -> None:
        self.base, self.settings, self.ctx = base, settings, ctx
        self.where = ranks.device(ctx)
        zero3 = ranks.zero3(settings.deepspeed, ctx)
        network = model.load(base, settings.deepspeed.precision, zero3)
        freeze.freeze(network, settings)
        self.counts = freeze.describe(network)
        self.processor = model.processor_of(base)
        self.banned = vision_tokens(self.processor.tokenizer)
        longest = settings.server.max_model_len
        self.collator = Collator(self.processor, ctx.shards_root, longest, settings.image_cache_mb)
        self.engine = ranks.initialize(network, settings.deepspeed, ctx, steps * settings.updates)
        self.reference = None
        if settings.kl > 0:
            self.reference = model.load(base, settings.deepspeed.precision).requires_grad_(False).eval().to(self.where)

    def prompt(self, sample: Sample) -> tuple[int, ...]:
        """Token ids of a sample's prompt, image tokens included."""
        encoded = self.collator.encode(sample)
        return tuple(encoded.ids[: int((encoded.labels != IGNORED).int().argmax())].tolist())

    def same_prompt(self, sample: Sample, rollout: Rollout) -> None:
        """Raises ValueError unless the server saw the prompt that training sees."""
        ours = self.prompt(sample)
        if rollout.prompt_length != len(ours) or (
            rollout.prompt_tokens and _folded(rollout.prompt_tokens, self.banned) != _folded(ours, self.banned)
        ):
            raise ValueError(
                f"the server sees the prompt of {sample.id} as {rollout.prompt_length} tokens, training as {len(ours)},"
                " or as other ones; chat template and pixel budget must be those of the model directory on both sides"
            )

    def micros(
        self, samples: Sequence[Sample], rollouts: Sequence[Rollout], advantages: Sequence[float]
    ) -> list[list[Micro]]:
        """This rank's forward passes, a list for each update of the step."""
        size, world, rank = self.settings.deepspeed.micro_batch, self.ctx.world_size, self.ctx.rank
        whole = self.settings.deepspeed.global_batch
        return [
            [
                self._micro(samples, rollouts[at + rank * size :][:size], advantages[at + rank * size :][:size])
                for at in range(first, first + whole, size * world)
            ]
            for first in range(0, len(rollouts), whole)
        ]

    def _micro(self, samples: Sequence[Sample], rollouts: Sequence[Rollout], advantages: Sequence[float]) -> Micro:
        encoded, mine = [], [samples[one.prompt] for one in rollouts]
        for sample, one in zip(mine, rollouts, strict=True):
            prompt = self.prompt(sample)
            ids = torch.tensor(prompt + one.tokens)
            labels = ids.clone()
            labels[: len(prompt)] = IGNORED
            encoded.append(Encoded(ids, labels))
        batch = {name: value.to(self.where) for name, value in self.collator.pad(encoded, mine).items()}
        inputs = language.inputs_of(batch)
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
    def look(self, micros: Sequence[Micro]) -> dict[str, float]:
        """Fill `old` and `reference` of the passes; returns the mean gap to the servers and the k3 term. A collective.

        gap: mean |log p(policy) - log p(engine)| over rollout tokens, both of the model's own distribution.
        """
        self.engine.eval()
        sums = [0.0, 0.0, 0.0, 0.0]
        for micro in micros:
            micro.old, raw = self._logprobs(self.engine, micro)
            if self.reference is not None:
                micro.reference, _ = self._logprobs(self.reference, micro)
                sums[2] += float((k3(micro.old, micro.reference) * micro.mask).sum())
            sums[0] += float(((raw - micro.engine).abs() * micro.mask).sum())
            sums[1] += float(micro.mask.sum())
            sums[3] -= float((micro.old * micro.mask).sum())
        self.engine.train()
        gap, tokens, kl, surprise = ranks.agree(sums)
        return {"gap": gap / tokens, "kl": kl / tokens, "entropy": surprise / tokens}

    def update(self, micros: Sequence[Micro], tokens: int) -> dict[str, float]:
        """One optimiser step over passes that hold `tokens` rollout tokens on all ranks. A collective."""
        settings = self.settings
        clip = Clip(settings.clip.low, settings.clip.high, settings.clip.dual)
        passes = self.ctx.world_size * len(micros)  # DeepSpeed divides by both; every token weighs the same
        total = clipped = 0.0
        for micro in micros:
            assert micro.old is not None
            logp, _ = self._logprobs(self.engine, micro)
            values = token_losses(logp, micro.old, micro.advantage, clip, micro.reference, settings.kl)
            loss = token_mean(values, micro.mask, tokens)
            self.engine.backward(loss * passes)
            self.engine.step()
            ratio = (logp.detach() - micro.old).exp()
            outside = (ratio > 1 + clip.high) | (ratio < 1 - clip.low)
            total += float(loss.detach())
            clipped += float((outside * micro.mask).sum())
        total, clipped = ranks.agree([total, clipped])
        return {
            "loss": total,
            "clipped": clipped / tokens,
            "grad_norm": float(self.engine.get_global_grad_norm() or 0.0),
        }

    def publish(self, folder: Path) -> None:
        """Write the weights to `folder` as a model directory that a server of the base model can change over to.

        A collective; rank 0 writes.
        """
        state = ranks.weights(self.engine)
        if state is None:
            return
        shutil.rmtree(folder, ignore_errors=True)
        self.engine.module.save_pretrained(folder, state_dict=state, max_shard_size="5GB")
        for path in self.base.iterdir():
            # Its small files as they are: a server restarts for a model whose configuration reads differently.
            if path.is_file() and ".safetensors" not in path.name:
                shutil.copyfile(path, folder / path.name)


def _folded(ids: Sequence[int], image: Sequence[int]) -> list[int]:
    """Ids with each run of a vision token as one: a server may report an image by its placeholder alone."""
    return [one for at, one in enumerate(ids) if not (at and one == ids[at - 1] and one in image)]


class Drop:
    """Where weights are left for the servers: memory (/dev/shm) where all is on one machine and it is roomy, else the
    workspace. Two folders in turn, so that a server never restarts from a folder that is being written."""

    def __init__(self, ctx: Context, needed: int) -> None:
        memory = Path("/dev/shm")
        roomy = ctx.nodes == 1 and memory.is_dir() and shutil.disk_usage(memory).free > 3 * needed
        root = memory if roomy else ctx.workspace
        for left in root.glob("diagcot-weights-*"):
            process = left.name.removeprefix("diagcot-weights-").replace("-", ":")
            if mark(int(process.split(":")[0])) != process and os.access(left, os.W_OK):
                shutil.rmtree(left, ignore_errors=True)
        self.root = root / f"diagcot-weights-{mark(os.getpid()).replace(':', '-')}"
        if ctx.rank == 0:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def folder(self, step: int) -> Path:
        return self.root / "ab"[step % 2]

    def clear(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
