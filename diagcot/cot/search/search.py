"""The search for the chain of thought of one sample, as a pure state machine that yields questions and receives replies.

DiagCoT (arXiv:2509.06409) after HuatuoGPT-o1 (arXiv:2412.18925, section 2.2): init, verify, up to 3 attempts of up to 2
steps of rethinking, then the reference as the given answer; finally all of the reasoning, with its mistakes, checks and
corrections, is rewritten as prose by a call that does not see the reference. What was verified is what is taught: the
answer of a report is its verified conclusion; given answers, labels and boxes are the gold answer.
"""

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial

from diagcot.cot.search import prompts, replies, schemas
from diagcot.cot.search.calls import Answer, Caller, Question, Search, SearchError, Trace
from diagcot.cot.search.sample import CoTSample
from diagcot.cot.search.verification import RULES
from diagcot.cot.settings import SearchSettings
from diagcot.tasks.prompt_set import DEFAULT, PromptSet
from diagcot.tasks.prompts import report_answer


@dataclass(frozen=True)
class _Thinking:
    steps: tuple[replies.Step, ...]
    conclusion: replies.Conclusion
    check: str

    @property
    def refuted(self) -> list[replies.Step]:
        """The steps and the conclusion, without its check, which the verifier has just refuted."""
        return [*self.steps, ("Conclusion", self.conclusion.text)]

    @property
    def whole(self) -> list[replies.Step]:
        """The steps, the conclusion and its check."""
        return [*self.refuted, *_check(self.check)]


def search(sample: CoTSample, settings: SearchSettings, seed: int = 0, texts: PromptSet = DEFAULT) -> Search:
    """A generator to drive with `next` and `send(Answer)`; its return value is the Trace.

    The same seed and replies take the same path. texts: the prompts.
    """
    state = _Search(sample, settings, seed, texts)
    try:
        yield from state.main()
    except SearchError as error:
        state.trace.error = str(error)
    return state.trace


class _Search:
    def __init__(self, sample: CoTSample, settings: SearchSettings, seed: int, texts: PromptSet) -> None:
        self.sample, self.settings, self.limits, self.texts = sample, settings, settings.reply.limits(), texts
        self.question = "" if sample.task == "report" else sample.question
        self.head = prompts.head(len(sample.images), sample.reference_report, self.question, texts)
        # A conclusion of two texts is the report. The released code writes the report in a step of its own.
        written = sample.task == "report" and settings.impression == "written"
        self.sections = sample.sections if written else ()
        self.trace = Trace()
        self.caller = Caller(sample.id, settings, seed, self.trace, texts)

    def main(self) -> Generator[Question, Answer, None]:
        trace, settings, sample = self.trace, self.settings, self.sample
        schema = schemas.thinking(self.limits, self.sections)
        first = yield from self.caller.json(
            "init", prompts.init(self.head, sample.task, self.texts), schema, self._read
        )
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
                failed = {"attempt": number, "steps": current.steps, "conclusion": current.conclusion.text}
                trace.failed.append(failed)
        if reason is not None:
            if not settings.label_forced:
                raise SearchError("verify: no attempt was accepted")
            current = yield from self._label(current, reason)
            trace.forced = True
        trace.verified = not trace.forced or settings.forced_is_verified
        trace.steps, trace.conclusion, trace.check = list(current.steps), current.conclusion.text, current.check
        # The natural reasoning is written without the reference, from all steps, also those that were corrected.
        own = prompts.head(len(sample.images), "", self.question, self.texts)
        prompt = prompts.rewrite(own, prompts.thinking_text(current.whole), self.texts)
        trace.reasoning = yield from self.caller.prose("rewrite", prompt, lambda text: self._clean(replies.prose(text)))
        trace.answer = yield from self._answer(current)

    def _answer(self, current: _Thinking) -> Generator[Question, Answer, str]:
        """The gold answer where it was given or verified by rule, else the verified conclusion."""
        if self.sample.task != "report" or (self.trace.forced and self.settings.impression == "written"):
            return self.sample.reference
        if self.settings.impression == "written":
            return self.sample.layout(current.conclusion.sections)
        schema = schemas.final(self.limits, ("findings",))
        prompt = prompts.final(self.head, self.trace.reasoning, ("findings",), self.texts)
        report = yield from self.caller.json("final", prompt, schema, partial(replies.report, names=("findings",)))
        return f"{report} {report_answer('', self.sample.reference)}"

    def _read(self, row: dict[str, object]) -> _Thinking:
        conclusion = replies.conclusion(replies.member(row, "conclusion"), self.sections)
        self._clean(conclusion.text)
        return self._read_steps(row, conclusion)

    def _read_steps(self, row: dict[str, object], conclusion: replies.Conclusion) -> _Thinking:
        steps, check = replies.thinking(row)
        for text in (*(content for _, content in steps), check):
            self._clean(text)
        return _Thinking(steps, conclusion, check)

    def _clean(self, text: str) -> str:
        return replies.clean(text, self.sample, self.settings.hide_reference)

    def _rethink(self, current: _Thinking, strategy: str, reason: str | None) -> Generator[Question, Answer, _Thinking]:
        known = current.refuted
        prompt = prompts.rethink(
            self.head, prompts.thinking_text(known), strategy, reason or "", self.sample.task, self.texts
        )
        schema = schemas.thinking(self.limits, self.sections, check_first=True)
        new = yield from self.caller.json(f"rethink:{strategy}", prompt, schema, self._read)
        return _continued(known, new)

    def _label(self, current: _Thinking, reason: str) -> Generator[Question, Answer, _Thinking]:
        """Reasoning that goes on from what was refused, to the answer that is given."""
        known = current.refuted
        report = self.sample.task == "report"
        given = replies.Conclusion(self.sample.reference_report if report else self.sample.reference)
        prompt = prompts.label(
            self.head, prompts.thinking_text(known), reason, "" if report else given.text, self.texts
        )
        read = partial(self._read_steps, conclusion=given)
        new = yield from self.caller.json("label", prompt, schemas.continued(self.limits), read)
        return _continued(known, new)

    def _verify(self, current: _Thinking, step: str) -> Generator[Question, Answer, str | None]:
        """None if the conclusion is accepted; otherwise the reason, empty if the verifier gave none."""
        refusal: str | None = ""
        try:
            verdict, reason = yield from self._verdict(current.conclusion.text)
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
        prompt = prompts.verify(self.head, conclusion, settings.verdict, self.texts)
        if settings.verdict == "word":
            return (yield from self.caller.prose("verify", prompt, lambda text: ("true" in text.lower(), "")))
        return (yield from self.caller.json("verify", prompt, schemas.verdict(self.limits), replies.verdict))


def _continued(known: list[replies.Step], new: _Thinking) -> _Thinking:
    """New reasoning after refused reasoning: the check that begins it becomes a step, and stays where it was written."""
    return _Thinking((*known, *_check(new.check), *new.steps), new.conclusion, "")


def _check(text: str) -> list[replies.Step]:
    return [("Check", text)] if text else []
