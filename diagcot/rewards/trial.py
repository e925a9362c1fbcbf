"""Calls a reward of the user's own once: `python -m diagcot.rewards.trial file.py:function style task`."""

import io
import sys
from collections.abc import Sequence

from diagcot.jobs.environment import own_code
from diagcot.rewards import external
from diagcot.rewards.score import Reference

ANSWERS = {
    "report": "Findings: The lungs are clear. Impression: No acute disease.",
    "classification": "Cardiomegaly, Edema",
    "grounding": "Opacity: [100, 200, 300, 400]",
    "grounding_pixels": "[100, 200, 300, 400]",
    "closed": "B) Edema",
    "open": "Cardiomegaly, Edema",
}
"""Task -> an answer as its references have them; other tasks have a closed question's."""

_PROMPT = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Write the report."}]},)


def check(name: str, style: str, task: str) -> None:
    """Import the file of a reward and call its function for one rollout of `task`.

    Raises OwnCodeError if that fails or takes more than two minutes.
    """
    own_code.check("diagcot.rewards.trial", "reward", name, style, task)


def main(arguments: Sequence[str]) -> int:
    """Score a reply that is right and one that is empty. Returns the exit code."""
    name, style, task = arguments
    answer = ANSWERS.get(task, ANSWERS["closed"])
    replies = [f"<think>The image shows it.</think>\n<answer>{answer}</answer>", ""]
    facts = [external.RolloutFacts(_PROMPT, _image(), tuple(range(len(reply.split())))) for reply in replies]
    references = [Reference(answer)] * len(replies)
    return own_code.trial(lambda: external.load(name, style)(replies, references, 0.0, facts))


def _image() -> tuple[bytes, ...]:
    """A black image as a JPEG file; none where Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError:
        return ()
    data = io.BytesIO()
    Image.new("L", (64, 64)).save(data, "JPEG")
    return (data.getvalue(),)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
