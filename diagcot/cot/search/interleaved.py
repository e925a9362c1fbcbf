"""CX-Mind's interleaved traces under report supervision (arXiv:2508.03733): one generation, checked by rule.

A closed question fixes its options, each of which is assessed once; for an open one the model lists its hypotheses. A
reply that breaks a rule is requested again with the reason; after `attempts` such replies the gold answer is given.
"""

import re
from collections.abc import Generator, Sequence
from typing import Any

from diagcot.cot.search import prompts, replies, schemas
from diagcot.cot.search.calls import Answer, Caller, Question, Search, SearchError, Trace
from diagcot.cot.search.evidence import judged_before_seen
from diagcot.cot.search.replies import Step, UnreadableReplyError
from diagcot.cot.search.sample import CoTSample
from diagcot.cot.settings import SearchSettings
from diagcot.data.reports.labeler import label
from diagcot.data.study import CHEXPERT_LABELS
from diagcot.tasks.prompt_set import DEFAULT, PromptSet
from diagcot.tasks.questions.worked_answers import judging_order, with_look, with_option, without_option
from diagcot.text.options import LETTERS, RIGHT, WRONG

_NAMES = {name.lower(): name for name in CHEXPERT_LABELS}
_SEPARATOR = re.compile(rf"[,;:\[\]()\n{RIGHT}{WRONG}]")


def interleave(sample: CoTSample, settings: SearchSettings, seed: int = 0, texts: PromptSet = DEFAULT) -> Search:
    """A generator to drive with `next` and `send(Answer)`; its return value is the Trace. texts: the prompts."""
    trace = Trace()
    try:
        yield from _main(sample, settings, Caller(sample.id, settings, seed, trace, texts), trace)
    except SearchError as error:
        trace.error = str(error)
    return trace


def _main(
    sample: CoTSample, settings: SearchSettings, caller: Caller, trace: Trace
) -> Generator[Question, Answer, None]:
    limits = settings.reply.limits()
    texts = caller.texts
    head = prompts.head(len(sample.images), sample.reference_report, sample.question, texts)
    letters = judging_order(sample.meta.get("options", ()))
    make_prompt = prompts.closed_question if letters else prompts.open_question
    schema = schemas.closed_question(limits, letters) if letters else schemas.open_question(limits)

    def read(row: dict[str, Any]) -> list[Step]:
        parsed = closed_pairs(row, letters, sample.meta["options"]) if letters else open_pairs(row)
        fault = broken_rule(parsed, sample, settings.hide_reference)
        step = "init" if not trace.verdicts else "again"
        trace.verdicts.append({"step": step, "verdict": not fault, "reason": fault or "by rule"})
        if fault:
            trace.failed.append({"attempt": len(trace.verdicts) - 1, "pairs": parsed})
            raise UnreadableReplyError(fault)
        return parsed

    pairs: list[Step] | None = None
    if settings.attempts:
        try:
            pairs = yield from caller.json("pairs", make_prompt(head, texts=texts), schema, read, settings.attempts - 1)
        except SearchError:
            if not settings.label_forced:
                raise
    if pairs is None:
        pairs = yield from caller.json("label", make_prompt(head, gold_answer(sample), texts), schema, read)
        trace.forced = True
    trace.verified = not trace.forced or settings.forced_is_verified
    trace.pairs, trace.answer = pairs, pairs[-1][1]
    trace.conclusion = pairs[-1][0]


def gold_answer(sample: CoTSample) -> str:
    """The gold answer as the last prompt gives it: the option with its text, or the findings that are present."""
    options = sample.meta.get("options")
    return f"{sample.meta['option']}) {options[LETTERS.index(sample.meta['option'])]}" if options else sample.reference


def closed_pairs(row: dict[str, Any], letters: Sequence[str], options: Sequence[str]) -> list[Step]:
    """The pairs of a closed question from the look and the assessments. Raises UnreadableReplyError if a member is missing.

    letters: of the options, in the order in which they are judged. options: their texts, in the order of the question. Each
    thought begins with its option, the first one with the look.
    """
    look = replies.line(replies.member(row, "look"), "'look'")
    assessments = {letter: replies.member(row, letter) for letter in letters}
    marks = {letter: _mark(assessment) for letter, assessment in assessments.items()}
    pairs = [
        (
            with_option(letter, options[LETTERS.index(letter)], _think(assessment)),
            f"{letter}) {RIGHT if marks[letter] else WRONG}",
        )
        for letter, assessment in assessments.items()
    ]
    pairs[0] = (with_look(look, pairs[0][0]), pairs[0][1])
    right = [letter for letter in letters if marks[letter]]
    # The last pair concludes from the marks; with none or several correct, `broken_rule` rejects the marks.
    last = f"{right[0]}) {RIGHT}" if right else WRONG
    return [*pairs, (replies.line(replies.member(row, "summary"), "the summary"), last)]


def open_pairs(row: dict[str, Any]) -> list[Step]:
    """The pairs of an open question: the hypotheses, the assessment of each, and those that are present."""
    hypotheses = replies.member(row, "hypotheses")
    if not isinstance(hypotheses, list) or not hypotheses:
        raise UnreadableReplyError("'hypotheses' is not a list")
    names = [standard_name(replies.line(replies.member(hypothesis, "name"), "a name")) for hypothesis in hypotheses]
    marks = [_mark(hypothesis) for hypothesis in hypotheses]
    pairs = [
        (_think(hypothesis), f"{name} {RIGHT if mark else WRONG}")
        for hypothesis, name, mark in zip(hypotheses, names, marks, strict=True)
    ]
    observation = replies.line(replies.member(row, "observed"), "'observed'")
    first = (observation, f"Differential Diagnoses: [{', '.join(names)}]")
    summary = replies.line(replies.member(row, "summary"), "the summary")
    return [first, *pairs, (summary, ", ".join(name for name, mark in zip(names, marks, strict=True) if mark))]


def standard_name(text: str) -> str:
    """A hypothesis by the name that the gold answers use, if it means one of them: pulmonary edema is Edema."""
    text = text.strip(" .")
    if text.lower() in _NAMES:
        return _NAMES[text.lower()]
    labels = [name for name, value in label(f"{text}.").items() if value == 1 and name != "No Finding"]
    return labels[0] if len(labels) == 1 else text


def broken_rule(pairs: Sequence[Step], sample: CoTSample, hide_reference: bool) -> str:  # noqa: PLR0911  one for each rule
    """The first rule that the pairs break, as a clause that completes "because …"; empty if they break none.

    Every mark is correct and every gold answer is assessed; at least one hypothesis is refuted and none is named twice;
    no verdict stands before its evidence; no thought is repeated, has tags, or (with `hide_reference`) mentions the reference.
    """
    options = sample.meta.get("options")
    assessed = pairs[:-1] if options else pairs[1:-1]
    marks = {answer.rstrip(RIGHT + WRONG + " )"): answer.endswith(RIGHT) for _, answer in assessed}
    gold = {sample.meta["option"]} if options else {name.strip() for name in sample.reference.split(",")}
    correct = {name for name, mark in marks.items() if mark}
    if len(marks) < len(assessed):
        return "a name occurs twice"
    if any(_SEPARATOR.search(name) for name in marks):
        return "a name contains more than one finding; list each finding separately"
    if correct - gold:
        return f"{', '.join(sorted(correct - gold))} is not correct"
    if gold - correct:
        return f"{', '.join(sorted(gold - correct))} is correct"
    if not options and correct == marks.keys():
        return "no absent finding is considered"
    if fault := judged_before_seen(pairs, sample.meta):
        return fault
    thinks = [line.lower() for think, _ in pairs for line in without_option(think).splitlines()]
    if len(set(thinks)) < len(thinks):
        return "two thoughts are the same"
    for think, _ in pairs:
        try:
            replies.clean(think, sample, hide_reference)
        except UnreadableReplyError as fault:
            return str(fault)
    return ""


def _think(assessment: Any) -> str:
    return replies.line(replies.member(assessment, "think"), "a thought")


def _mark(assessment: Any) -> bool:
    mark = replies.member(assessment, "correct")
    if not isinstance(mark, bool):
        raise UnreadableReplyError("'correct' is neither true nor false")
    return mark
