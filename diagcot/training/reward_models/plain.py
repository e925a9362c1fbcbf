"""The rewards of a stage without the models behind their components, as a child process computes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diagcot.rewards import external, registry
from diagcot.rewards.score import Reference, Score
from diagcot.text.reasoning import NOTHING, of_output
from diagcot.training.config.reward_settings import OWN_STYLE, REASONING, RewardSettings


@dataclass(frozen=True)
class Output:
    """A rollout's text, the reference that it is scored against, and the key of its reward.

    task, question, about: those of the sample, the question without images. sample: its id, for messages. facts: for rewards
    of other projects, which get them as their own trainer gives them.
    """

    text: str
    reference: Reference
    reward: str = ""
    task: str = "report"
    question: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    sample: str = ""
    facts: external.RolloutFacts = field(default_factory=external.RolloutFacts)


class PlainRewards:
    """Rewards by key. corpus: key -> references of all prompts that the reward may score."""

    def __init__(self, table: Mapping[str, RewardSettings], corpus: Mapping[str, Sequence[Reference]]) -> None:
        self._table = table
        self._examples = {key: corpus[key][0] for key in table}
        self._rewards = {
            key: registry.reward(reward.name, reward.chosen_mode, corpus[key]) for key, reward in table.items()
        }
        self._own = {
            key: {label: external.load(name, OWN_STYLE) for label, name in reward.own.items()}
            for key, reward in table.items()
        }

    def warm_up(self) -> None:
        """Score a reference by each reward of this project: what it compiles or reads at first use counts for no deadline."""
        for key, reward in self._table.items():
            if not reward.style:
                self._rewards[key]([self._examples[key].answer], [self._examples[key]], 0.0)

    def score(self, key: str, outputs: Sequence[Output], progress: float) -> list[Score]:
        """Scores of outputs of one reward, together, with the user's own rewards and the metric of the reasoning where they are
        components.
        """
        texts, references = [output.text for output in outputs], [output.reference for output in outputs]
        facts = [output.facts for output in outputs]
        reward = self._rewards[key]
        if isinstance(reward, external.ExternalReward):
            scores = reward(texts, references, progress, facts)
        else:
            scores = reward(texts, references, progress)
        for label, mine in self._own[key].items():
            own = mine(texts, references, progress, facts)
            scores = [score | {label: one["overall"]} for score, one in zip(scores, own, strict=True)]
        if REASONING in self._table[key].components:
            return [score | _reasoning(output) for score, output in zip(scores, outputs, strict=True)]
        return scores


def _reasoning(output: Output) -> Score:
    """The metric of a reply's reasoning and its three figures; all 0 where the reference states nothing."""
    found = of_output(output.task, output.text, output.reference.answer, output.about) or NOTHING
    figures = ("factuality", "completeness", "effectiveness")
    return {REASONING: found.overall, **{name: getattr(found, name) for name in figures}}
