"""Prompts for the teacher and the verifier on the way to a chain of thought.

DiagCoT (arXiv:2509.06409), section on chain-of-thought generation; CX-Mind (arXiv:2508.03733), section on interleaved
reasoning. Every prompt begins with the images, the reference report and the question, and ends with what changes most,
so that the prefix cache of the server holds what all calls of a sample share. The wording is this project's own; the
JSON layouts of the replies are in `schemas`.
"""

from collections.abc import Sequence

from diagcot.tasks.prompts import IMAGE

STRATEGIES = ("new_paths", "verification", "correction", "backtracking")
"""The four strategies of a second attempt. Backtracking needs an earlier step to return to, so it is never the first."""

_HEAD = "<image>Reference report: {reference}\n"

_INIT = (
    "Read this chest X-ray as a radiologist would, region by region. Reason towards what the reference report says, but "
    "do not mention the report. Give your reasoning steps (title, content), then your conclusion ({conclusion}), then "
    "a check of the conclusion. Answer in JSON."
)
_CONCLUSION = {  # task -> what a conclusion contains
    "report": "findings and impression",
    "classification": "the labels that apply, and no other words",
    "grounding": "the boxes in the requested format, or that there are no such regions",
}
_LABEL = (
    "The reference report is the correct diagnosis.{answer} Write the reasoning, region by region, that leads from the "
    "X-ray to this diagnosis, as if you had found it yourself. Give your reasoning steps (title, content), the "
    "conclusion ({conclusion}) and a check of it. Answer in JSON."
)
_VERIFY = (
    "Conclusion to review: {conclusion}\n"
    "Does this conclusion contain every key finding of the reference report, add nothing, and reach the same impression? "
)
_VERDICT = {
    "reasoned": "Answer in JSON: first the reason, then the verdict, true or false.",
    "word": "Answer True or False.",
}
_RETHINK = (
    "Reasoning so far:\n{thinking}\n"
    "A reviewer found the conclusion wrong{reason}. First explain what went wrong. Then give new reasoning steps (title, "
    "content) and a new conclusion ({conclusion}). Do not mention the reference report. Answer in JSON. {strategy}"
)
STRATEGY_INSTRUCTIONS = {
    "new_paths": "Explore a new line of reasoning that you have not tried yet.",
    "verification": "Verify each of your statements against the X-ray.",
    "correction": "Find the exact mistakes and correct them.",
    "backtracking": "Return to an earlier step and continue from there.",
}
_REWRITE = (
    "Reasoning:\n{thinking}\n"
    "Rewrite this reasoning as a first-person train of thought, one line for each region, without headings. Leave out "
    "mistakes that were corrected. Do not mention a reference report."
)
_FINAL = (
    "Reasoning:\n{reasoning}\n"
    "Write the report that follows from this reasoning, in the style of the reference report. The findings describe "
    "what is seen{rest}. Answer in JSON."
)
_IMPRESSION = "; the impression summarises what it means"
_CLOSED = (
    "First look at the regions that the options are about and state what you see (look). Then assess each option "
    "separately: explain what on the X-ray supports or contradicts it, then state whether it is correct, true or false. "
    "Finish with a summary. Refer only to the X-ray, not to the reference report.{answer} "
    "Answer in JSON."
)
_OPEN = (
    "Describe what you observe. Then consider possible findings, both present and absent: for each give its name, your "
    "reasoning, and whether it is present, true or false. Finish with a summary. Refer only to the X-ray, not to the "
    "reference report.{answer} Answer in JSON."
)
_ANSWER = " The correct answer is {answer}."
_RETRY = "Your reply was rejected because {fault}. Answer again in the requested format."


def head(images: int, reference_report: str, question: str = "") -> str:
    """The common beginning of all prompts of a sample. question: the user's text, which reports do not need."""
    text = IMAGE * (images - 1) + _HEAD.format(reference=reference_report)
    # The teacher answers in JSON: instructions of the question about tags are not for it.
    lines = [line for line in question.replace(IMAGE, "").splitlines() if "<think>" not in line]
    return text + ("Question: " + "\n".join(lines) + "\n" if lines else "")


def init(head: str, task: str = "report") -> str:
    """Ask for the first reasoning and conclusion."""
    return head + _INIT.format(conclusion=_CONCLUSION[task])


def label(head: str, task: str = "report", answer: str = "") -> str:
    """Ask for reasoning that leads to the given diagnosis. answer: the gold answer, unless it is the reference report."""
    given = f" Its answer to the question is: {answer}." if answer else ""
    return head + _LABEL.format(answer=given, conclusion=_CONCLUSION[task])


def verify(head: str, conclusion: str, verdict: str = "reasoned") -> str:
    """Ask the verifier whether a conclusion agrees with the reference report."""
    return head + _VERIFY.format(conclusion=conclusion) + _VERDICT[verdict]


def rethink(head: str, thinking: str, strategy: str, reason: str = "", task: str = "report") -> str:
    """Ask for another attempt by a strategy. reason: why the verifier refused the conclusion, if it said so."""
    stated = f": {reason.rstrip('. ')}" if reason else ""
    return head + _RETHINK.format(
        thinking=thinking, reason=stated, conclusion=_CONCLUSION[task], strategy=STRATEGY_INSTRUCTIONS[strategy]
    )


def rewrite(head: str, thinking: str) -> str:
    """Ask for the reasoning steps as natural prose."""
    return head + _REWRITE.format(thinking=thinking)


def final(head: str, reasoning: str, sections: Sequence[str] = ("findings", "impression")) -> str:
    """Ask for the report. sections: the sections that the reply must contain."""
    return head + _FINAL.format(reasoning=reasoning, rest=_IMPRESSION if "impression" in sections else "")


def closed_question(head: str, answer: str = "") -> str:
    """Ask for an interleaved answer to a closed question. answer: the gold answer, if the model is given it."""
    return head + _CLOSED.format(answer=_ANSWER.format(answer=answer) if answer else "")


def open_question(head: str, answer: str = "") -> str:
    """Ask for an interleaved answer to an open question. answer: the gold answer, if the model is given it."""
    return head + _OPEN.format(answer=_ANSWER.format(answer=answer) if answer else "")


def retry(fault: str) -> str:
    """Ask again after a reply that could not be used."""
    return _RETRY.format(fault=fault)


def thinking_text(steps: Sequence[tuple[str, str]]) -> str:
    """Steps (title, content) as later prompts show them, one line each."""
    return "\n".join(f"{title}: {content}" for title, content in steps)
