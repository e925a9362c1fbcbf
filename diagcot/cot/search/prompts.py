"""Prompts for the teacher, the verifier and the judge on the way to a chain of thought, from the files of a prompt set.

DiagCoT (arXiv:2509.06409), section on chain-of-thought generation; CX-Mind (arXiv:2508.03733), section on interleaved
reasoning. Every prompt begins with the images, the reference report and the question, and ends with what changes most,
so that the prefix cache of the server holds what all calls of a sample share. The JSON layouts of the replies are in
`schemas`.
"""

from collections.abc import Sequence

from diagcot.tasks.prompt_set import DEFAULT, PromptSet
from diagcot.tasks.prompts import IMAGE

STRATEGIES = ("new_paths", "verification", "correction", "backtracking")
"""The four strategies of a second attempt. Backtracking needs an earlier step to return to, so it is never the first."""


def system(texts: PromptSet = DEFAULT) -> tuple[tuple[str, str], ...]:
    """The system message of every conversation (role, text); none if the set's text is empty."""
    text = texts.render("system")
    return (("system", text),) if text else ()


def head(images: int, reference_report: str, question: str = "", texts: PromptSet = DEFAULT) -> str:
    """The common beginning of the prompts of a sample.

    reference_report: empty for a call that must not see it. question: the user's text, which reports do not need.
    """
    # The teacher answers in JSON: instructions of the question about tags are not for it.
    lines = [line for line in question.replace(IMAGE, "").splitlines() if "<think>" not in line]
    return texts.render("head", images=images, reference=reference_report, question="\n".join(lines))


def init(head: str, task: str = "report", texts: PromptSet = DEFAULT) -> str:
    """Ask for the first reasoning and conclusion."""
    return head + texts.render("init", task=task)


def label(head: str, thinking: str, reason: str = "", answer: str = "", texts: PromptSet = DEFAULT) -> str:
    """Ask to go on from refused reasoning to the given diagnosis.

    reason: why the verifier refused the conclusion, if it said so. answer: the gold answer, unless it is the reference
    report.
    """
    return head + texts.render("label", thinking=thinking, reason=reason.rstrip(". "), answer=answer)


def verify(head: str, conclusion: str, verdict: str = "reasoned", texts: PromptSet = DEFAULT) -> str:
    """Ask the verifier whether a conclusion agrees with the reference report."""
    return head + texts.render("verify", conclusion=conclusion, verdict=verdict)


def rethink(
    head: str, thinking: str, strategy: str, reason: str = "", task: str = "report", texts: PromptSet = DEFAULT
) -> str:
    """Ask for another attempt by a strategy. reason: why the verifier refused the conclusion, if it said so."""
    return head + texts.render("rethink", thinking=thinking, strategy=strategy, reason=reason.rstrip(". "), task=task)


def rewrite(head: str, thinking: str, texts: PromptSet = DEFAULT) -> str:
    """Ask for the reasoning steps as natural prose. head: without the reference report."""
    return head + texts.render("rewrite", thinking=thinking)


def final(
    head: str, reasoning: str, sections: Sequence[str] = ("findings", "impression"), texts: PromptSet = DEFAULT
) -> str:
    """Ask for the report. sections: the sections that the reply must contain."""
    return head + texts.render("final", reasoning=reasoning, sections=list(sections))


def judge(
    head: str,
    reasoning: str,
    name: str,
    answer: str,
    reference: str = "",
    verdict: str = "scored",
    texts: PromptSet = DEFAULT,
) -> str:
    """Ask the judge about a trace. name: what the answer is called; reference: the gold answer, if it is no report."""
    return head + texts.render(
        "judge",
        reasoning=reasoning,
        name=name,
        answer=answer,
        reference=reference,
        verdict=verdict,
        image=IMAGE in head,
    )


def closed_question(head: str, answer: str = "", texts: PromptSet = DEFAULT) -> str:
    """Ask for an interleaved answer to a closed question. answer: the gold answer, if the model is given it."""
    return head + texts.render("closed", answer=answer)


def open_question(head: str, answer: str = "", texts: PromptSet = DEFAULT) -> str:
    """Ask for an interleaved answer to an open question. answer: the gold answer, if the model is given it."""
    return head + texts.render("open", answer=answer)


def retry(fault: str, texts: PromptSet = DEFAULT) -> str:
    """Ask again after a reply that could not be used."""
    return texts.render("retry", fault=fault)


def thinking_text(steps: Sequence[tuple[str, str]]) -> str:
    """Steps (title, content) as later prompts show them, one line each."""
    return "\n".join(f"{title}: {content}" for title, content in steps)
