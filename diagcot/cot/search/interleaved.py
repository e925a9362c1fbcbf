"""CX-Mind's interleaved traces under report supervision (method.md 7.3): one generation, checked by rule.

A closed question fixes its options, each of which is judged once; of an open one the model lists what it weighs. A
reply that breaks a rule is asked for again with the fault named; after `attempts` of them the gold answer is given.
"""

import re
from collections.abc import Generator, Sequence
from typing import Any

from diagcot.cot.search import prompts, replies, schemas
from diagcot.cot.search.calls import Answer, Caller, Failed, Question, Search, Trace
from diagcot.cot.search.case import Case
from diagcot.cot.search.replies import Step, Unreadable
from diagcot.cot.settings import SearchSettings
from diagcot.data.reports.labeler import label
from diagcot.data.study import CHEXPERT_LABELS
from diagcot.text.options import LETTERS, RIGHT, WRONG

_NAMES = {name.lower(): name for name in CHEXPERT_LABELS}
_SEPARATOR = re.compile(rf"[,;:\[\]()\n{RIGHT}{WRONG}]")


def interleave(case: Case, settings: SearchSettings, seed: int = 0) -> Search:
    """Drive with `next` and `send(Answer)`; the Trace is the generator's return value."""
    trace = Trace()
    try:
        yield from _main(case, settings, Caller(case.id, settings, seed, trace), trace)
    except Failed as failure:
        trace.error = str(failure)
    return trace


def _main(case: Case, settings: SearchSettings, caller: Caller, trace: Trace) -> Generator[Question, Answer, None]:
    limits = settings.reply.limits()
    head = prompts.head(len(case.images), case.guide, case.question)
    letters = LETTERS[: len(case.meta.get("options", ()))]
    ask = prompts.closed if letters else prompts.opened
    schema = schemas.closed(limits, letters) if letters else schemas.opened(limits)

    def read(row: dict[str, Any]) -> list[Step]:
        found = closed(row, letters) if letters else opened(row)
        fault = broken(found, case, settings.hide_reference)
        step = "init" if not trace.verdicts else "again"
        trace.verdicts.append({"step": step, "verdict": not fault, "reason": fault or "by rule"})
        if fault:
            trace.failed.append({"attempt": len(trace.verdicts) - 1, "pairs": found})
            raise Unreadable(fault)
        return found

    found: list[Step] | None = None
    if settings.attempts:
        try:
            found = yield from caller.json("pairs", ask(head), schema, read, settings.attempts - 1)
        except Failed:
            if not settings.label_forced:
                raise
    if found is None:
        found = yield from caller.json("label", ask(head, told(case)), schema, read)
        trace.forced = True
    trace.verified = not trace.forced or settings.forced_is_verified
    trace.pairs, trace.answer = found, found[-1][1]
    trace.conclusion = found[-1][0]


def told(case: Case) -> str:
    """The gold answer as the last prompt gives it: the option with its text, or the findings that are there."""
    options = case.meta.get("options")
    return f"{case.meta['option']}) {options[LETTERS.index(case.meta['option'])]}" if options else case.reference


def closed(row: dict[str, Any], letters: Sequence[str]) -> list[Step]:
    """The pairs of a closed question from the judgements by letter. Raises Unreadable for what is missing."""
    judged = {letter: replies.part(row, letter) for letter in letters}
    marks = {letter: _mark(one) for letter, one in judged.items()}
    pairs = [(_think(one), f"{letter}) {RIGHT if marks[letter] else WRONG}") for letter, one in judged.items()]
    right = [letter for letter in letters if marks[letter]]
    # The last pair concludes what the marks say; with none or several right, `broken` finds fault with the marks.
    last = f"{right[0]}) {RIGHT}" if right else WRONG
    return [*pairs, (replies.line(replies.part(row, "summary"), "the summary"), last)]


def opened(row: dict[str, Any]) -> list[Step]:
    """The pairs of an open question: what is weighed, the judgement of each, and those that are there."""
    weighed = replies.part(row, "weighed")
    if not isinstance(weighed, list) or not weighed:
        raise Unreadable("'weighed' is not a list")
    names = [named(replies.line(replies.part(one, "name"), "a name")) for one in weighed]
    marks = [_mark(one) for one in weighed]
    pairs = [
        (_think(one), f"{name} {RIGHT if mark else WRONG}")
        for one, name, mark in zip(weighed, names, marks, strict=True)
    ]
    first = (replies.line(replies.part(row, "observed"), "'observed'"), f"Differential Diagnoses: [{', '.join(names)}]")
    summary = replies.line(replies.part(row, "summary"), "the summary")
    return [first, *pairs, (summary, ", ".join(name for name, mark in zip(names, marks, strict=True) if mark))]


def named(text: str) -> str:
    """A hypothesis by the name that the gold answers use, where it means one of them: pulmonary edema is Edema."""
    text = text.strip(" .")
    if text.lower() in _NAMES:
        return _NAMES[text.lower()]
    meant = [name for name, value in label(f"{text}.").items() if value == 1 and name != "No Finding"]
    return meant[0] if len(meant) == 1 else text


def broken(pairs: Sequence[Step], case: Case, hide_reference: bool) -> str:
    """The first rule that the pairs break, in words for the model; empty where they keep all.

    Every mark is right and every gold answer is judged; of hypotheses one is refuted and none is named twice; every
    think has words of its own, no tags, and (if `hide_reference`) does not speak of the reference.
    """
    options = case.meta.get("options")
    judged = pairs[:-1] if options else pairs[1:-1]
    marks = {answer.rstrip(RIGHT + WRONG + " )"): answer.endswith(RIGHT) for _, answer in judged}
    gold = {case.meta["option"]} if options else {name.strip() for name in case.reference.split(",")}
    right = {name for name, mark in marks.items() if mark}
    if len(marks) < len(judged):
        return "something is named twice"
    if any(_SEPARATOR.search(name) for name in marks):
        return "a name holds more than a name; give each its own"
    if right - gold:
        return f"{', '.join(sorted(right - gold))} is not right"
    if gold - right:
        return f"{', '.join(sorted(gold - right))} is right"
    if not options and right == marks.keys():
        return "nothing is weighed that is not there"
    thinks = [" ".join(think.lower().split()) for think, _ in pairs]
    if len(set(thinks)) < len(thinks):
        return "two thoughts are the same"
    for think, _ in pairs:
        try:
            replies.clean(think, case, hide_reference)
        except Unreadable as fault:
            return str(fault)
    return ""


def _think(one: Any) -> str:
    return replies.line(replies.part(one, "think"), "a thought")


def _mark(one: Any) -> bool:
    mark = replies.part(one, "right")
    if not isinstance(mark, bool):
        raise Unreadable("'right' is neither true nor false")
    return mark
