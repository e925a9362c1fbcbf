"""Think and answer tags: one pair (DiagCoT, arXiv:2509.06409) or several in turn (CX-Mind, arXiv:2508.03733).

Reading ignores the case of tags and text outside them; `is_single` and `is_interleaved` are strict.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from diagcot.metrics.repetition import distinct_trigrams

_INNER = r"(?:(?!</?(?:think|answer)>).)*?"  # text without any of the four tags
_SINGLE = re.compile(rf"\s*<think>({_INNER})</think>\s*<answer>({_INNER})</answer>\s*", re.DOTALL)
_INTERLEAVED = re.compile(rf"\s*(?:<think>{_INNER}</think>\s*<answer>{_INNER}</answer>\s*)+", re.DOTALL)
_THINK = re.compile(r"<think>(.*?)(?:</think>|$)", re.IGNORECASE | re.DOTALL)
_THINK_OPENS, _JOINT = (re.compile(tag, re.IGNORECASE) for tag in ("<think>", r"</think>\s*<answer>"))
_ANSWER_OPENS, _ANSWER_CLOSES = (re.compile(tag, re.IGNORECASE) for tag in ("<answer>", "</answer>"))
_WORD = re.compile(r"[^\W\d_]+")
_LEAST_WORDS = 3  # different ones in a reasoning
_LEAST_DISTINCT = 0.5  # share of distinct trigrams; a text that goes round in circles has less


@dataclass(frozen=True)
class Pair:
    """One step of an interleaved trace."""

    think: str
    answer: str


def first_answer(output: str) -> str:
    """Text of the first answer block, or the whole output if there is none (as in DiagCoT's evaluation scripts)."""
    return next(_answers(output), output).strip()


def last_answer(output: str) -> str:
    """Text of the last answer block, which concludes an interleaved trace, or the whole output if there is none."""
    return ([*_answers(output)] or [output])[-1].strip()


def has_answer(output: str) -> bool:
    """True if the output has an answer block."""
    return next(_answers(output), None) is not None


def thinking(output: str) -> str:
    """Text of the first think block, which may be cut short; empty if there is none."""
    block = _THINK.search(output)
    return block.group(1).strip() if block else ""


def pairs(output: str) -> list[Pair]:
    """Think-answer pairs in order; text outside them is ignored.

    They are those of the expression in CX-Mind's rewards, `<think>(.*?)</think>\\s*<answer>(.*?)</answer>`, found tag by tag:
    the expression itself takes cubic time on tags that are not closed.
    """
    found, at = list[Pair](), 0
    while (
        (opening := _THINK_OPENS.search(output, at))
        and (joint := _JOINT.search(output, opening.end()))
        and (closing := _ANSWER_CLOSES.search(output, joint.end()))
    ):
        think, answer = output[opening.end() : joint.start()], output[joint.end() : closing.start()]
        found.append(Pair(think.strip(), answer.strip()))
        at = closing.end()
    return found


def is_single(output: str) -> bool:
    """True if the output is exactly one think and one answer, both with letters or digits in them, and nothing else."""
    match = _SINGLE.fullmatch(output)
    return match is not None and all(_plain(part) for part in match.groups())


def is_interleaved(output: str) -> bool:
    """True if the output consists of pairs alone, and no think is without words or has the words of another."""
    if not _INTERLEAVED.fullmatch(output):
        return False
    thinks = [_plain(pair.think) for pair in pairs(output)]
    return all(thinks) and len(set(thinks)) == len(thinks)


def is_reasoned_single(output: str) -> bool:
    """True if the output is one think and one answer, the think is a reasoning, and neither goes round in circles."""
    return is_single(output) and is_reasoning(thinking(output)) and not is_repetitive(first_answer(output))


def is_reasoned_interleaved(output: str) -> bool:
    """True if the output consists of pairs, every think is a reasoning of its own, and nothing goes round in circles."""
    steps = pairs(output)
    return is_interleaved(output) and all(is_reasoning(step.think) and not is_repetitive(step.answer) for step in steps)


def is_reasoning(think: str) -> bool:
    """True if a think has at least three different words and does not go round in circles."""
    return len(set(_WORD.findall(think.lower()))) >= _LEAST_WORDS and not is_repetitive(think)


def is_repetitive(text: str) -> bool:
    """True if more than half of a text's trigrams are repeats."""
    return distinct_trigrams(text) < _LEAST_DISTINCT


def _answers(output: str) -> Iterator[str]:
    """Texts of the answer blocks, each up to the next closing tag."""
    at = 0
    while (opening := _ANSWER_OPENS.search(output, at)) and (closing := _ANSWER_CLOSES.search(output, opening.end())):
        yield output[opening.end() : closing.start()]
        at = closing.end()


def _plain(text: str) -> str:
    """The letters and digits of a text in lower case, words joined by single blanks."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))
