"""Which prompts a step rolls out, and which are held out for validation: functions of settings, seed and step alone."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from diagcot.data import seeded
from diagcot.jobs import Context
from diagcot.rewards.score import Reference
from diagcot.tasks import augmentation
from diagcot.tasks.samples import Sample
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.data import dataset
from diagcot.training.data.images import ShardImages


@dataclass(frozen=True)
class Curriculum:
    """Prompts to train on, those mixed among them (role `mix`), and validation's. No patient is in both parts."""

    settings: GrpoSettings
    seed: int
    steps: int
    prompts: list[Sample]
    mixed: list[Sample]
    validation: list[Sample]

    def of(self, step: int, again: int = 0) -> list[Sample]:
        """The prompts of a step (0-based), main ones first; `again` > 0: further ones in place of some of them."""
        others = self._mixed_before(step + 1) - self._mixed_before(step)
        main = self.settings.prompts_per_step - others
        first = step * self.settings.prompts_per_step - self._mixed_before(step)
        seed = f"{self.seed}/{again}" if again else str(self.seed)
        found = [self.prompts[at] for at in choose(len(self.prompts), first, main, seed)]
        return found + [
            self.mixed[at] for at in choose(len(self.mixed), self._mixed_before(step), others, f"{seed}/mix")
        ]

    def _mixed_before(self, step: int) -> int:
        """Prompts of role `mix` in the steps before `step`: the sum of the shares, rounded down."""
        if self.settings.mix is None:
            return 0
        share, count = self.settings.mix.share, self.settings.prompts_per_step
        return int(sum(share(one / self.steps) for one in range(step)) * count + 1e-9)

    def corpus(self) -> dict[str, list[Reference]]:
        """References by reward key, of every prompt that may be scored."""
        found: dict[str, list[Reference]] = {}
        for sample in (*self.prompts, *self.mixed, *self.validation):
            found.setdefault(self.settings.reward_of(sample.task), []).append(Reference(sample.answer))
        return found


def choose(count: int, first: int, wanted: int, seed: str) -> list[int]:
    """Indices at positions `first` to `first + wanted` of shuffled epochs of `count` prompts laid end to end."""
    places = [divmod(position, count) for position in range(first, first + wanted)]
    return [_epoch(count, seed, epoch)[place] for epoch, place in places]


@lru_cache(maxsize=8)
def _epoch(count: int, seed: str, epoch: int) -> list[int]:
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def gather(ctx: Context, settings: GrpoSettings) -> Curriculum:
    """Read the prompts of roles `samples`, `shards` and `mix`.

    Raises ValueError if there are none to train on, mix or validate, or one is of the test split.
    """
    training = _of_role(ctx, "samples")
    other: list[Sample] = []
    rule = settings.validation
    if ctx.inputs.get("shards"):
        training += dataset.from_shards(ctx, settings.task, settings.split, settings.views)
        if rule.prompts and rule.split != "held_out":
            other += dataset.from_shards(ctx, settings.task, rule.split, settings.views)
    mixed = _of_role(ctx, "mix") if settings.mix else []
    validation: list[Sample] = []
    if rule.prompts:
        if rule.split == "held_out":
            out = _held_out(training, rule.share, ctx.seed)
            validation = [sample for sample in training if patient(sample) in out]
        else:
            validation = other + [sample for sample in training if sample.meta.get("split") == rule.split]
            out = {patient(sample) for sample in validation}
        training = [sample for sample in training if patient(sample) not in out]
        mixed = [sample for sample in mixed if patient(sample) not in out]
        validation = sorted(validation, key=lambda sample: _rank(ctx.seed, sample.id))[: rule.prompts]
    if settings.augment:
        size = ShardImages(ctx.shards_root).size
        training += [
            copy for one in training for copy in augmentation.augmented_copies(one, settings.augment, ctx.seed, size)
        ]
    for wanted, found, what in (
        (True, training, f"prompts of task {settings.task}, split {settings.split}, in its inputs"),
        (settings.mix, mixed, "prompts of role mix"),
        (rule.prompts, validation, f"prompts to validate on (validation.split {rule.split})"),
    ):
        if wanted and not found:
            raise ValueError(f"stage {ctx.stage} has no {what}")
    per_epoch = max(1, len(training) // settings.prompts_per_step)
    steps = settings.deepspeed.steps or max(1, math.ceil((settings.deepspeed.epochs or 0) * per_epoch))
    return Curriculum(settings, ctx.seed, steps, training, mixed, validation)


def patient(sample: Sample) -> str:
    """Whose study it is; the study itself where the sample does not say."""
    return str(sample.meta.get("patient", sample.study))


def _of_role(ctx: Context, role: str) -> list[Sample]:
    return dataset.from_files(ctx, role) if ctx.inputs.get(role) else []


def _held_out(samples: Sequence[Sample], share: float, seed: int) -> set[str]:
    """The first `share` of the patients, one at least, in the order of their hash."""
    everyone = sorted({patient(sample) for sample in samples}, key=lambda name: _rank(seed, name))
    return set(everyone[: max(1, round(share * len(everyone)))])


def _rank(seed: int, text: str) -> int:
    return seeded.rank(seed, text, separator="/", algorithm="sha256")
