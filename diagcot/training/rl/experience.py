"""What a step learns from: groups of scored rollouts, made by servers and reward workers while rank 0 may train."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from diagcot.rewards.gate import Gate
from diagcot.rewards.score import Reference, Score
from diagcot.serving import Reply
from diagcot.tasks.samples import Sample
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.rl.actors import Output
from diagcot.training.rl.curriculum import Curriculum
from diagcot.training.rl.objective import overlong
from diagcot.training.rl.rollout import Rollout, Sampling, group_of, requests_of
from diagcot.training.rl.rollout_pool import Crew, Played
from diagcot.training.rl.validation import components


@dataclass(frozen=True)
class Experience:
    """Prompts, their rollouts group by group, and the scores of the rewards alone."""

    samples: list[Sample]
    rollouts: list[Rollout]
    scores: list[Score]
    replaced: int = 0  # groups of equal rewards that others took the place of
    waited_s: float = 0.0  # for scores, when no server had anything left to do


class Player:
    """Rolls out and scores prompts. For rank 0; each call may run in a thread beside training."""

    def __init__(
        self,
        crew: Crew,
        settings: GrpoSettings,
        films: Callable[[Sample], tuple[bytes, ...]],
        banned: Sequence[int],
        seed: int,
    ) -> None:
        self._crew, self._settings, self._films, self._banned, self._seed = crew, settings, films, banned, seed
        self._sampling = Sampling(settings.group_size, settings.max_tokens, settings.temperature, settings.top_p)

    def step(self, number: int, curriculum: Curriculum) -> Experience | None:
        """The experience of step `number` (0-based); None if a stop was asked for.

        With `max_resample_rounds`, groups of equal rewards make room for further prompts, as often as that says (DAPO); what is
        flat after the last round stays in the batch, where it teaches nothing.
        """
        groups: dict[int, tuple[Sample, list[Rollout], list[Score]]] = {}  # by place in the step
        places, waited, replaced = list(range(self._settings.prompts_per_step)), 0.0, 0
        for again in range(self._settings.max_resample_rounds + 1):
            further = curriculum.of(number, again)
            samples = [further[place] for place in places]
            seed = f"{number}/{again}" if again else str(number)
            played = self._play(samples, self._sampling, seed, number / curriculum.steps)
            if played is None:
                return None
            waited += played.scored - played.rolled
            replaced += len(places) if again else 0
            for at, place in enumerate(places):
                rollouts = group_of(place, samples[at], played.replies[at], self._settings.group_size)
                groups[place] = samples[at], rollouts, played.scores[at]
            places = [place for place in places if len({score["overall"] for score in groups[place][2]}) == 1]
            if not places:
                break
        ordered = [groups[place] for place in range(self._settings.prompts_per_step)]
        return Experience(
            [sample for sample, _, _ in ordered],
            [one for _, rollouts, _ in ordered for one in rollouts],
            [score for _, _, scores in ordered for score in scores],
            replaced,
            waited,
        )

    def validate(self, samples: Sequence[Sample]) -> list[Score] | None:
        """Scores of one answer to each of `samples`, on the same seeds each time."""
        rule = self._settings.validation
        sampling = Sampling(1, self._settings.max_tokens, rule.temperature, rule.top_p)
        played = self._play(samples, sampling, "validation", 1.0)
        return None if played is None else [scores[0] for scores in played.scores]

    def probe(self, sample: Sample, count: int) -> list[Rollout] | None:
        """`count` short answers, unscored: enough to tell whether servers hold the policy's weights."""
        requests = requests_of([sample], self._films, Sampling(count, _PROBE, 1.0), f"{self._seed}/probe", self._banned)
        played = self._crew.play(requests, lambda at, reply: [], 0.0)
        return None if played is None else group_of(0, sample, played.replies[0], count)

    def _play(self, samples: Sequence[Sample], sampling: Sampling, seed: str, progress: float) -> Played | None:
        requests = requests_of(samples, self._films, sampling, f"{self._seed}/{seed}", self._banned)

        def outputs(at: int, reply: Reply) -> list[Output]:
            sample = samples[at]
            group_of(at, sample, reply, sampling.n)
            key = self._settings.reward_of(sample.task)
            return [Output(text, Reference(sample.answer), key) for text in reply.texts]

        return self._crew.play(requests, outputs, progress)


_PROBE = 8  # tokens


def rewarded(found: Experience, settings: GrpoSettings, gates: Mapping[str, Gate]) -> list[Score]:
    """The scores that GRPO maximises: those of a gated reward through its gate, less the penalty of length.

    gates: name of a reward -> its gate, which watches that reward's part of the batch and is moved on.
    """
    scores = [dict(score) for score in found.scores]
    table = settings.reward_table
    names = [table[settings.reward_of(found.samples[one.prompt].task)].name for one in found.rollouts]
    for gated, gate in gates.items():
        mine = [at for at, name in enumerate(names) if name == gated]
        for at, score in zip(mine, gate.apply([scores[at] for at in mine]), strict=True):
            scores[at] = dict(score)
    if settings.overlong:
        for score, one in zip(scores, found.rollouts, strict=True):
            score["overlong"] = overlong(len(one.tokens), settings.max_tokens, settings.overlong)
            score["overall"] += score["overlong"]
    return scores


def statistics(found: Experience, scores: Sequence[Score], settings: GrpoSettings) -> dict[str, float]:
    """Mean reward and components, of groups: mean spread, mean best, share of equal rewards; length, share cut."""
    rewards = torch.tensor([score["overall"] for score in scores]).view(-1, settings.group_size)
    figures = {
        "reward": float(rewards.mean()),
        "reward_best": float(rewards.amax(1).mean()),
        "spread": float(rewards.std(1).mean()),
        "flat": float((rewards.amax(1) == rewards.amin(1)).float().mean()),
        **{f"reward_{name}": value for name, value in components(scores).items()},
        "length": sum(len(one.tokens) for one in found.rollouts) / len(found.rollouts),
        "cut": sum(one.cut for one in found.rollouts) / len(found.rollouts),
    }
    if settings.max_resample_rounds:
        figures["replaced"] = float(found.replaced)
    for task in sorted({sample.task for sample in found.samples}) if settings.mix else ():
        mine = [
            score["overall"]
            for score, one in zip(scores, found.rollouts, strict=True)
            if found.samples[one.prompt].task == task
        ]
        figures[f"reward_of_{task}"] = sum(mine) / len(mine)
    return figures
