"""What of the reasoning in a sample's answer is learned."""

from dataclasses import replace

import pytest

from diagcot.tasks.samples import ImageRef, Sample
from diagcot.text import layout
from diagcot.training.data.reasoning import with_reasoning

CLOSED = (
    "<think>no line</think><answer>A) ❌</answer>\n<think>a tube</think><answer>B) ✅</answer>\n"
    "<think>so B</think><answer>B) ✅</answer>"
)
TRACE = "<think>the lungs\nare clear</think>\n<answer>findings : clear lungs .</answer>"
PLAIN = "findings : clear lungs ."


def sample(answer: str) -> Sample:
    return Sample(
        "d/s/i",
        "report",
        "d/s",
        (ImageRef("a.h5", 0),),
        (("user", "<image>Look."), ("assistant", answer)),
        {"by": "init"},
    )


@pytest.mark.parametrize(
    ("answer", "joined", "dropped"),
    [
        (CLOSED, "<think>no line\na tube\nso B</think>\n<answer>B) ✅</answer>", "B) ✅"),
        (TRACE, TRACE, PLAIN),
        (PLAIN, PLAIN, PLAIN),
    ],
)
def test_reasoning_is_kept_joined_or_dropped(answer: str, joined: str, dropped: str) -> None:
    before = sample(answer)
    assert with_reasoning(before, "kept") == before
    for how, wanted in (("joined", joined), ("dropped", dropped)):
        after = with_reasoning(before, how)  # type: ignore[arg-type]
        assert after.answer == wanted
        assert replace(after, messages=before.messages) == before and after.prompt == before.prompt
    assert joined == answer == PLAIN or layout.is_single(joined)
