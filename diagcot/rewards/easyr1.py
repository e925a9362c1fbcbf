"""This project's rewards for EasyR1: `reward_function: …/diagcot/rewards/easyr1.py:report`.

A function takes the call of current EasyR1, `(reward_inputs) -> [{"overall": …}]` with `response` and `ground_truth` in each
input, and that of DiagCoT's copy, `(predicts, ground_truths)`. Settings go into `reward_function_kwargs`: `mode`
(`diagcot.rewards.names`), `corpus`, a text file with a training reference on each line (the clinical report reward needs
one), and `progress`, 0 to 1. `closed` and `open` return the base reward and the gated terms separately, as CX-Mind's reward
manager adds them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from diagcot.rewards.exported import cached
from diagcot.rewards.score import Reference, Score

REWARD_NAME = "diagcot"
REWARD_TYPE = "batch"


def _scores(
    name: str,
    reward_inputs: Sequence[Mapping[str, Any]] | Sequence[str],
    ground_truths: Sequence[str] | None,
    mode: str = "",
    corpus: str = "",
    progress: float = 0.0,
) -> list[Score]:
    if ground_truths is None:
        outputs = [str(row["response"]) for row in reward_inputs]  # type: ignore[index]
        ground_truths = [str(row["ground_truth"]) for row in reward_inputs]  # type: ignore[index]
    else:
        outputs = [str(output) for output in reward_inputs]
    return cached(name, mode, corpus)(outputs, [Reference(str(truth)) for truth in ground_truths], progress)


def report(reward_inputs: Any, ground_truths: Any = None, **settings: Any) -> list[Score]:
    """Scores of reports."""
    return _scores("report", reward_inputs, ground_truths, **settings)


def classification(reward_inputs: Any, ground_truths: Any = None, **settings: Any) -> list[Score]:
    """Scores of lists of CheXpert labels."""
    return _scores("classification", reward_inputs, ground_truths, **settings)


def grounding(reward_inputs: Any, ground_truths: Any = None, **settings: Any) -> list[Score]:
    """Scores of boxes, 0 to 1000."""
    return _scores("grounding", reward_inputs, ground_truths, **settings)


def grounding_pixels(reward_inputs: Any, ground_truths: Any = None, **settings: Any) -> list[Score]:
    """Scores of boxes in pixels."""
    return _scores("grounding_pixels", reward_inputs, ground_truths, **settings)


def closed(reward_inputs: Any, ground_truths: Any = None, **settings: Any) -> list[Score]:
    """Base scores of interleaved traces about a closed question."""
    return _scores("closed", reward_inputs, ground_truths, **settings)


def open(reward_inputs: Any, ground_truths: Any = None, **settings: Any) -> list[Score]:
    """Base scores of interleaved traces about an open question."""
    return _scores("open", reward_inputs, ground_truths, **settings)
