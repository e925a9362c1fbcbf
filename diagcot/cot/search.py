"""The search for a chain of thought of one sample, as a pure state machine: it yields questions and is sent replies.

Method.md 4.1, after HuatuoGPT-o1 (Chen et al. 2024, arXiv:2412.18925): init, verify, up to 3 attempts of up to 2 steps
of thinking again, then the reference as a given answer; at last the thinking is told naturally and the report written.
"""

import hashlib
import json
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from diagcot.cot import prompts
from diagcot.cot.settings import SearchSettings
from diagcot.data.prompts import report_answer

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Question:
    """One call of the model about the sample's film."""

    name: str  # init, verify, rethink:<strategy>, label, rewrite, final
    prompt: str
    max_tokens: int
    temperature: float
    seed: int
    schema: dict[str, Any] | None = None


@dataclass(frozen=True)
class Answer:
    """The reply to a question: its text, how it ended (stop, length), or an error of the server."""

    text: str = ""
    finish: str = "stop"
    error: str | None = None


@dataclass
class Trace:
    """What the search found. `error` names the step that failed and why; then `reasoning` and `report` may be empty."""

    steps: list[tuple[str, str]] = field(default_factory=list)
    conclusion: str = ""
    check: str = ""
    verified: bool = False  # the verifier accepted the conclusion
    forced: bool = False  # the reference was given as the answer; nobody verified it
    reasoning: str = ""
    report: str = ""
    error: str | None = None
    verdicts: list[dict[str, Any]] = field(default_factory=list)  # {"step", "verdict", "reason"} in order
    failed: list[dict[str, Any]] = field(default_factory=list)  # thinking of the attempts that were given up
    calls: int = 0


class _Failed(Exception):
    """A step got no usable reply; the message says why."""


@dataclass(frozen=True)
class _Thinking:
    steps: tuple[tuple[str, str], ...]
    conclusion: str
    check: str


Search = Generator[Question, Answer, Trace]


def search(sample_id: str, reference: str, settings: SearchSettings, seed: int = 0) -> Search:
    """Drive with `next` and `send(Answer)`; the Trace is the generator's return value.

    The same seed and replies take the same path.
    """
    run = _Search(sample_id, reference, settings, seed)
    try:
        yield from run.main()
    except _Failed as failure:
        run.trace.error = str(failure)
    return run.trace


class _Search:
    def __init__(self, sample_id: str, reference: str, settings: SearchSettings, seed: int) -> None:
        self.reference, self.settings = reference, settings
        self.limits = settings.reply.limits()
        self.trace = Trace()
        digest = hashlib.blake2b(f"{seed}:{sample_id}".encode(), digest_size=8).digest()
        self.random = random.Random(int.from_bytes(digest, "big"))

    def main(self) -> Generator[Question, Answer, None]:
        trace, settings = self.trace, self.settings
        first = yield from self._think("init", prompts.init(self.reference))
        found = first
        verified = yield from self._verify(found, "init")
        for number in range(settings.attempts):
            if verified:
                break
            found = first  # every attempt starts anew from the first thinking
            for depth in range(settings.depth):
                strategy = self.random.choice(prompts.STRATEGIES if depth else prompts.STRATEGIES[:-1])
                try:
                    found = yield from self._rethink(found, strategy)
                except _Failed as failure:
                    trace.verdicts.append({"step": f"rethink:{strategy}", "verdict": None, "reason": str(failure)})
                    break
                verified = yield from self._verify(found, f"rethink:{strategy}")
                if verified:
                    break
            if not verified:
                trace.failed.append({"attempt": number, "steps": found.steps, "conclusion": found.conclusion})
        if not verified:
            if not settings.label_forced:
                raise _Failed("verify: no attempt was accepted")
            found = yield from self._think("label", prompts.label(self.reference))
            trace.forced = True
        trace.verified = verified
        trace.steps, trace.conclusion, trace.check = list(found.steps), found.conclusion, found.check
        told = prompts.rewrite(self.reference, prompts.thinking_text(found.steps))
        trace.reasoning = yield from self._ask("rewrite", told, _natural)
        told, schema = prompts.final(self.reference, trace.reasoning), prompts.final_schema(self.limits)
        trace.report = yield from self._ask("final", told, _report, schema)

    def _think(self, name: str, prompt: str) -> Generator[Question, Answer, _Thinking]:
        return (yield from self._ask(name, prompt, _thinking, prompts.thinking_schema(self.limits)))

    def _rethink(self, found: _Thinking, strategy: str) -> Generator[Question, Answer, _Thinking]:
        # The last check of the thinking so far is dropped: the reviewer has just proved it wrong.
        steps = [*found.steps, ("conclusion", found.conclusion)]
        prompt = prompts.rethink(self.reference, prompts.thinking_text(steps), strategy)
        schema = prompts.thinking_schema(self.limits, again=True)
        new = yield from self._ask(f"rethink:{strategy}", prompt, _thinking, schema)
        return _Thinking((*found.steps, ("check", new.check), *new.steps), new.conclusion, "")

    def _verify(self, found: _Thinking, step: str) -> Generator[Question, Answer, bool]:
        prompt, schema = prompts.verify(self.reference, found.conclusion), prompts.verdict_schema(self.limits)
        try:
            verdict, reason = yield from self._ask("verify", prompt, _verdict, schema)
        except _Failed as failure:  # no verdict is no acceptance
            verdict, reason = None, str(failure)
        self.trace.verdicts.append({"step": step, "verdict": verdict, "reason": reason})
        return verdict is True

    def _ask(
        self, name: str, prompt: str, parse: Callable[[str], Parsed], schema: dict[str, Any] | None = None
    ) -> Generator[Question, Answer, Parsed]:
        cause = ""
        for retry in range(self.settings.parse_retries + 1):
            verdict = name == "verify"
            # A greedy reply that could not be read would come back the same: its retry is sampled.
            temperature = 0.0 if verdict and not retry else max(self.settings.temperature, 0.5 if retry else 0.0)
            tokens = self.settings.verdict_tokens if verdict else self.settings.max_tokens
            self.trace.calls += 1
            answer = yield Question(name, prompt, tokens, temperature, self.random.getrandbits(31), schema)
            if answer.error:
                raise _Failed(f"{name}: {answer.error}")
            if answer.finish == "length":
                cause = f"{name}: cut at {tokens} tokens"
                continue
            try:
                return parse(answer.text)
            except (ValueError, LookupError, TypeError) as error:
                cause = f"{name}: the reply is not as asked ({type(error).__name__})"
        raise _Failed(cause)


def _thinking(text: str) -> _Thinking:
    row = json.loads(text)
    steps = tuple((_line(step["title"]), _line(step["content"])) for step in row["thinking"])
    if not steps:
        raise ValueError("no steps")
    return _Thinking(steps, _line(row["conclusion"]), _line(row["check"]))


def _verdict(text: str) -> tuple[bool, str]:
    row = json.loads(text)
    if not isinstance(row["verdict"], bool):
        raise TypeError("verdict")
    return row["verdict"], _line(row["reason"])


def _natural(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.splitlines()]
    told = "\n".join(line for line in lines if line)
    if not told or any(tag in told for tag in ("<think>", "</think>", "<answer>", "</answer>")):
        raise ValueError("no natural reasoning")
    return told


def _report(text: str) -> str:
    row = json.loads(text)
    return report_answer(_line(row["findings"]), _line(row["impression"]))


def _line(text: Any) -> str:
    """One line of text, words kept apart. Raises ValueError if there is none."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError("an empty text")
    return " ".join(text.split())
