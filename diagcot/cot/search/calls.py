"""Model calls as a pure generator: it yields questions and receives answers; unusable replies are requested again."""

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from diagcot.cot.search import prompts, replies, schemas
from diagcot.cot.settings import SearchSettings
from diagcot.data import seeded
from diagcot.tasks.prompt_set import DEFAULT, PromptSet
from diagcot.tasks.prompts import IMAGE

Parsed = TypeVar("Parsed")
_REJECTED_CHARS = 2000  # of a rejected reply that the model is shown again


@dataclass(frozen=True)
class Question:
    """One model call about the sample's images. `verify` goes to the verifier, everything else to the teacher."""

    name: str  # init, verify, rethink:<strategy>, label, rewrite, final, pairs
    prompt: str
    max_tokens: int
    temperature: float
    seed: int
    schema: dict[str, Any] | None = None
    system: tuple[tuple[str, str], ...] = ()  # the system message, if there is one
    rejected: tuple[str, str] | None = None  # the reply that could not be used, and the request for another

    @property
    def messages(self) -> tuple[tuple[str, str], ...]:
        """The conversation (role, text): system, prompt, then a rejected reply and the request for another."""
        messages = (*self.system, ("user", self.prompt))
        if self.rejected is None:
            return messages
        reply, again = self.rejected
        return (*messages, ("assistant", reply), ("user", again))


@dataclass(frozen=True)
class Answer:
    """The reply to a question: its text, the finish reason (stop, length), or an error of the server."""

    text: str = ""
    finish: str = "stop"
    error: str | None = None


@dataclass
class Trace:
    """The result of a search. `error` names the step that failed and the reason; then the texts may be empty.

    The fields are the keys of a trace in the output files of stage `collect` (docs/cot.md).
    """

    steps: list[replies.Step] = field(default_factory=list)
    conclusion: str = ""
    check: str = ""
    verified: bool = False  # the verifier or a rule accepted the conclusion
    forced: bool = False  # the gold answer was given to the teacher; nothing verified the result
    reasoning: str = ""
    answer: str = ""
    pairs: list[replies.Step] = field(default_factory=list)  # (think, answer) of an interleaved trace
    error: str | None = None
    verdicts: list[dict[str, Any]] = field(default_factory=list)  # {"step", "verdict", "reason"} in order
    failed: list[dict[str, Any]] = field(default_factory=list)  # reasoning of the attempts that were abandoned
    calls: int = 0

    @property
    def by(self) -> str:
        """The step that succeeded: init, again, a strategy, or label; empty for a failed trace."""
        if self.error:
            return ""
        last = self.verdicts[-1]["step"] if self.verdicts else "init"
        return "label" if self.forced else str(last).removeprefix("rethink:")


class SearchError(Exception):
    """A step received no usable reply; the message gives the step and the reason."""


Search = Generator[Question, Answer, Trace]


class Caller:
    """Makes the calls of one sample: the same seed and replies give the same questions."""

    def __init__(
        self, sample_id: str, settings: SearchSettings, seed: int, trace: Trace, texts: PromptSet = DEFAULT
    ) -> None:
        self.settings, self.trace, self.texts = settings, trace, texts
        self.random = random.Random(seeded.rank(seed, sample_id, separator=":"))

    def prose(self, name: str, prompt: str, parse: Callable[[str], Parsed]) -> Generator[Question, Answer, Parsed]:
        """`parse` of the reply's text. Raises SearchError if no reply could be parsed."""

        def parse_whole(text: str, cut: bool) -> Parsed:
            if cut:
                raise replies.UnreadableReplyError("it was cut off")
            return parse(text)

        return (yield from self._ask(name, prompt, None, parse_whole, self.settings.parse_retries))

    def json(
        self,
        name: str,
        prompt: str,
        schema: dict[str, Any],
        parse: Callable[[dict[str, Any]], Parsed],
        retries: int | None = None,
    ) -> Generator[Question, Answer, Parsed]:
        """`parse` of the reply's JSON object. retries: None for the number in the settings. Raises SearchError."""
        if not self.settings.constrained:
            prompt += schemas.layout(schema)
        enforced = schema if self.settings.constrained else None
        count = self.settings.parse_retries if retries is None else retries

        def parse_json(text: str, cut: bool) -> Parsed:
            if cut and not self.settings.repair:
                raise replies.UnreadableReplyError("it was cut off")
            return parse(replies.read_json(text, self.settings.repair))

        return (yield from self._ask(name, prompt, enforced, parse_json, count))

    def _ask(
        self,
        name: str,
        prompt: str,
        schema: dict[str, Any] | None,
        parse: Callable[[str, bool], Parsed],
        retries: int,
    ) -> Generator[Question, Answer, Parsed]:
        settings, verdict = self.settings, name == "verify"
        if not settings.image_first:
            images = prompt.count(IMAGE)
            prompt = prompt.replace(IMAGE, "") + IMAGE * images
        tokens = settings.verdict_tokens if verdict else settings.max_tokens
        system, rejected, cause = prompts.system(self.texts), None, ""
        for retry in range(retries + 1):
            # A greedy reply that could not be parsed may come back unchanged, so its retry is sampled.
            temperature = 0.0 if verdict and not retry else max(settings.temperature, 0.5 if retry else 0.0)
            self.trace.calls += 1
            seed = self.random.getrandbits(31)
            answer = yield Question(name, prompt, tokens, temperature, seed, schema, system, rejected)
            if answer.error:
                raise SearchError(f"{name}: {answer.error}")
            cut = answer.finish == "length"
            try:
                return parse(answer.text, cut)
            except replies.UnreadableReplyError as error:
                fault = f"it was cut off after {tokens} tokens; be brief" if cut else str(error)
                cause = f"{name}: cut off at {tokens} tokens" if cut else f"{name}: the reply cannot be used ({error})"
                reply = answer.text.replace(IMAGE, "")[:_REJECTED_CHARS].strip() or "..."
                rejected = (reply, prompts.retry(fault, self.texts))
        raise SearchError(cause)
