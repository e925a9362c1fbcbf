"""Rewards written for other trainers, `path/to/file.py:function`, called as their own trainer calls them."""

import asyncio
import inspect
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diagcot.jobs.environment import own_code
from diagcot.rewards.score import Reference, Score

REFERENCE_COLUMNS = ("reference", "answer", "solution", "ground_truth")
"""Columns in which a TRL reward looks for the reference."""


@dataclass(frozen=True)
class RolloutFacts:
    """What other trainers tell a reward of a rollout beside its text and its reference.

    prompt: its messages, each with `role` and the parts of its `content`, images without their pixels. images: JPEG files.
    tokens: ids of the reply, its end token included. columns: what else the data set holds of the sample.
    """

    prompt: Sequence[Mapping[str, Any]] = ()
    images: tuple[bytes, ...] = ()
    tokens: tuple[int, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)


def load(name: str, style: str) -> "ExternalReward":
    """The function of `file.py:function`, to be called in `style`: trl, trl_messages or easyr1.

    trl: `function(prompts=, completions=, completion_ids=, **columns) -> [float or None]`, which may be a coroutine, with the
    reference in all of REFERENCE_COLUMNS, and `image` and `images` as Pillow's; None counts as 0. Prompts and completions are
    texts; with trl_messages they are lists of messages. easyr1:
    `function(reward_inputs) -> [{"overall": …}]`, or, of versions until 2025, `function(predicts, ground_truths)`; with
    REWARD_TYPE = "sequential" in the file it is called for each sample separately. Raises OwnCodeError if there is no such
    file or function.
    """
    return ExternalReward(name, style)


class ExternalReward:
    """A reward of another project. It pickles as its name and is loaded again where it is unpickled."""

    def __init__(self, name: str, style: str) -> None:
        self._name, self._style = name, style
        module = own_code.module(Path(name.rpartition(":")[0]), "reward")
        self._score = own_code.function(module, name, "reward")
        self._sequential = style == "easyr1" and getattr(module, "REWARD_TYPE", "batch") == "sequential"

    def __call__(
        self,
        outputs: Sequence[str],
        references: Sequence[Reference],
        progress: float = 0.0,
        facts: Sequence[RolloutFacts] = (),
    ) -> list[Score]:
        """Scores of the outputs. facts: of each output; without them functions get empty prompts, and no ids or images.

        Raises OwnCodeError if the function raises an error or does not give a finite `overall` for each output.
        """
        if not outputs:
            return []
        answers = [reference.answer for reference in references]
        return own_code.scores(
            "reward", self._name, len(outputs), lambda: self._called(outputs, answers, progress, facts)
        )

    def _called(
        self, outputs: Sequence[str], answers: list[str], progress: float, facts: Sequence[RolloutFacts]
    ) -> list[Any]:
        if self._style in ("trl", "trl_messages"):
            return _as_trl(self._score, list(outputs), answers, progress, facts, self._style == "trl_messages")
        lengths = [len(fact.tokens) for fact in facts] or [len(output.split()) for output in outputs]
        if self._sequential:
            return [
                _as_easyr1(self._score, [output], [answer], [length], True)[0]
                for output, answer, length in zip(outputs, answers, lengths, strict=True)
            ]
        return _as_easyr1(self._score, list(outputs), answers, lengths)

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return ExternalReward, (self._name, self._style)


def _as_trl(
    function: Callable[..., Any],
    outputs: list[str],
    answers: list[str],
    progress: float,
    facts: Sequence[RolloutFacts],
    messages: bool,
) -> list[Any]:
    """Scores by the call of TRL's trainer (trl/trainer/grpo_trainer.py: _calculate_rewards)."""
    images = [[_picture(data) for data in fact.images] for fact in facts]
    prompts: list[Any] = [[] if messages else "" for _ in outputs]
    if facts:
        prompts = [_prompt(fact, own, messages) for fact, own in zip(facts, images, strict=True)]
    names = dict.fromkeys(name for fact in facts for name in fact.columns)
    columns: dict[str, Any] = {name: [fact.columns.get(name) for fact in facts] for name in names}
    if facts:
        columns |= {"completion_ids": [list(fact.tokens) for fact in facts], "images": images}
        columns["image"] = [own[0] if own else None for own in images]
    columns |= dict.fromkeys(REFERENCE_COLUMNS, answers)
    values = function(
        **columns
        | {
            "prompts": prompts,
            "completions": [[{"role": "assistant", "content": text}] for text in outputs] if messages else outputs,
            "trainer_state": SimpleNamespace(global_step=round(progress * 1_000_000), max_steps=1_000_000),
            "log_extra": _not_logged,
            "log_metric": _not_logged,
        }
    )
    if inspect.iscoroutine(values):
        values = asyncio.run(values)
    return [0.0 if value is None else value for value in values]


def _prompt(facts: RolloutFacts, images: Sequence[Any], messages: bool) -> Any:
    """The prompt as messages with their images, or its text without them."""
    if not messages:
        parts = [part for message in facts.prompt for part in message["content"]]
        return "\n".join(part["text"] for part in parts if part["type"] == "text")
    pixels = iter(images)
    return [
        {
            **message,
            "content": [
                part | ({"image": next(pixels)} if part["type"] == "image" else {}) for part in message["content"]
            ],
        }
        for message in facts.prompt
    ]


def _picture(data: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(data), formats=["JPEG"])


def _not_logged(*_: Any) -> None:
    """Where TRL takes further figures of a reward."""


def _as_easyr1(
    function: Callable[..., Any],
    outputs: list[str],
    answers: list[str],
    lengths: Sequence[int],
    sequential: bool = False,
) -> list[Any]:
    """Scores of the outputs; `sequential`: of the single output, which the function takes as it is, not as a list."""
    if _takes_two(function):
        returned = function(outputs[0], answers[0]) if sequential else function(outputs, answers)
    else:
        rows = [
            {"response": output, "response_length": length, "ground_truth": answer}
            for output, answer, length in zip(outputs, answers, lengths, strict=True)
        ]
        returned = function(rows[0]) if sequential else function(rows)
    return [returned] if sequential else list(returned)


def _takes_two(function: Callable[..., Any]) -> bool:
    """True if a function requires two positional arguments: (predicts, ground_truths)."""
    positional = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return len(positional) >= 2
