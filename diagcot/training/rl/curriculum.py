"""The prompts of each step and those held out for validation: functions of settings, seed and step alone."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from diagcot.data.errors import DataError
from diagcot.jobs import Context, UserError
from diagcot.rewards.score import Reference
from diagcot.tasks import augmentation
from diagcot.tasks.samples import Sample
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.data import dataset
from diagcot.training.data.collator import Collator
from diagcot.training.data.images import ShardImages


@dataclass(frozen=True)
class Curriculum:
    """Prompts to train on, those mixed in (role `mix`), and validation's. No patient is in both parts."""

    settings: GrpoSettings
    seed: int
    steps: int
    prompts: list[Sample]
    mixed: list[Sample]
    validation: list[Sample]

    def step_prompts(self, step: int, resample_round: int = 0) -> list[Sample]:
        """The prompts of a step (0-based), main ones first. resample_round > 0: replacements for some of them."""
        mixed_before = self._mixed_before(step)
        mixed_count = self._mixed_before(step + 1) - mixed_before
        main_count = self.settings.prompts_per_step - mixed_count
        first = step * self.settings.prompts_per_step - mixed_before
        seed = f"{self.seed}/{resample_round}" if resample_round else str(self.seed)
        main = choose(len(self.prompts), first, main_count, seed)
        mixed = choose(len(self.mixed), mixed_before, mixed_count, f"{seed}/mix")
        return [self.prompts[index] for index in main] + [self.mixed[index] for index in mixed]

    def _mixed_before(self, step: int) -> int:
        """Prompts of role `mix` in the steps before `step`: the sum of the shares, rounded down."""
        if self.settings.mix is None:
            return 0
        share, count = self.settings.mix.share, self.settings.prompts_per_step
        return int(sum(share(earlier / self.steps) for earlier in range(step)) * count + 1e-9)

    def corpus(self) -> dict[str, list[Reference]]:
        """References by reward key, of every prompt that may be scored."""
        references: dict[str, list[Reference]] = {}
        for sample in (*self.prompts, *self.mixed, *self.validation):
            references.setdefault(self.settings.reward_of(sample.task), []).append(Reference(sample.answer))
        return references


def choose(count: int, first: int, wanted: int, seed: str) -> list[int]:
    """Indices at positions `first` to `first + wanted` of shuffled epochs of `count` prompts, one after the other."""
    positions = [divmod(position, count) for position in range(first, first + wanted)]
    return [_epoch(count, seed, epoch)[place] for epoch, place in positions]


@lru_cache(maxsize=8)
def _epoch(count: int, seed: str, epoch: int) -> list[int]:
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def load(ctx: Context, settings: GrpoSettings) -> Curriculum:
    """Read the prompts of roles `samples`, `shards` and `mix`.

    Raises ValueError if there are none to train on, to mix in or to validate on, or if one is of the test split.
    """
    training = _from_role(ctx, "samples")
    other_split: list[Sample] = []
    rule = settings.validation
    if ctx.inputs.get("shards"):
        training += dataset.from_shards(ctx, settings.task, settings.split, settings.views)
        if rule.prompts and rule.split != "held_out":
            other_split = dataset.from_shards(ctx, settings.task, rule.split, settings.views)
    mixed = _from_role(ctx, "mix") if settings.mix else []
    validation: list[Sample] = []
    if rule.prompts:
        validation = _validation(training, other_split, settings, ctx.seed)
        patients = {patient(sample) for sample in validation}
        training = [sample for sample in training if patient(sample) not in patients]
        mixed = [sample for sample in mixed if patient(sample) not in patients]
        validation.sort(key=lambda sample: dataset.seeded_rank(ctx.seed, sample.id))
        validation = validation[: rule.prompts]
    if settings.augment:
        size, layout = ShardImages(ctx.shards_root).size, settings.prompts.about.answers
        training += [
            copy
            for sample in training
            for copy in augmentation.augmented_copies(sample, settings.augment, ctx.seed, size, layout)
        ]
    if settings.format_instruction:
        training, mixed, validation = (
            [settings.prompts.instructed(sample) for sample in part] for part in (training, mixed, validation)
        )
    for needed, samples, name in (
        (True, training, f"prompts of task {settings.task}, split {settings.split}, in its inputs"),
        (settings.mix, mixed, "prompts of role mix"),
        (rule.prompts, validation, f"prompts to validate on (validation.split {rule.split})"),
    ):
        if needed and not samples:
            raise DataError(f"stage {ctx.stage} has no {name}")
    return _with_steps(Curriculum(settings, ctx.seed, 0, training, mixed, validation))


def _with_steps(curriculum: Curriculum) -> Curriculum:
    settings = curriculum.settings
    per_epoch = max(1, len(curriculum.prompts) // settings.prompts_per_step)
    steps = settings.deepspeed.steps or max(1, math.ceil((settings.deepspeed.epochs or 0) * per_epoch))
    return replace(curriculum, steps=steps)


def within_limits(curriculum: Curriculum, ctx: Context, collator: Collator) -> Curriculum:
    """Without the prompts that the servers cannot take, which the event `prompts_left_out` counts. A collective.

    collator: one that cuts nothing. Raises UserError if there are such prompts and the settings refuse them, or if no others
    are left.
    """
    settings, few, long = curriculum.settings, 0, 0
    room = settings.server.max_model_len - settings.max_tokens
    parts: list[list[Sample]] = []
    read = (curriculum.prompts, curriculum.mixed, curriculum.validation)
    for part in read:
        shown = [sample for sample in part if len(sample.images) <= settings.server.images]
        lengths = dataset.measure(ctx, shown, collator)
        prompts = [total - learned for total, learned in zip(lengths.tokens, lengths.learned, strict=True)]
        parts.append([sample for sample, tokens in zip(shown, prompts, strict=True) if tokens <= room])
        few, long = few + len(part) - len(shown), long + len(shown) - len(parts[-1])
    if not few + long:
        return curriculum
    reasons = (
        f"{long} prompts have more than the {room} tokens that server.max_model_len {settings.server.max_model_len} leaves beside"
        f" max_tokens {settings.max_tokens}, and {few} have more than {settings.server.images} images (server.images)"
    )
    if settings.long_prompts == "refuse" or any(part and not kept for part, kept in zip(read, parts, strict=True)):
        raise UserError(
            f"stage {ctx.stage}: {reasons}. Raise these settings or lower the pixel budget of the model;"
            " `long_prompts: leave_out` trains without them, if others are left"
        )
    ctx.event("prompts_left_out", long=long, images=few, of=sum(map(len, parts)) + long + few)
    return _with_steps(replace(curriculum, prompts=parts[0], mixed=parts[1], validation=parts[2]))


def patient(sample: Sample) -> str:
    """The patient of a sample; its study where the sample does not name one."""
    return str(sample.meta.get("patient", sample.study))


def _from_role(ctx: Context, role: str) -> list[Sample]:
    return dataset.from_files(ctx, role) if ctx.inputs.get(role) else []


def _validation(
    training: Sequence[Sample], other_split: Sequence[Sample], settings: GrpoSettings, seed: int
) -> list[Sample]:
    """All samples that may be validated on: those of held-out patients, or those of another split."""
    rule = settings.validation
    if rule.split == "held_out":
        patients = _held_out_patients(training, rule.share, seed)
        return [sample for sample in training if patient(sample) in patients]
    return [*other_split, *(sample for sample in training if sample.meta.get("split") == rule.split)]


def _held_out_patients(samples: Sequence[Sample], share: float, seed: int) -> set[str]:
    """The first `share` of the patients, at least one, in the order of their hash."""
    patients = sorted({patient(sample) for sample in samples}, key=lambda name: dataset.seeded_rank(seed, name))
    return set(patients[: max(1, round(share * len(patients)))])
