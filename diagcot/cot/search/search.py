"""The search for the chain of thought of one sample, as a pure state machine that yields questions and receives replies.

DiagCoT (arXiv:2509.06409) after HuatuoGPT-o1 (arXiv:2412.18925, section 2.2): init, verify, up to 3 attempts of up to 2
steps of rethinking, then the reference as the given answer; finally the reasoning is rewritten as prose and the report
is written. Labels and boxes are verified by rule and need no final call: their answer is the gold one.
"""

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial

from diagcot.cot.search import prompts, replies, schemas
from diagcot.cot.search.calls import Answer, Caller, Question, Search, SearchError, Trace
from diagcot.cot.search.sample import CoTSample
from diagcot.cot.search.verification import RULES
from diagcot.cot.settings import SearchSettings
from diagcot.tasks.prompts import report_answer


@dataclass(frozen=True)
class _Thinking:
    steps: tuple[replies.Step, ...]
    conclusion: str
    check: str


def search(sample: CoTSample, settings: SearchSettings, seed: int = 0) -> Search:
    """A generator to drive with `next` and `send(Answer)`; its return value is the Trace.

    The same seed and replies take the same path.
    """
    state = _Search(sample, settings, seed)
    try:
        yield from state.main()
    except SearchError as error:
        state.trace.error = str(error)
    return state.trace


class _Search:
    def __init__(self, sample: CoTSample, settings: SearchSettings, seed: int) -> None:
        self.sample, self.settings, self.limits = sample, settings, settings.reply.limits()
        question = "" if sample.task == "report" else sample.question
        self.head = prompts.head(len(sample.images), sample.reference_report, question)
        self.trace = Trace()
        self.caller = Caller(sample.id, settings, seed, self.trace)

    def main(self) -> Generator[Question, Answer, None]:
        trace, settings, sample = self.trace, self.settings, self.sample
        first = yield from self._think("init", prompts.init(self.head, sample.task))
        first_reason = yield from self._verify(first, "init")
        current, reason = first, first_reason
        for number in range(settings.attempts):
            if reason is None:
                break
            current, reason = first, first_reason  # every attempt starts from the first reasoning
            for depth in range(settings.depth):
                strategy = self.caller.random.choice(prompts.STRATEGIES if depth else prompts.STRATEGIES[:-1])
                try:
                    current = yield from self._rethink(current, strategy, reason)
                except SearchError as error:
                    trace.verdicts.append({"step": f"rethink:{strategy}", "verdict": None, "reason": str(error)})
                    break
                reason = yield from self._verify(current, f"rethink:{strategy}")
                if reason is None:
                    break
            if reason is not None:
                trace.failed.append({"attempt": number, "steps": current.steps, "conclusion": current.conclusion})
        if reason is not None:
            if not settings.label_forced:
                raise SearchError("verify: no attempt was accepted")
            given = "" if sample.task == "report" else sample.reference
            current = yield from self._think("label", prompts.label(self.head, sample.task, given))
            trace.forced = True
        trace.verified = not trace.forced or settings.forced_is_verified
        trace.steps, trace.conclusion, trace.check = list(current.steps), current.conclusion, current.check
        prompt = prompts.rewrite(self.head, prompts.thinking_text(current.steps))
        trace.reasoning = yield from self.caller.prose("rewrite", prompt, lambda text: self._clean(replies.prose(text)))
        trace.answer = (yield from self._report()) if sample.task == "report" else sample.reference

    def _report(self) -> Generator[Question, Answer, str]:
        copied = self.settings.impression == "reference"
        sections = ("findings",) if copied else ("findings", "impression")
        schema = schemas.final(self.limits, sections)
        prompt = prompts.final(self.head, self.trace.reasoning, sections)
        report = yield from self.caller.json("final", prompt, schema, partial(replies.report, names=sections))
        return f"{report} {report_answer('', self.sample.reference)}" if copied else report

    def _think(self, name: str, prompt: str) -> Generator[Question, Answer, _Thinking]:
        return (yield from self.caller.json(name, prompt, schemas.thinking(self.limits), self._read))

    def _read(self, row: dict[str, object]) -> _Thinking:
        steps, conclusion, check = replies.thinking(row)
        for _, content in steps:
            self._clean(content)
        return _Thinking(steps, conclusion, check)

    def _clean(self, text: str) -> str:
        return replies.clean(text, self.sample, self.settings.hide_reference)

    def _rethink(self, current: _Thinking, strategy: str, reason: str | None) -> Generator[Question, Answer, _Thinking]:
        # The last check of the reasoning so far is dropped: the verifier has just refuted it.
        steps = prompts.thinking_text([*current.steps, ("conclusion", current.conclusion)])
        prompt = prompts.rethink(self.head, steps, strategy, reason or "", self.sample.task)
        schema = schemas.thinking(self.limits, check_first=True)
        new = yield from self.caller.json(f"rethink:{strategy}", prompt, schema, self._read)
        checked = (("check", new.check),) if new.check else ()
        return _Thinking((*current.steps, *checked, *new.steps), new.conclusion, "")

    def _verify(self, current: _Thinking, step: str) -> Generator[Question, Answer, str | None]:
        """None if the conclusion is accepted; otherwise the reason, empty if the verifier gave none."""
        refusal: str | None = ""
        try:
            verdict, reason = yield from self._verdict(current.conclusion)
            refusal = None if verdict else reason
        except SearchError as error:  # without a verdict nothing is accepted, and nothing is known about the reasoning
            verdict, reason = None, str(error)
        self.trace.verdicts.append({"step": step, "verdict": verdict, "reason": reason})
        return refusal

    def _verdict(self, conclusion: str) -> Generator[Question, Answer, tuple[bool | None, str]]:
        sample, settings = self.sample, self.settings
        if sample.task in RULES:
            fault = RULES[sample.task](conclusion, sample, settings.iou)
            return not fault, fault or "by rule"
        prompt = prompts.verify(self.head, conclusion, settings.verdict)
        if settings.verdict == "word":
            return (yield from self.caller.prose("verify", prompt, lambda text: ("true" in text.lower(), "")))
        return (yield from self.caller.json("verify", prompt, schemas.verdict(self.limits), replies.verdict))
