"""Tags as DiagCoT's rewards read them: in lower case, and further tags inside a block are overlooked."""

import re

_SINGLE = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)


def is_single(output: str) -> bool:
    """True if the output is a think and an answer; a blank before or a line end after them is a fault."""
    return _SINGLE.fullmatch(output) is not None


def answer(output: str) -> str | None:
    """Text of the first answer block, None if there is none."""
    block = _ANSWER.search(output)
    return block.group(1).strip() if block else None


def thinks(output: str) -> list[str]:
    """Texts of the closed think blocks."""
    return _THINK.findall(output)
