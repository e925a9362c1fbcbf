"""A reward worker: scores groups of replies in a process of its own. No torch is imported here."""

import os
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from diagcot.jobs import UserError
from diagcot.jobs.environment import code
from diagcot.rewards import registry
from diagcot.rewards.score import Reference, Score
from diagcot.serving import Reply, Request
from diagcot.text.reasoning import NOTHING, of_output
from diagcot.training.config.reward_settings import PLAIN, REASONING, SERVED, RewardModelsSettings, RewardSettings
from diagcot.training.reward_models.scorers import Ask, Component, create
from diagcot.training.reward_models.weighted import pair_of, weighted


@dataclass(frozen=True)
class Output:
    """A rollout's text, the reference that it is scored against, and the key of its reward.

    task, question, about: those of the sample, the question without images.
    """

    text: str
    reference: Reference
    reward: str = ""
    task: str = "report"
    question: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """Scores in the order of the outputs, and the seconds that each model of the rewards took for them."""

    scores: list[Score]
    seconds: dict[str, float]


class RewardWorker:
    """Rewards by key, and the models that give components of them. May be called from several threads at once.

    corpus: key -> references of all prompts that the reward may score. servers: component -> the Ray actor of its
    `ScoringServer`. gpu: name of the GPU for the models that run here, if they use one.
    """

    def __init__(
        self,
        table: Mapping[str, RewardSettings],
        corpus: Mapping[str, Sequence[Reference]],
        models: RewardModelsSettings,
        servers: Mapping[str, Any],
        gpu: str | None = None,
    ) -> None:
        code.require_own()
        if gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        self._table = {key: reward for key, reward in table.items() if corpus.get(key)}
        self._plain = {
            key: registry.reward(reward.name, reward.chosen_mode, corpus[key]) for key, reward in self._table.items()
        }
        self._examples = {key: corpus[key][0] for key in self._table}
        self._turn = threading.Lock()  # rewards of this and of other projects need not know threads
        names = dict.fromkeys(name for reward in self._table.values() for name in reward.models)
        self._components = {
            name: Component(name, partial(create, name, models, _ask(servers.get(name))), models.kept, name in SERVED)
            for name in names
        }

    def ready(self) -> bool:
        """True, once the models are loaded. Raises UserError if a reward has no term that is to be a component."""
        for key, reward in self._table.items():
            terms = [name for name in reward.components if name not in (PLAIN, REASONING, *reward.models)]
            if terms:
                (score,) = self._plain[key]([self._examples[key].answer], [self._examples[key]], 0.0)
                if absent := [name for name in terms if name not in score]:
                    raise UserError(
                        f"reward {reward.name}/{reward.chosen_mode} has no {' and no '.join(absent)} to be a component; its"
                        f" terms are {', '.join(score)}"
                    )
        for component in self._components.values():
            component.ready()
        return True

    def score(self, outputs: Sequence[Output], progress: float) -> Scored:
        """Scores of the outputs; those of one reward are scored together. progress: share of training done, 0 to 1."""
        positions = defaultdict(list)
        for position, output in enumerate(outputs):
            positions[output.reward].append(position)
        scores: dict[int, Score] = {}
        seconds: defaultdict[str, float] = defaultdict(float)
        for key, own in positions.items():
            scores.update(zip(own, self._rewarded(key, [outputs[at] for at in own], progress, seconds), strict=True))
        return Scored([scores[position] for position in range(len(outputs))], dict(seconds))

    def _rewarded(
        self, key: str, outputs: Sequence[Output], progress: float, seconds: defaultdict[str, float]
    ) -> list[Score]:
        texts, references = [output.text for output in outputs], [output.reference for output in outputs]
        reward = self._table[key]
        with self._turn:
            plain = self._plain[key](texts, references, progress)
            if REASONING in reward.components:
                plain = [score | _reasoning(output) for score, output in zip(plain, outputs, strict=True)]
        if not reward.components:
            return plain
        pairs = [pair_of(output.text, output.reference.answer, output.question, reward) for output in outputs]
        models = {}
        for name in reward.models:
            models[name], took = self._components[name].score(pairs)
            seconds[name] += took
        return weighted(plain, models, reward.components)


def _reasoning(output: Output) -> Score:
    """The metric of a reply's reasoning and its three figures; all 0 where the reference states nothing."""
    found = of_output(output.task, output.text, output.reference.answer, output.about) or NOTHING
    figures = ("factuality", "completeness", "effectiveness")
    return {REASONING: found.overall, **{name: getattr(found, name) for name in figures}}


def _ask(server: Any) -> Ask:
    """Requests to a `ScoringServer` in another process."""

    def ask(requests: Sequence[Request]) -> Sequence[Reply]:
        import ray

        try:
            replies: list[Reply] = ray.get(server.complete.remote(list(requests)))
        except ray.exceptions.RayActorError:
            raise RuntimeError("the process that started its server has died") from None
        except ray.exceptions.RayTaskError as error:
            raise RuntimeError(str(error.cause)) from None
        return replies

    return ask
