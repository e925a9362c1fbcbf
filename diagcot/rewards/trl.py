"""This project's rewards for TRL: `GRPOTrainer(reward_funcs=[report], …)` or `--reward_funcs diagcot.rewards.trl.report`.

A function takes TRL's call, `(prompts=, completions=, **columns) -> [float]`; completions are texts or conversations. The
reference is the column `reference`, `answer`, `solution` or `ground_truth`. Training progress comes from TRL's state, and the
mean of every component goes to TRL's log. `reward(…)` builds functions for other modes.
"""

from collections.abc import Callable, Sequence
from typing import Any

from diagcot.rewards.exported import cached
from diagcot.rewards.external import REFERENCE_COLUMNS
from diagcot.rewards.gate import Gate
from diagcot.rewards.names import GATED
from diagcot.rewards.score import Reference

Function = Callable[..., list[float]]


def reward(name: str, mode: str = "", corpus: str = "") -> Function:
    """A function for TRL. `corpus`: a text file with a training reference on each line (the clinical report reward).

    `closed` and `open` have a gate that follows the batches of this process.
    """
    gate = Gate() if name in GATED else None

    def score(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        column = next((known for known in REFERENCE_COLUMNS if known in columns), None)
        if column is None:
            raise ValueError(f"the reward {name} needs the reference in a column: {', '.join(REFERENCE_COLUMNS)}")
        references = [Reference(str(answer)) for answer in columns[column]]
        state = columns.get("trainer_state")
        steps = getattr(state, "max_steps", 0) or 0
        progress = min(1.0, state.global_step / steps) if state is not None and steps > 0 else 0.0
        scores = cached(name, mode, corpus)([_text(completion) for completion in completions], references, progress)
        scores = gate.apply(scores) if gate else scores
        log = columns.get("log_metric")
        if log is not None and scores:
            for part in scores[0]:
                log(f"{name}/{part}", sum(row[part] for row in scores) / len(scores))
        return [row["overall"] for row in scores]

    score.__name__ = score.__qualname__ = name
    return score


def _text(completion: Any) -> str:
    """The text of a completion: a string, or messages of which the last one counts."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


report = reward("report")
classification = reward("classification")
grounding = reward("grounding")
grounding_pixels = reward("grounding_pixels")
closed = reward("closed")
open = reward("open")
