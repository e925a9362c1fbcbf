"""Rollouts as forward passes: prompts as training sees them, checked against the servers', and padded or packed batches.

A packed pass holds a prompt once and the answers to it behind it, where the attention can do that (`attention.by_sequence`): of
8 answers to a prompt of 800 tokens it computes 800 in place of 6,400.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from diagcot.jobs import Context
from diagcot.tasks.samples import Sample
from diagcot.training.config.settings import DeepSpeedSettings
from diagcot.training.data.collator import IGNORED, Collator, EncodedSample
from diagcot.training.data.order import balanced
from diagcot.training.distributed import process_group
from diagcot.training.families import Family
from diagcot.training.losses import language
from diagcot.training.models.frozen_tower import FrozenTower
from diagcot.training.rl.rollout import Rollout

_SIZES = ("input_ids", "image_patches", "image_tokens", "logits_to_keep", "sequence_lengths")


def vision_tokens(tokenizer: Any, family: Family) -> list[int]:
    """Ids that a rollout must not contain: the model would expect an image after them."""
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary[name] for name in family.image_words if name in vocabulary)


@dataclass
class MicroBatch:
    """One forward pass: B rollouts, T columns from the first response token on. Log-probabilities are (B, T), nats.

    tokens (B, T); of packed rollouts (1, N), those of the first rollout, then of the second, …, as their mask has T columns
    from each one's own first token on. mask (B, T): 1 for tokens of the rollout. advantage (B,). cut (B,): whether it ended
    at max_tokens. rollout: the server's log-probabilities.
    old: those before the first update of the step; None where the step has only one. reference: the frozen model's.
    sizes: the inputs that say how much work the pass is, in host memory, so that counting waits for no device.
    """

    inputs: dict[str, Any]
    tokens: torch.Tensor
    mask: torch.Tensor
    advantage: torch.Tensor
    cut: torch.Tensor
    rollout: torch.Tensor
    old: torch.Tensor | None = None
    reference: torch.Tensor | None = None
    sizes: Mapping[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device) -> "MicroBatch":
        """The pass on `device`; `sizes` stays where it is."""
        moved = {name: _moved(value, device) for name, value in vars(self).items() if name not in ("inputs", "sizes")}
        return replace(self, **moved, inputs=language.on_device(self.inputs, device))


class MicroBatcher:
    """Makes this rank's forward passes of rollouts. `banned`: ids of tokens that no rollout may contain.

    tower: what the policy is cut behind, if its vision tower is frozen. shares_prompts: whether packed answers to one prompt lie
    behind it.
    """

    def __init__(
        self,
        collator: Collator,
        settings: DeepSpeedSettings,
        ctx: Context,
        tower: FrozenTower | None = None,
        shares_prompts: bool = False,
    ) -> None:
        self.collator, self._settings, self._ctx, self._tower = collator, settings, ctx, tower
        self._shares_prompts = shares_prompts
        self._device = process_group.device(ctx)
        self.banned = vision_tokens(collator.tokenizer, collator.family)

    def images(self, sample: Sample) -> tuple[bytes, ...]:
        """The sample's images as JPEG files, as a server takes them."""
        return tuple(map(self.collator.images.source.jpeg, sample.images))

    def prompt(self, sample: Sample) -> tuple[int, ...]:
        """Token ids of a sample's prompt, image tokens included."""
        encoded = self.collator.encode(sample)
        return tuple(encoded.ids[: int((encoded.labels != IGNORED).int().argmax())].tolist())

    def check(self, samples: Sequence[Sample], rollouts: Sequence[Rollout]) -> None:
        """Raises ValueError unless the servers saw the prompts that training sees, and drew no banned token."""
        group = len(rollouts) // len(samples)
        for sample, rollout in zip(samples, rollouts[::group], strict=True):
            prompt = self.prompt(sample)
            if rollout.prompt_length != len(prompt) or (
                rollout.prompt_tokens
                and _collapsed(rollout.prompt_tokens, self.banned) != _collapsed(prompt, self.banned)
            ):
                raise ValueError(
                    f"the server sees the prompt of {sample.id} as {rollout.prompt_length} tokens, training as"
                    f" {len(prompt)}, or as different ones; chat template and pixel budget must be those of the model"
                    " directory on both sides"
                )
        banned = set(self.banned)
        if any(banned.intersection(rollout.tokens) for rollout in rollouts):
            raise ValueError(
                "a rollout contains a vision token in spite of its logit bias; the server ignores logit_bias"
            )

    def updates(
        self, samples: Sequence[Sample], rollouts: Sequence[Rollout], advantages: Sequence[float]
    ) -> list[list[MicroBatch]]:
        """This rank's forward passes, one list for each update of the step. advantages: one for each rollout."""
        size, world, rank = self._settings.micro_batch, self._ctx.world_size, self._ctx.rank
        update, budget = self._settings.global_batch, self._settings.micro_batch_tokens
        made = []
        for first in range(0, len(rollouts), update):
            part = rollouts[first : first + update]
            if budget is None:
                passes = [list(range(at, at + size)) for at in range(rank * size, update, size * world)]
            else:
                units = fragments(part, world, budget) if self._shares_prompts else [[at] for at in range(update)]
                shares = balanced([_tokens([part[at] for at in unit]) for unit in units], world, budget)[rank]
                passes = [[at for unit in share for at in units[unit]] for share in shares]
            made.append(
                [
                    self.micro_batch(samples, [part[at] for at in own], [advantages[first + at] for at in own])
                    for own in passes
                ]
            )
        return made

    def micro_batch(
        self, samples: Sequence[Sample], rollouts: Sequence[Rollout], advantages: Sequence[float]
    ) -> MicroBatch:
        """One forward pass. samples: the prompts of the step, which the rollouts name by index."""
        prompts = [samples[rollout.prompt] for rollout in rollouts]
        make = self._behind_prompts if self._shares_prompts else self._by_themselves
        inputs, targets, sizes = make(prompts, rollouts)
        mask = targets != IGNORED
        if len(mask) < len(rollouts):  # packed: a row of their own for what is computed of each rollout
            lengths = torch.tensor([len(rollout.tokens) for rollout in rollouts])
            mask = torch.arange(int(lengths.max())) < lengths[:, None]
        drawn = torch.zeros(mask.shape)
        drawn[mask] = torch.tensor([value for rollout in rollouts for value in rollout.logprobs])
        made = MicroBatch(
            inputs,
            targets.clamp(min=0),
            mask.float(),
            torch.tensor(advantages),
            torch.tensor([rollout.cut for rollout in rollouts]),
            drawn,
            sizes={name: value for name, value in sizes.items() if name in _SIZES},
        )
        return made.to(self._device)

    def _by_themselves(self, prompts: Sequence[Sample], rollouts: Sequence[Rollout]) -> "_Pass":
        """Each rollout behind a prompt of its own, as padded rows or packed."""
        encoded = []
        for sample, rollout in zip(prompts, rollouts, strict=True):
            prompt = self.prompt(sample)
            ids = torch.tensor(prompt + rollout.tokens)
            labels = ids.clone()
            labels[: len(prompt)] = IGNORED
            encoded.append(EncodedSample(ids, labels))
        batch = self._joined(encoded, prompts)
        inputs = language.model_inputs(batch)
        return _Pass(inputs, language.targets(batch["labels"], inputs["logits_to_keep"]), {**batch, **inputs})

    def _behind_prompts(self, prompts: Sequence[Sample], rollouts: Sequence[Rollout]) -> "_Pass":
        """One row of prompts, neighbouring rollouts of one prompt behind it."""
        groups = [list(own) for _, own in itertools.groupby(rollouts, key=lambda rollout: rollout.prompt)]
        starts = itertools.accumulate((len(own) for own in groups[:-1]), initial=0)
        samples = [prompts[start] for start in starts]
        # Positions and images are those of the prompt with its longest answer; each answer has as many of them as tokens.
        longest = [max((rollout.tokens for rollout in own), key=len) for own in groups]
        encoded = [
            EncodedSample(ids := torch.tensor(self.prompt(sample) + tokens), torch.full_like(ids, IGNORED))
            for sample, tokens in zip(samples, longest, strict=True)
        ]
        batch = self._joined(encoded, samples)
        ids, places, before, shapes, start, row = [], [], [], [], 0, 0
        for sample, own, sequence in zip(samples, groups, encoded, strict=True):
            prompt, lengths = self.prompt(sample), tuple(len(rollout.tokens) for rollout in own)
            ids += [*prompt, *itertools.chain.from_iterable(rollout.tokens for rollout in own)]
            places += [*range(start, start + len(prompt))]
            start, behind, row = start + len(sequence.ids), start + len(prompt), row + len(prompt)
            last = row - 1
            for length in lengths:
                places += range(behind, behind + length)
                before += [last, *range(row, row + length - 1)]
                row += length
            shapes.append((len(prompt), lengths))
        picked = torch.tensor(places)
        inputs = {name: value for name, value in batch.items() if name in language.MODEL_INPUTS}
        for name in {"position_ids", "token_type_ids"} & inputs.keys():
            inputs[name] = inputs[name][..., picked]
        inputs |= {"input_ids": torch.tensor([ids]), "logits_to_keep": torch.tensor(before)}
        targets = torch.tensor([[token for rollout in rollouts for token in rollout.tokens]])
        rows = [length for prompt, (first, *others) in shapes for length in (prompt + first, *others)]
        sizes = {**batch, **inputs, "sequence_lengths": torch.tensor(rows)}
        return _Pass({**inputs, "prompt_groups": shapes}, targets, sizes)

    def _joined(self, encoded: Sequence[EncodedSample], samples: Sequence[Sample]) -> dict[str, Any]:
        batch = self.collator.join(encoded, samples)
        return self._tower.with_features(batch) if self._tower else batch


class _Pass(NamedTuple):
    """Inputs of the model, the tokens (B, T) or (1, N) that it predicts, IGNORED where there is none, and all sizes."""

    inputs: dict[str, Any]
    targets: torch.Tensor
    sizes: Mapping[str, Any]


def fragments(rollouts: Sequence[Rollout], ranks: int, budget: int) -> list[list[int]]:
    """Positions of rollouts that stay together: those of a prompt, in no more parts than they must have.

    A multiple of `ranks` in number, and of at most `budget` tokens each, but for single ones. rollouts: a multiple of `ranks`.
    """
    made = [list(own) for _, own in itertools.groupby(range(len(rollouts)), key=lambda at: rollouts[at].prompt)]
    while True:
        found = [_tokens([rollouts[at] for at in own]) if len(own) > 1 else 0 for own in made]
        largest = max(range(len(made)), key=found.__getitem__)
        if len(made) % ranks == 0 and found[largest] <= budget:
            return made
        own = made[largest]
        made[largest : largest + 1] = [own[: len(own) // 2], own[len(own) // 2 :]]


def _tokens(rollouts: Sequence[Rollout]) -> int:
    """Tokens of rollouts of one prompt behind it."""
    return rollouts[0].prompt_length + sum(len(rollout.tokens) for rollout in rollouts)


def _moved(value: Any, device: torch.device) -> Any:
    return process_group.moved(value, device) if isinstance(value, torch.Tensor) else value


def _collapsed(ids: Sequence[int], vision: Sequence[int]) -> list[int]:
    """Ids with each run of a vision token as one: a server may report an image by its placeholder alone."""
    return [token for at, token in enumerate(ids) if not (at and token == ids[at - 1] and token in vision)]
