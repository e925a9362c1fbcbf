"""How much of the reasoning in a sample's answer is learned."""

from dataclasses import replace

from diagcot.tasks.prompts import reasoned
from diagcot.tasks.samples import Sample
from diagcot.text import layout
from diagcot.training.config.settings import Reasoning


def with_reasoning(sample: Sample, reasoning: Reasoning) -> Sample:
    """The sample with its reasoning kept, joined in one block before the last answer, or dropped before that answer.

    A sample whose answer has no reasoning stays as it is.
    """
    steps = layout.pairs(sample.answer)
    if reasoning == "kept" or not steps:
        return sample
    answer = steps[-1].answer
    if reasoning == "joined":
        answer = reasoned("\n".join(step.think for step in steps), answer)
    return replace(sample, messages=(*sample.messages[:-1], ("assistant", answer)))
