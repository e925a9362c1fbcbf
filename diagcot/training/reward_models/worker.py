"""A reward worker: scores groups of replies in a process of its own. No torch is imported here."""

import os
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from diagcot.jobs import UserError
from diagcot.jobs.environment import code
from diagcot.rewards.names import GATED
from diagcot.rewards.score import Reference, Score
from diagcot.serving import Reply, Request
from diagcot.text.reasoning import thought
from diagcot.training.config.reward_settings import (
    PLAIN,
    RADGRAPH_REASONING,
    REASONING,
    SERVED,
    RewardModelsSettings,
    RewardSettings,
)
from diagcot.training.reward_models.child import DeadError, LateError, RewardChild
from diagcot.training.reward_models.plain import Output
from diagcot.training.reward_models.scorers import Ask, Component, Pair, create
from diagcot.training.reward_models.weighted import pair_of, weighted


@dataclass(frozen=True)
class Scored:
    """Scores in the order of the outputs, and the seconds that each model of the rewards took for them.

    late: sample and reward of each output whose plain reward gave no score before its deadline; it scores 0.
    """

    scores: list[Score]
    seconds: dict[str, float]
    late: list[tuple[str, str]] = field(default_factory=list)


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
        self._plain = RewardChild(self._table, corpus)
        self._examples = {key: corpus[key][0] for key in self._table}
        self._turn = threading.Lock()  # rewards of this and of other projects need not know threads
        names = dict.fromkeys(name for reward in self._table.values() for name in reward.models)
        self._components = {
            name: Component(name, partial(create, name, models, _ask(servers.get(name))), models.kept, name in SERVED)
            for name in names
        }

    def ready(self) -> bool:
        """True, once rewards and models are loaded. Raises UserError if a reward has no term that is to be a component."""
        with self._turn:
            self._plain.start()
        for key, reward in self._table.items():
            terms = [name for name in reward.weights if name not in (PLAIN, REASONING, *reward.models, *reward.own)]
            if terms:
                example = Output(self._examples[key].answer, self._examples[key], key)
                (score,), _ = self._plain_scores(key, [example], 0.0)
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
        scored = Scored([], defaultdict(float))
        for key, own in positions.items():
            scores.update(zip(own, self._rewarded(key, [outputs[at] for at in own], progress, scored), strict=True))
        return Scored([scores[position] for position in range(len(outputs))], dict(scored.seconds), scored.late)

    def _rewarded(self, key: str, outputs: Sequence[Output], progress: float, scored: Scored) -> list[Score]:
        """Scores of outputs of one reward; what they took and which were late is added to `scored`."""
        reward = self._table[key]
        with self._turn:
            plain, late = self._plain_scores(key, outputs, progress)
        scored.late.extend((outputs[at].sample, _name(reward)) for at in late)
        if not reward.components:
            return plain
        pairs = [pair_of(output.text, output.reference.answer, output.question, reward) for output in outputs]
        models = {}
        for name in reward.models:
            shown = pairs
            if name == RADGRAPH_REASONING:
                shown = [
                    _with_reasoning(pair, thought(output.text)) for pair, output in zip(pairs, outputs, strict=True)
                ]
            models[name], took = self._components[name].score(shown)
            scored.seconds[name] += took
        scores = weighted(plain, models, reward.weights)
        for at in late:
            scores[at]["overall"] = 0.0
        return scores

    def _plain_scores(self, key: str, outputs: Sequence[Output], progress: float) -> tuple[list[Score], list[int]]:
        """Scores without models, and the positions of those that were late, whose terms are all 0.

        The outputs are scored together. Where that takes too long or ends the child, each is scored alone, so that only the
        one that caused it is late. Raises RuntimeError if an output ends the child again: a failure is never a score.
        """
        reward = self._table[key]
        limit_s = reward.score_timeout_s
        try:
            return self._plain.score(key, outputs, progress, limit_s), []
        except (LateError, DeadError):
            found = [self._alone(key, output, progress, limit_s) for output in outputs]
        terms = [term for score in found for term in score or ()] or _terms(reward)
        late = [position for position, score in enumerate(found) if score is None]
        return [dict.fromkeys(terms, 0.0) if score is None else score for score in found], late

    def _alone(self, key: str, output: Output, progress: float, limit_s: float) -> Score | None:
        """The score of one output; None if it was late."""
        try:
            return self._plain.score(key, [output], progress, limit_s)[0]
        except LateError:
            return None
        except DeadError as error:
            raise RuntimeError(
                f"the process of the reward {_name(self._table[key])} died ({error}) whenever it scored a rollout of sample"
                f" {output.sample or 'unknown'}. Mend the reward, or give the node more memory or fewer `reward.workers`; the"
                " next attempt resumes the stage"
            ) from None


def _with_reasoning(pair: Pair, think: str) -> Pair:
    """The pair for a component that reads the reasoning; a reply without one is shown to no model, and earns 0."""
    return replace(pair, think=think) if think else replace(pair, answer="")


def _terms(reward: RewardSettings) -> list[str]:
    """Terms that a score of the reward must have, for the case that no output was scored."""
    own = [name for name in reward.weights if name not in (PLAIN, *reward.models)]
    return ["overall", *own, *(("accuracy", "process", "reason") if reward.name in GATED else ())]


def _name(reward: RewardSettings) -> str:
    return reward.name if reward.style else f"{reward.name}/{reward.chosen_mode}"


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
