"""What the teacher and the verifier are asked, to reach a chain of thought (method.md 4.1, 7.3).

Every prompt begins with the films, the reference report and the question, and ends with what changes most, so that the
prefix cache of the server holds what all calls of a sample share, and most of what the questions about a film share.
The words are this project's own; the layouts of the replies are in `schemas`.
"""

from collections.abc import Sequence

from diagcot.tasks.prompts import IMAGE

STRATEGIES = ("new_paths", "verification", "correction", "backtracking")
"""The four ways to think again. Backtracking needs something to go back to: it is not for the first step."""

_HEAD = "<image>Reference report: {reference}\n"

_INIT = (
    "Read this chest X-ray as a radiologist would, region by region, and let your thinking lead to what the reference "
    "report says, without naming it. Give the thinking steps (title, content), then the conclusion ({conclusion}), "
    "then a check of the conclusion. Answer in JSON."
)
_CONCLUSION = {  # task -> what a conclusion holds
    "report": "findings and impression",
    "classification": "the labels that apply, and no other words",
    "grounding": "the boxes as asked, or that there are no such regions",
}
_LABEL = (
    "The reference report is the correct diagnosis.{answer} Write the thinking, region by region, that leads from the "
    "X-ray to it, as if you had found it yourself. Give the thinking steps (title, content), the conclusion "
    "({conclusion}) and a check of it. Answer in JSON."
)
_VERIFY = (
    "Conclusion to review: {conclusion}\n"
    "Is every key finding of the reference in this conclusion, nothing added, and the impression the same? "
)
_VERDICT = {
    "reasoned": "Answer in JSON: the reason, then the verdict, true or false.",
    "word": "Answer True or False.",
}
_RETHINK = (
    "Thinking:\n{thinking}\n"
    "A reviewer found the conclusion wrong{why}. First check what went wrong, then give new thinking steps (title, "
    "content) and a new conclusion ({conclusion}), without naming the reference report. Answer in JSON. {strategy}"
)
_STRATEGY = {
    "new_paths": "Read the X-ray in a way that you have not tried yet.",
    "verification": "Test each of your statements against the X-ray.",
    "correction": "Find the exact mistakes and put them right.",
    "backtracking": "Go back to an earlier step and go on from there.",
}
_REWRITE = (
    "Thinking:\n{thinking}\n"
    "Tell this thinking as one person's natural train of thought, in the first person, one line for each region, "
    "without headings. Leave out mistakes that were mended. Do not mention a reference."
)
_FINAL = (
    "Thinking:\n{reasoning}\n"
    "Write the report that this thinking leads to, in the words of the reference: findings are what is seen{rest}. "
    "Answer in JSON."
)
_IMPRESSION = ", the impression is its meaning in brief"
_CLOSED = (
    "Judge each option on its own: think why the X-ray speaks for it or against it, then say whether it is right, true "
    "or false. At the end sum up. Speak of the X-ray alone, not of the reference.{told} Answer in JSON."
)
_OPEN = (
    "Say what you observe. Then weigh what is possible, what is there and also what is not: name it, think, then say "
    "whether it is there, true or false. At the end sum up. Speak of the X-ray alone, not of the reference.{told} "
    "Answer in JSON."
)
_TOLD = " The right answer is {answer}."
_AGAIN = "That cannot be used: {fault}. Answer again, as asked."


def head(films: int, guide: str, question: str = "") -> str:
    """What all prompts of a sample begin with. question: the user's text, which reports do not need."""
    told = IMAGE * (films - 1) + _HEAD.format(reference=guide)
    # The teacher answers in JSON: what the question says about tags is not for it.
    lines = [line for line in question.replace(IMAGE, "").splitlines() if "<think>" not in line]
    return told + ("Question: " + "\n".join(lines) + "\n" if lines else "")


def init(head: str, task: str = "report") -> str:
    return head + _INIT.format(conclusion=_CONCLUSION[task])


def label(head: str, task: str = "report", answer: str = "") -> str:
    """answer: the gold answer, where the reference report is not it."""
    told = f" The answer that it gives is: {answer}." if answer else ""
    return head + _LABEL.format(answer=told, conclusion=_CONCLUSION[task])


def verify(head: str, conclusion: str, verdict: str = "reasoned") -> str:
    return head + _VERIFY.format(conclusion=conclusion) + _VERDICT[verdict]


def rethink(head: str, thinking: str, strategy: str, why: str = "", task: str = "report") -> str:
    """why: the reviewer's reason, where there is one."""
    told = f": {why.rstrip('. ')}" if why else ""
    return head + _RETHINK.format(
        thinking=thinking, why=told, conclusion=_CONCLUSION[task], strategy=_STRATEGY[strategy]
    )


def rewrite(head: str, thinking: str) -> str:
    return head + _REWRITE.format(thinking=thinking)


def final(head: str, reasoning: str, names: Sequence[str] = ("findings", "impression")) -> str:
    """names: the sections that are asked for."""
    return head + _FINAL.format(reasoning=reasoning, rest=_IMPRESSION if "impression" in names else "")


def closed(head: str, answer: str = "") -> str:
    """answer: the gold answer, where the model is told it."""
    return head + _CLOSED.format(told=_TOLD.format(answer=answer) if answer else "")


def opened(head: str, answer: str = "") -> str:
    return head + _OPEN.format(told=_TOLD.format(answer=answer) if answer else "")


def again(fault: str) -> str:
    """What follows a reply that could not be used."""
    return _AGAIN.format(fault=fault)


def thinking_text(steps: Sequence[tuple[str, str]]) -> str:
    """Steps (title, content) as the later prompts show them, one line each."""
    return "\n".join(f"{title}: {content}" for title, content in steps)
