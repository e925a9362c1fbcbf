"""Tags as DiagCoT's and CX-Mind's rewards read them: in lower case, and further tags inside a block are overlooked.

Each function is an expression of the releases, in its docstring, read tag by tag: the expressions themselves take quadratic
to exponential time on texts that loop.
"""

import re
from collections.abc import Iterator

_OPENING, _CLOSING = "<think>", "</answer>"
_JOINT = re.compile(r"</think>\s*<answer>")


def is_single(output: str) -> bool:
    """`<think>.*?</think>\\s*<answer>.*?</answer>`: a think and an answer; a blank or a line end around them is a fault."""
    if not (output.startswith(_OPENING) and output.endswith(_CLOSING)):
        return False
    joint = _JOINT.search(output, len(_OPENING))
    return joint is not None and joint.end() <= len(output) - len(_CLOSING)


def is_interleaved(output: str) -> bool:
    """`(?:<think>.*?</think>\\s*<answer>.*?</answer>\\s*)+`. A single pair of it may span all others."""
    return is_single(output.rstrip())


def answer(output: str) -> str | None:
    """`<answer>(.*?)</answer>`: text of the first answer block, None if there is none."""
    block = next(_blocks(output, "answer"), None)
    return None if block is None else block.strip()


def answers(output: str) -> list[str]:
    """`<answer>(.*?)</answer>`: texts of all answer blocks."""
    return list(_blocks(output, "answer"))


def thinks(output: str) -> list[str]:
    """`<think>(.*?)</think>`: texts of the closed think blocks."""
    return list(_blocks(output, "think"))


def _blocks(output: str, name: str) -> Iterator[str]:
    opening, closing, end = f"<{name}>", f"</{name}>", 0
    while (at := output.find(opening, end)) >= 0 and (stop := output.find(closing, at + len(opening))) >= 0:
        yield output[at + len(opening) : stop]
        end = stop + len(closing)
