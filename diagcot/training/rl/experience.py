"""What a step learns from: groups of scored rollouts, the rewards to maximise, and their statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from diagcot.jobs.state.counts import nothing_of
from diagcot.metrics.curves import read as read_curves
from diagcot.rewards.gate import Gate
from diagcot.rewards.score import Score
from diagcot.tasks.samples import Sample
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.rl.objective import advantages, leave_one_out, overlong_penalty, whitened
from diagcot.training.rl.rollout import Rollout
from diagcot.training.rl.validation import component_means

_EQUAL = 1e-6  # rewards of a group that differ by less count as equal: models on other batches round differently


@dataclass(frozen=True)
class Experience:
    """Prompts, their rollouts group by group, and the scores of the rewards alone.

    replaced: groups of equal rewards that other groups replaced. waited_s: seconds of waiting for scores when no server
    had work left. scoring_s: component -> seconds that its model was at work, most of them while others rolled out.
    late: rollouts that a reward did not score before its deadline, those of replaced groups included. refused: prompts that
    a server did not take, in whose place others were rolled out.
    """

    samples: list[Sample]
    rollouts: list[Rollout]
    scores: list[Score]
    replaced: int = 0
    waited_s: float = 0.0
    scoring_s: dict[str, float] = field(default_factory=dict)
    late: int = 0
    refused: int = 0


def final_scores(experience: Experience, settings: GrpoSettings, gates: Mapping[str, Gate]) -> list[Score]:
    """The scores that GRPO maximises: those of a gated reward through its gate, minus the penalty of length.

    gates: name of a reward -> its gate, which sees that reward's part of the batch and is updated.
    """
    scores = [dict(score) for score in experience.scores]
    table, samples = settings.reward_table, experience.samples
    rewards = [table[settings.reward_of(samples[rollout.prompt].task)].name for rollout in experience.rollouts]
    for name, gate in gates.items():
        own = [index for index, reward in enumerate(rewards) if reward == name]
        for index, score in zip(own, gate.apply([scores[index] for index in own]), strict=True):
            scores[index] = dict(score)
    if settings.overlong:
        for score, rollout in zip(scores, experience.rollouts, strict=True):
            score["overlong"] = overlong_penalty(len(rollout.tokens), settings.max_tokens, settings.overlong)
            score["overall"] += score["overlong"]
    return scores


def rollout_advantages(experience: Experience, scores: Sequence[Score], settings: GrpoSettings) -> list[float]:
    """The advantage of each rollout by its final score, as `advantage_estimator` says."""
    rewards = _by_group(scores, settings)
    if settings.advantage_estimator == "rloo":
        values = leave_one_out(rewards)
    elif settings.advantage_estimator == "reinforce_plus_plus":
        lengths = torch.tensor([len(rollout.tokens) for rollout in experience.rollouts])
        values = whitened(rewards, lengths.view(rewards.shape))
    else:
        values = advantages(rewards, settings.normalize_advantages)
    return [float(value) for value in values.flatten()]


def _by_group(scores: Sequence[Score], settings: GrpoSettings) -> torch.Tensor:
    return torch.tensor([score["overall"] for score in scores]).view(-1, settings.group_size)


def statistics(experience: Experience, scores: Sequence[Score], settings: GrpoSettings) -> dict[str, float]:
    """Figures of a step's rollouts for the log.

    Mean reward and components, and the seconds of models that score; over groups the mean best reward, the mean spread and
    the share of equal rewards (flat); mean length in tokens, shares cut at max_tokens and without text; the number whose score
    was late, and that of prompts that a server refused; with `mask_cut` the number left out of the loss; with a mix, the reward
    of each task.
    """
    rollouts = experience.rollouts
    rewards = _by_group(scores, settings)
    figures = {
        "reward": float(rewards.mean()),
        "reward_best": float(rewards.amax(1).mean()),
        "spread": float(rewards.std(1).mean()),
        "flat": float((rewards.amax(1) == rewards.amin(1)).float().mean()),
        **{f"reward_{name}": value for name, value in component_means(scores).items()},
        **{f"reward_{name}_s": round(seconds, 4) for name, seconds in experience.scoring_s.items()},
        "length": sum(len(rollout.tokens) for rollout in rollouts) / len(rollouts),
        "cut": sum(rollout.cut for rollout in rollouts) / len(rollouts),
        "empty": sum(not rollout.text.strip() for rollout in rollouts) / len(rollouts),
        "late": float(experience.late),
        "refused": float(experience.refused),
    }
    if settings.mask_cut:
        figures["masked"] = float(sum(rollout.cut for rollout in rollouts))
    if settings.max_resample_rounds:
        figures["replaced"] = float(experience.replaced)
    for task in sorted({sample.task for sample in experience.samples}) if settings.mix else ():
        values = [
            score["overall"]
            for score, rollout in zip(scores, rollouts, strict=True)
            if experience.samples[rollout.prompt].task == task
        ]
        figures[f"reward_of_{task}"] = sum(values) / len(values)
    return figures


def learning_counts(log: Path, settings: GrpoSettings) -> dict[str, Any]:
    """Counts of the stage from its training log: groups whose rewards differ, and rollouts that were not cut.

    The stage needs some of each. Where the recipe trains nevertheless (`precheck_groups: 0`), it gets a warning instead.
    """
    curves = read_curves(log)
    groups, rollouts = settings.prompts_per_step, settings.prompts_per_step * settings.group_size
    found = {
        "groups of rollouts whose rewards differ": round(
            sum(groups * (1 - flat) for _, flat in curves.get("flat", []))
        ),
        "rollouts that end before max_tokens": round(sum(rollouts * (1 - cut) for _, cut in curves.get("cut", []))),
    }
    if settings.precheck_groups:
        return {"needed": found}
    return {"warnings": [f"it has no {name}" for name in nothing_of({"needed": found})]}


def nothing_to_learn(experience: Experience, scores: Sequence[Score], settings: GrpoSettings) -> str:
    """Why these rollouts would teach the policy nothing, and what to do about it; empty if they would teach something.

    scores: the final ones. The first of three reasons is given: every rollout is cut, none has the layout that the reward
    asks for (its component `format`), the rewards inside every group are equal.
    """
    rollouts = experience.rollouts
    if all(rollout.cut for rollout in rollouts):
        return (
            f"every rollout is cut at max_tokens {settings.max_tokens} and has no answer. Raise max_tokens, or shorten the"
            " answers with a stage of supervised fine-tuning first"
        )
    layout = [score["format"] for score in scores if "format" in score]
    if layout and not any(layout):
        return (
            "no rollout has the layout that the reward asks for, so its other parts have nothing to score. Ask for the layout"
            " in the prompt (format_instruction), or start from a model that a stage of supervised fine-tuning taught it"
        )
    rewards, inside = _by_group(scores, settings), "inside every group"
    if settings.advantage_estimator == "reinforce_plus_plus":
        rewards, inside = rewards.view(1, -1), "of all rollouts"
    if bool((rewards.amax(1) - rewards.amin(1) < _EQUAL).all()):
        return (
            f"the rewards {inside} are equal (their mean is {float(rewards.mean()):.3f}), so all advantages are 0."
            " Raise temperature or group_size, take prompts of another difficulty, or a reward that tells such answers apart"
        )
    return ""
