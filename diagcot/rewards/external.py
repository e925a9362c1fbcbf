"""Rewards written for other trainers, `path/to/file.py:function`, called as their own trainer calls them."""

import asyncio
import importlib.util
import inspect
import math
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diagcot.jobs import OwnCodeError
from diagcot.jobs.environment import code
from diagcot.rewards.score import Reference, Reward, Score

REFERENCE_COLUMNS = ("reference", "answer", "solution", "ground_truth")
"""Columns in which a TRL reward looks for the reference."""


def load(name: str, style: str) -> Reward:
    """The function of `file.py:function`, to be called in `style`: trl, trl_messages or easyr1.

    trl: `function(prompts=, completions=, **columns) -> [float or None]`, which may be a coroutine, with the reference in all
    of REFERENCE_COLUMNS; None counts as 0. A completion is a text; with trl_messages it is a list of one message. easyr1:
    `function(reward_inputs) -> [{"overall": …}]`, or, of versions until 2025, `function(predicts, ground_truths)`; with
    REWARD_TYPE = "sequential" in the file it is called for each sample separately. Raises OwnCodeError if there is no such
    file or function.
    """
    return ExternalReward(name, style)


class ExternalReward:
    """A reward of another project. It pickles as its name and is loaded again where it is unpickled."""

    def __init__(self, name: str, style: str) -> None:
        self._name, self._style = name, style
        file, _, function = name.rpartition(":")
        module = _module(Path(file))
        score = getattr(module, function, None)
        if not callable(score):
            raise OwnCodeError(
                f"the reward file {file} has no function {function!r}: set reward.name to path/to/file.py:function"
            )
        self._score: Callable[..., Any] = score
        self._sequential = style == "easyr1" and getattr(module, "REWARD_TYPE", "batch") == "sequential"

    def __call__(self, outputs: Sequence[str], references: Sequence[Reference], progress: float = 0.0) -> list[Score]:
        """Scores of the outputs.

        Raises OwnCodeError if the function raises an error or does not give a finite `overall` for each output.
        """
        if not outputs:
            return []
        try:
            scores = self._called(outputs, [reference.answer for reference in references], progress)
        except Exception as error:  # whatever the function does
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise OwnCodeError(
                f"the reward {self._name} raised {type(error).__name__}: {error} ({place.filename}:{place.lineno}): fix it"
            ) from error
        if len(scores) != len(outputs):
            raise OwnCodeError(
                f"the reward {self._name} returned {len(scores)} scores for {len(outputs)} outputs: "
                "it must return one for each output, in their order"
            )
        if not all("overall" in score and all(map(math.isfinite, score.values())) for score in scores):
            raise OwnCodeError(
                f"the reward {self._name} returned a score without a finite `overall`: every score must have one"
            )
        return scores

    def _called(self, outputs: Sequence[str], answers: list[str], progress: float) -> list[Score]:
        if self._style == "trl":
            return _as_trl(self._score, list(outputs), answers, progress)
        if self._style == "trl_messages":
            messages = [[{"role": "assistant", "content": output}] for output in outputs]
            return _as_trl(self._score, messages, answers, progress)
        if self._sequential:
            return [
                _as_easyr1(self._score, [output], [answer], True)[0]
                for output, answer in zip(outputs, answers, strict=True)
            ]
        return _as_easyr1(self._score, list(outputs), answers)

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return ExternalReward, (self._name, self._style)


def _module(file: Path) -> Any:
    copied = Path(os.environ[code.VARIABLE]) / file.name if code.VARIABLE in os.environ else file
    file = copied if copied.is_file() else file  # in a job: as it was at submission
    spec = importlib.util.spec_from_file_location(f"reward_{file.stem}", file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise OwnCodeError(
            f"there is no Python file {file} for the reward: set reward.name to path/to/file.py:function"
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file does
        raise OwnCodeError(
            f"the reward file {file} cannot be loaded ({type(error).__name__}: {error}): fix it"
        ) from error
    return module


def _as_trl(
    function: Callable[..., Any], completions: Sequence[Any], answers: list[str], progress: float
) -> list[Score]:
    columns = dict.fromkeys(REFERENCE_COLUMNS, answers)
    state = SimpleNamespace(global_step=round(progress * 1_000_000), max_steps=1_000_000)
    prompts: list[Any] = ["" if isinstance(completion, str) else [] for completion in completions]
    values = function(prompts=prompts, completions=completions, trainer_state=state, **columns)
    if inspect.iscoroutine(values):
        values = asyncio.run(values)
    return [{"overall": float(value or 0.0)} for value in values]


def _as_easyr1(
    function: Callable[..., Any], outputs: list[str], answers: list[str], sequential: bool = False
) -> list[Score]:
    """Scores of the outputs; `sequential`: of the single output, which the function takes as it is, not as a list."""
    if _takes_two(function):
        returned = function(outputs[0], answers[0]) if sequential else function(outputs, answers)
    else:
        rows = [
            {"response": output, "response_length": len(output.split()), "ground_truth": answer}
            for output, answer in zip(outputs, answers, strict=True)
        ]
        returned = function(rows[0]) if sequential else function(rows)
    scores: Sequence[Mapping[str, Any]] = [returned] if sequential else returned
    return [{key: float(value) for key, value in score.items() if value is not None} for score in scores]


def _takes_two(function: Callable[..., Any]) -> bool:
    """True if a function requires two positional arguments: (predicts, ground_truths)."""
    positional = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return len(positional) >= 2
