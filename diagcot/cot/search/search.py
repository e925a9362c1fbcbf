"""The search for a chain of thought of one sample, as a pure state machine: it yields questions and is sent replies.

Method.md 4.1, after HuatuoGPT-o1 (Chen et al. 2024, arXiv:2412.18925): init, verify, up to 3 attempts of up to 2 steps
of thinking again, then the reference as a given answer; at last the thinking is told naturally and the report written.
Labels and boxes are verified by rule and need no last call: their answer is the gold one.
"""

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial

from diagcot.cot.search import prompts, replies, schemas
from diagcot.cot.search.calls import Answer, Caller, Failed, Question, Search, Trace
from diagcot.cot.search.case import Case
from diagcot.cot.search.verification import RULES
from diagcot.cot.settings import SearchSettings
from diagcot.tasks.prompts import report_answer


@dataclass(frozen=True)
class _Thinking:
    steps: tuple[replies.Step, ...]
    conclusion: str
    check: str


def search(case: Case, settings: SearchSettings, seed: int = 0) -> Search:
    """Drive with `next` and `send(Answer)`; the Trace is the generator's return value.

    The same seed and replies take the same path.
    """
    run = _Search(case, settings, seed)
    try:
        yield from run.main()
    except Failed as failure:
        run.trace.error = str(failure)
    return run.trace


class _Search:
    def __init__(self, case: Case, settings: SearchSettings, seed: int) -> None:
        self.case, self.settings, self.limits = case, settings, settings.reply.limits()
        question = "" if case.task == "report" else case.question
        self.head = prompts.head(len(case.images), case.guide, question)
        self.trace = Trace()
        self.caller = Caller(case.id, settings, seed, self.trace)

    def main(self) -> Generator[Question, Answer, None]:
        trace, settings, case = self.trace, self.settings, self.case
        first = yield from self._think("init", prompts.init(self.head, case.task))
        first_why = yield from self._verify(first, "init")
        found, why = first, first_why
        for number in range(settings.attempts):
            if why is None:
                break
            found, why = first, first_why  # every attempt starts anew from the first thinking
            for depth in range(settings.depth):
                strategy = self.caller.random.choice(prompts.STRATEGIES if depth else prompts.STRATEGIES[:-1])
                try:
                    found = yield from self._rethink(found, strategy, why)
                except Failed as failure:
                    trace.verdicts.append({"step": f"rethink:{strategy}", "verdict": None, "reason": str(failure)})
                    break
                why = yield from self._verify(found, f"rethink:{strategy}")
                if why is None:
                    break
            if why is not None:
                trace.failed.append({"attempt": number, "steps": found.steps, "conclusion": found.conclusion})
        if why is not None:
            if not settings.label_forced:
                raise Failed("verify: no attempt was accepted")
            given = "" if case.task == "report" else case.reference
            found = yield from self._think("label", prompts.label(self.head, case.task, given))
            trace.forced = True
        trace.verified = not trace.forced or settings.forced_is_verified
        trace.steps, trace.conclusion, trace.check = list(found.steps), found.conclusion, found.check
        told = prompts.rewrite(self.head, prompts.thinking_text(found.steps))
        trace.reasoning = yield from self.caller.prose("rewrite", told, lambda text: self._clean(replies.natural(text)))
        trace.answer = (yield from self._report()) if case.task == "report" else case.reference

    def _report(self) -> Generator[Question, Answer, str]:
        copied = self.settings.impression == "reference"
        names = ("findings",) if copied else ("findings", "impression")
        schema = schemas.final(self.limits, names)
        told = prompts.final(self.head, self.trace.reasoning, names)
        report = yield from self.caller.json("final", told, schema, partial(replies.report, names=names))
        return f"{report} {report_answer('', self.case.reference)}" if copied else report

    def _think(self, name: str, prompt: str) -> Generator[Question, Answer, _Thinking]:
        return (yield from self.caller.json(name, prompt, schemas.thinking(self.limits), self._read))

    def _read(self, row: dict[str, object]) -> _Thinking:
        steps, conclusion, check = replies.thinking(row)
        for _, content in steps:
            self._clean(content)
        return _Thinking(steps, conclusion, check)

    def _clean(self, text: str) -> str:
        return replies.clean(text, self.case, self.settings.hide_reference)

    def _rethink(self, found: _Thinking, strategy: str, why: str | None) -> Generator[Question, Answer, _Thinking]:
        # The last check of the thinking so far is dropped: the reviewer has just proved it wrong.
        steps = prompts.thinking_text([*found.steps, ("conclusion", found.conclusion)])
        prompt = prompts.rethink(self.head, steps, strategy, why or "", self.case.task)
        schema = schemas.thinking(self.limits, again=True)
        new = yield from self.caller.json(f"rethink:{strategy}", prompt, schema, self._read)
        checked = (("check", new.check),) if new.check else ()
        return _Thinking((*found.steps, *checked, *new.steps), new.conclusion, "")

    def _verify(self, found: _Thinking, step: str) -> Generator[Question, Answer, str | None]:
        """None where the conclusion is accepted; else why not, empty where nobody said."""
        why: str | None = ""
        try:
            verdict, reason = yield from self._verdict(found.conclusion)
            why = None if verdict else reason
        except Failed as failure:  # no verdict is no acceptance, and says nothing about the thinking
            verdict, reason = None, str(failure)
        self.trace.verdicts.append({"step": step, "verdict": verdict, "reason": reason})
        return why

    def _verdict(self, conclusion: str) -> Generator[Question, Answer, tuple[bool | None, str]]:
        case, settings = self.case, self.settings
        if case.task in RULES:
            fault = RULES[case.task](conclusion, case, settings.iou)
            return not fault, fault or "by rule"
        prompt = prompts.verify(self.head, conclusion, settings.verdict)
        if settings.verdict == "word":
            return (yield from self.caller.prose("verify", prompt, lambda text: ("true" in text.lower(), "")))
        return (yield from self.caller.json("verify", prompt, schemas.verdict(self.limits), replies.verdict))
