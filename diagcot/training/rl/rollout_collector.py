"""Experience from the rollout pool, one step at a time or some steps ahead of training."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from diagcot.rewards.external import RolloutFacts
from diagcot.rewards.score import Reference, Score
from diagcot.serving import Reply, Request
from diagcot.tasks.prompts import reasoned
from diagcot.tasks.samples import Sample
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.data.collator import message_parts
from diagcot.training.reward_models.plain import Output
from diagcot.training.rl.curriculum import Curriculum
from diagcot.training.rl.experience import Experience
from diagcot.training.rl.rollout import Rollout, Sampling, group_of, requests_of
from diagcot.training.rl.rollout_pool import RolloutBatch, RolloutPool

_PROBE_TOKENS = 8
_FIRST = -1  # priority of a probe, for which training waits, before rollouts of coming steps
_REFUSED_ROUNDS = 4  # in which other prompts take the places of refused ones

Group = tuple[Sample, list[Rollout], list[Score]]


class RolloutCollector:
    """Rolls out and scores prompts. For rank 0; each call may run in a thread while training goes on.

    images: the JPEG files of a sample. banned: ids of tokens that must not be drawn.
    """

    def __init__(
        self,
        pool: RolloutPool,
        settings: GrpoSettings,
        images: Callable[[Sample], tuple[bytes, ...]],
        banned: Sequence[int],
        seed: int,
    ) -> None:
        self._pool, self._settings, self._images, self._banned, self._seed = pool, settings, images, banned, seed
        self._sampling = Sampling(settings.group_size, settings.max_tokens, settings.temperature, settings.top_p)

    def step(self, number: int, curriculum: Curriculum) -> Experience | None:
        """The experience of step `number` (0-based); None if a stop was requested.

        With `max_resample_rounds`, further prompts replace groups of equal rewards, up to that many times (DAPO, Yu et
        al. 2025, arXiv:2503.14476, section 3.2). Groups that are still flat after the last round stay in the batch, where
        their advantages are 0. Further prompts also take the places of those that a server refuses. Raises RuntimeError that
        names such a prompt if the others are refused as well.
        """
        groups: dict[int, Group] = {}  # by position in the step
        positions, waited_s, replaced, late = list(range(self._settings.prompts_per_step)), 0.0, 0, 0
        refused: list[str] = []
        scoring_s: Counter[str] = Counter()
        rounds = self._settings.max_resample_rounds
        for resample_round in range(rounds + 1 + _REFUSED_ROUNDS):
            prompts = curriculum.step_prompts(number, resample_round)
            samples = [prompts[position] for position in positions]
            seed = f"{number}/{resample_round}" if resample_round else str(number)
            batch = self._roll_out(samples, self._sampling, seed, number / curriculum.steps)
            if batch is None:
                return None
            waited_s += batch.scored_at - batch.rolled_out_at
            scoring_s.update(batch.scoring_s)
            late += batch.late
            replaced += sum(position in groups for position in positions)
            for index, position in enumerate(positions):
                sample, reply = samples[index], batch.replies[index]
                if reply.refused:
                    refused.append(f"{sample.id} ({reply.error})")
                    continue
                rollouts = group_of(position, sample, reply, self._settings.group_size)
                groups[position] = sample, rollouts, batch.scores[index]
            absent = [position for position in positions if position not in groups]
            flat = [position for position in positions if position in groups and _flat(groups[position])]
            positions = absent + (flat if resample_round < rounds else [])
            if not positions:
                break
        if len(groups) < self._settings.prompts_per_step:
            raise RuntimeError(f"the servers refused {len(refused)} prompts of step {number + 1}, first {refused[0]}")
        ordered = [groups[position] for position in range(self._settings.prompts_per_step)]
        return Experience(
            [sample for sample, _, _ in ordered],
            [rollout for _, rollouts, _ in ordered for rollout in rollouts],
            [score for _, _, scores in ordered for score in scores],
            replaced,
            waited_s,
            dict(scoring_s),
            late,
            len(refused),
        )

    def validate(self, samples: Sequence[Sample]) -> list[Score] | None:
        """Scores of one answer to each of `samples`, with the same seeds every time; None if a stop was requested.

        A prompt that a server refuses counts as an empty answer, as in evaluation.
        """
        rule = self._settings.validation
        sampling = Sampling(1, self._settings.max_tokens, rule.temperature, rule.top_p)
        batch = self._roll_out(samples, sampling, "validation", 1.0, refused_is_empty=True)
        return None if batch is None else [scores[0] for scores in batch.scores]

    def probe(self, sample: Sample, count: int) -> list[Rollout] | None:
        """`count` short answers, unscored: enough to see whether servers hold the policy's weights."""
        sampling = Sampling(count, _PROBE_TOKENS, 1.0)
        requests = requests_of([sample], self._images, sampling, f"{self._seed}/probe", self._banned)
        requests = [replace(request, priority=_FIRST) for request in requests]
        batch = self._pool.roll_out(requests, lambda index, reply: [], 0.0)
        return None if batch is None else group_of(0, sample, batch.replies[0], count)

    def _roll_out(
        self, samples: Sequence[Sample], sampling: Sampling, seed: str, progress: float, refused_is_empty: bool = False
    ) -> RolloutBatch | None:
        requests = requests_of(samples, self._images, sampling, f"{self._seed}/{seed}", self._banned)

        def outputs(index: int, reply: Reply) -> list[Output]:
            sample, texts = samples[index], reply.texts
            if reply.refused:
                texts = [""] * sampling.n if refused_is_empty else []
            else:
                group_of(index, sample, reply, sampling.n)  # raises for a failed request
            key, question = self._settings.reward_of(sample.task), sample.prompt.replace("<image>", "").strip()
            reference = Reference(sample.answer, tuple(sample.meta.get("options", ())))
            shown = texts if self._settings.reasoning == "expected" else list(map(_in_layout, texts))
            facts = [RolloutFacts()] * len(texts)
            if self._settings.reward_table[key].calls:
                tokens = reply.token_ids or [[]] * len(texts)
                facts = [self._facts(sample, requests[index], tuple(own)) for own in tokens]
            return [
                Output(text, reference, key, sample.task, question, sample.meta, sample.id, own)
                for text, own in zip(shown, facts, strict=True)
            ]

        return self._pool.roll_out(requests, outputs, progress)

    def _facts(self, sample: Sample, request: Request, tokens: tuple[int, ...]) -> RolloutFacts:
        """What a reward of another project gets with a rollout."""
        prompt = [{"role": role, "content": message_parts(text)} for role, text in request.messages]
        about = {**sample.meta, "id": sample.id, "task": sample.task, "study": sample.study}
        return RolloutFacts(prompt, request.images, tokens, about)


class PendingRollouts:
    """Rollouts of a step and of up to `ahead` further ones, each collected in a thread. For rank 0."""

    def __init__(self, collector: RolloutCollector, curriculum: Curriculum, ahead: int) -> None:
        self._collector, self._curriculum = collector, curriculum
        self._threads = ThreadPoolExecutor(1 + ahead, thread_name_prefix="rollouts")
        self._futures: dict[int, Future[Experience | None]] = {}  # by step

    def launch(self, number: int) -> None:
        """Begin to roll out step `number`, unless it was launched before."""
        if number not in self._futures:
            self._futures[number] = self._threads.submit(self._collector.step, number, self._curriculum)

    def collect(self, number: int) -> Experience | None:
        """The experience of step `number`; None if a stop was requested. Raises what the rollouts raised."""
        self.launch(number)
        return self._futures.pop(number).result()

    def wait(self) -> None:
        """Until no server is busy."""
        for future in self._futures.values():
            future.exception()

    def close(self) -> None:
        """Start nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _in_layout(text: str) -> str:
    """A reply without reasoning as rewards read replies: some want a few words of reasoning, so all get the same."""
    return reasoned("This reply answers without reasoning.", text)


def _flat(group: Group) -> bool:
    """Whether all rewards of a group are equal."""
    return len({score["overall"] for score in group[2]}) == 1
