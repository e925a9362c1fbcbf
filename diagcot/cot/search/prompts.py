"""Prompts for the teacher, the verifier and the judge on the way to a chain of thought, from the files of a prompt set.

DiagCoT (arXiv:2509.06409), section on chain-of-thought generation; CX-Mind (arXiv:2508.03733), section on interleaved
reasoning. Every prompt begins with the images, the reference report and the question, and ends with what changes most,
so that the prefix cache of the server holds what all calls of a sample share. The JSON layouts of the replies are in
`schemas`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from diagcot.tasks.prompt_set import DEFAULT, PromptSet
from diagcot.tasks.prompts import IMAGE

STRATEGIES = ("new_paths", "verification", "correction", "backtracking")
"""The four strategies of a second attempt. Backtracking needs an earlier step to return to, so it is never the first."""


def system(texts: PromptSet = DEFAULT) -> tuple[tuple[str, str], ...]:
    """The system message of every conversation (role, text); none if the set's text is empty."""
    text = texts.render("system")
    return (("system", text),) if text else ()


@dataclass(frozen=True)
class Head:
    """The common beginning of the prompts of a sample. A set may name the reference report in its prompts again."""

    text: str
    reference: str = ""

    @property
    def without_images(self) -> "Head":
        """For a model that must not see the images."""
        return replace(self, text=self.text.replace(IMAGE, ""))

    def then(self, prompt: str, texts: PromptSet, /, **variables: object) -> str:
        """A whole prompt."""
        return self.text + texts.render(prompt, **{"reference": self.reference, **variables})


def head(images: int, reference_report: str, question: str = "", texts: PromptSet = DEFAULT) -> Head:
    """The common beginning of the prompts of a sample.

    reference_report: empty for a call that must not see it. question: the user's text, which reports do not need.
    """
    # The teacher answers in JSON: instructions of the question about tags are not for it.
    lines = [line for line in question.replace(IMAGE, "").splitlines() if "<think>" not in line]
    text = texts.render("head", images=images, reference=reference_report, question="\n".join(lines))
    return Head(text, reference_report)


def init(head: Head, task: str = "report", texts: PromptSet = DEFAULT) -> str:
    """Ask for the first reasoning and conclusion."""
    return head.then("init", texts, task=task)


def label(head: Head, thinking: str, reason: str = "", answer: str = "", texts: PromptSet = DEFAULT) -> str:
    """Ask to go on from refused reasoning to the given diagnosis.

    reason: why the verifier refused the conclusion, if it said so. answer: the gold answer, unless it is the reference
    report.
    """
    return head.then("label", texts, thinking=thinking, reason=reason.rstrip(". "), answer=answer)


def verify(head: Head, conclusion: str, verdict: str = "reasoned", texts: PromptSet = DEFAULT) -> str:
    """Ask the verifier whether a conclusion agrees with the reference report."""
    return head.then("verify", texts, conclusion=conclusion, verdict=verdict)


def rethink(
    head: Head, thinking: str, strategy: str, reason: str = "", task: str = "report", texts: PromptSet = DEFAULT
) -> str:
    """Ask for another attempt by a strategy. reason: why the verifier refused the conclusion, if it said so."""
    return head.then("rethink", texts, thinking=thinking, strategy=strategy, reason=reason.rstrip(". "), task=task)


def rewrite(head: Head, thinking: str, texts: PromptSet = DEFAULT) -> str:
    """Ask for the reasoning steps as natural prose. head: without the reference report."""
    return head.then("rewrite", texts, thinking=thinking)


def final(
    head: Head, reasoning: str, sections: Sequence[str] = ("findings", "impression"), texts: PromptSet = DEFAULT
) -> str:
    """Ask for the report. sections: the sections that the reply must contain."""
    return head.then("final", texts, reasoning=reasoning, sections=list(sections))


def judge(
    head: Head,
    reasoning: str,
    name: str,
    answer: str,
    gold: str = "",
    verdict: str = "scored",
    texts: PromptSet = DEFAULT,
) -> str:
    """Ask the judge about a trace. name: what the answer is called; gold: the gold answer, if it is no report."""
    return head.then(
        "judge",
        texts,
        reasoning=reasoning,
        name=name,
        answer=answer,
        gold=gold,
        verdict=verdict,
        image=IMAGE in head.text,
    )


def closed_question(head: Head, answer: str = "", texts: PromptSet = DEFAULT) -> str:
    """Ask for an interleaved answer to a closed question. answer: the gold answer, if the model is given it."""
    return head.then("closed", texts, answer=answer)


def open_question(head: Head, answer: str = "", texts: PromptSet = DEFAULT) -> str:
    """Ask for an interleaved answer to an open question. answer: the gold answer, if the model is given it."""
    return head.then("open", texts, answer=answer)


def retry(fault: str, texts: PromptSet = DEFAULT) -> str:
    """Ask again after a reply that could not be used."""
    return texts.render("retry", fault=fault)


def thinking_text(steps: Sequence[tuple[str, str]]) -> str:
    """Steps (title, content) as later prompts show them, one line each."""
    return "\n".join(f"{title}: {content}" for title, content in steps)
