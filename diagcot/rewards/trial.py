"""Calls the reward of another project once, in a process of its own: `python -m diagcot.rewards.trial file.py:function style`.

A file that cannot be imported, a function that raises an error, and one that never returns are known when a recipe is
planned, and not when servers and trainers have started.
"""

import io
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from diagcot.jobs import OwnCodeError, UserError
from diagcot.jobs.environment import variables
from diagcot.rewards import external
from diagcot.rewards.score import Reference

TIMEOUT_S = 120
FAILED = 3
"""Exit code after a message for the user."""
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
    file = Path(name.rpartition(":")[0])
    if said := _tried(name, style, task, file.stat().st_mtime_ns if file.exists() else 0):
        raise OwnCodeError(said)


@cache
def _tried(name: str, style: str, task: str, written: int) -> str:
    """What went wrong with the file of that time; empty if nothing did."""
    command = [sys.executable, "-m", "diagcot.rewards.trial", name, style, task]
    environment = variables.child() | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return (
            f"the reward {name} gave no score of one rollout in {TIMEOUT_S} s: fix it, or what its file does on import"
        )
    if done.returncode == 0:
        return ""
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return last if done.returncode == FAILED else f"the reward {name} ends the process that calls it ({last}): fix it"


def main(arguments: Sequence[str]) -> int:
    """Score a reply that is right and one that is empty. Returns 0, or FAILED after one line on stderr."""
    name, style, task = arguments
    answer = ANSWERS.get(task, ANSWERS["closed"])
    replies = [f"<think>The image shows it.</think>\n<answer>{answer}</answer>", ""]
    facts = [external.RolloutFacts(_PROMPT, _image(), tuple(range(len(reply.split())))) for reply in replies]
    try:
        external.load(name, style)(replies, [Reference(answer)] * len(replies), 0.0, facts)
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return FAILED
    return 0


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
