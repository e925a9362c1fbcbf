"""Calls of a model as a pure generator: questions out, answers in, and a reply that cannot be used is asked for again."""

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from diagcot.cot.search import prompts, replies, schemas
from diagcot.cot.settings import SearchSettings
from diagcot.data import seeded
from diagcot.tasks.prompts import IMAGE

Parsed = TypeVar("Parsed")
_SHOWN = 2000  # characters of a faulty reply that the model sees again


@dataclass(frozen=True)
class Question:
    """One call of a model about the sample's films. `verify` is for the verifier, all else for the teacher."""

    name: str  # init, verify, rethink:<strategy>, label, rewrite, final, pairs
    prompt: str
    max_tokens: int
    temperature: float
    seed: int
    schema: dict[str, Any] | None = None
    again: tuple[str, str] | None = None  # the reply that could not be used, and what was wrong with it

    @property
    def messages(self) -> tuple[tuple[str, str], ...]:
        asked = (("user", self.prompt),)
        if self.again is None:
            return asked
        reply, fault = self.again
        return (*asked, ("assistant", reply), ("user", prompts.again(fault)))


@dataclass(frozen=True)
class Answer:
    """The reply to a question: its text, how it ended (stop, length), or an error of the server."""

    text: str = ""
    finish: str = "stop"
    error: str | None = None


@dataclass
class Trace:
    """What was found. `error` names the step that failed and why; then the texts may be empty."""

    steps: list[replies.Step] = field(default_factory=list)
    conclusion: str = ""
    check: str = ""
    verified: bool = False  # the verifier, or a rule, accepted the conclusion
    forced: bool = False  # the gold answer was given; nobody verified it
    reasoning: str = ""
    answer: str = ""
    pairs: list[replies.Step] = field(default_factory=list)  # (think, answer) of an interleaved trace
    error: str | None = None
    verdicts: list[dict[str, Any]] = field(default_factory=list)  # {"step", "verdict", "reason"} in order
    failed: list[dict[str, Any]] = field(default_factory=list)  # thinking of the attempts that were given up
    calls: int = 0

    @property
    def by(self) -> str:
        """What succeeded: init, again, a strategy, or label; empty for a trace that failed."""
        if self.error:
            return ""
        last = self.verdicts[-1]["step"] if self.verdicts else "init"
        return "label" if self.forced else str(last).removeprefix("rethink:")


class Failed(Exception):
    """A step got no usable reply; the message says why."""


Search = Generator[Question, Answer, Trace]


class Caller:
    """Asks for one sample: the same seed and replies give the same questions."""

    def __init__(self, sample_id: str, settings: SearchSettings, seed: int, trace: Trace) -> None:
        self.settings, self.trace = settings, trace
        self.random = random.Random(seeded.rank(seed, sample_id, separator=":"))

    def prose(self, name: str, prompt: str, parse: Callable[[str], Parsed]) -> Generator[Question, Answer, Parsed]:
        """`parse` of the reply's text. Raises Failed where no reply could be read."""

        def found(text: str, cut: bool) -> Parsed:
            if cut:
                raise replies.Unreadable("it was cut")
            return parse(text)

        return (yield from self._ask(name, prompt, None, found, self.settings.parse_retries))

    def json(
        self,
        name: str,
        prompt: str,
        schema: dict[str, Any],
        parse: Callable[[dict[str, Any]], Parsed],
        retries: int | None = None,
    ) -> Generator[Question, Answer, Parsed]:
        """`parse` of the reply's JSON object. retries: as the settings say where it is None."""
        if not self.settings.constrained:
            prompt += schemas.layout(schema)
        held = schema if self.settings.constrained else None
        times = self.settings.parse_retries if retries is None else retries

        def found(text: str, cut: bool) -> Parsed:
            if cut and not self.settings.repair:
                raise replies.Unreadable("it was cut")
            return parse(replies.read(text, self.settings.repair))

        return (yield from self._ask(name, prompt, held, found, times))

    def _ask(
        self,
        name: str,
        prompt: str,
        schema: dict[str, Any] | None,
        parse: Callable[[str, bool], Parsed],
        retries: int,
    ) -> Generator[Question, Answer, Parsed]:
        settings, verdict = self.settings, name == "verify"
        if not settings.film_first:
            films = prompt.count(IMAGE)
            prompt = prompt.replace(IMAGE, "") + IMAGE * films
        tokens = settings.verdict_tokens if verdict else settings.max_tokens
        again, cause = None, ""
        for retry in range(retries + 1):
            # A greedy reply that could not be read may come back the same: its retry is sampled.
            temperature = 0.0 if verdict and not retry else max(settings.temperature, 0.5 if retry else 0.0)
            self.trace.calls += 1
            seed = self.random.getrandbits(31)
            answer = yield Question(name, prompt, tokens, temperature, seed, schema, again)
            if answer.error:
                raise Failed(f"{name}: {answer.error}")
            cut = answer.finish == "length"
            try:
                return parse(answer.text, cut)
            except replies.Unreadable as error:
                fault = f"it was cut after {tokens} tokens; be brief" if cut else str(error)
                cause = f"{name}: cut at {tokens} tokens" if cut else f"{name}: the reply is not as asked ({error})"
                again = (answer.text.replace(IMAGE, "")[:_SHOWN].strip() or "...", fault)
        raise Failed(cause)
