"""Rewards written for other trainers, `path/to/file.py:function`, called as their own trainer calls them."""

import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diagcot.jobs import UserError
from diagcot.rewards.score import Reference, Reward, Score


def load(name: str, style: str) -> Reward:
    """The function of `file.py:function`, to be called in `style`: trl or easyr1.

    trl: `function(prompts=, completions=, **columns) -> [float or None]`, with the reference in the columns `reference`,
    `answer`, `solution` and `ground_truth`; None counts as 0. easyr1: `function(reward_inputs) -> [{"overall": …}]`,
    or, of versions until 2025, `function(predicts, ground_truths)`; with REWARD_TYPE = "sequential" in the file it is
    called for each sample by itself. Raises UserError where there is no such file or function.
    """
    return Foreign(name, style)


class Foreign:
    """A reward of another project. It pickles as its place and is loaded again where it is unpickled."""

    def __init__(self, name: str, style: str) -> None:
        self._place = name, style
        file, _, function = name.rpartition(":")
        module = _module(Path(file))
        found = getattr(module, function, None)
        if not callable(found):
            raise UserError(
                f"{file} has no function {function!r} for the reward", "name one that it has, file.py:function"
            )
        self._score = partial(_as_trl if style == "trl" else _as_easyr1, found)
        if style == "easyr1" and getattr(module, "REWARD_TYPE", "batch") == "sequential":
            self._score = partial(_each, self._score)

    def __call__(self, outputs: Sequence[str], references: Sequence[Reference], progress: float = 0.0) -> list[Score]:
        if not outputs:
            return []
        scores = self._score(list(outputs), [reference.answer for reference in references], progress)
        if len(scores) != len(outputs):
            raise UserError(
                f"the reward {self._place[0]} gave {len(scores)} scores for {len(outputs)} outputs",
                "let it give one for each, in order",
            )
        for score in scores:
            if "overall" not in score or not all(math.isfinite(value) for value in score.values()):
                raise UserError(
                    f"the reward {self._place[0]} gave a score without a finite `overall`", "let every score have one"
                )
        return scores

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return Foreign, self._place


def _module(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"reward_{file.stem}", file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise UserError(
            f"there is no Python file {file} for the reward", "give reward.name as path/to/file.py:function"
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file does
        raise UserError(
            f"the reward file {file} cannot be loaded: {type(error).__name__}: {error}", "mend it"
        ) from error
    return module


def _as_trl(
    function: Callable[..., Sequence[float | None]], outputs: list[str], answers: list[str], progress: float
) -> list[Score]:
    columns = dict.fromkeys(("reference", "answer", "solution", "ground_truth"), answers)
    state = SimpleNamespace(global_step=round(progress * 1_000_000), max_steps=1_000_000)
    values = function(prompts=[""] * len(outputs), completions=outputs, trainer_state=state, **columns)
    return [{"overall": float(value or 0.0)} for value in values]


def _as_easyr1(
    function: Callable[..., Any], outputs: list[str], answers: list[str], progress: float, sequential: bool = False
) -> list[Score]:
    required = [
        one
        for one in inspect.signature(function).parameters.values()
        if one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    if len(required) >= 2:
        found = function(outputs[0], answers[0]) if sequential else function(outputs, answers)
    else:
        rows = [
            {"response": output, "response_length": len(output.split()), "ground_truth": answer}
            for output, answer in zip(outputs, answers, strict=True)
        ]
        found = function(rows[0]) if sequential else function(rows)
    scores: Sequence[Mapping[str, Any]] = [found] if sequential else found
    return [{key: float(value) for key, value in score.items() if value is not None} for score in scores]


def _each(score: Callable[..., list[Score]], outputs: list[str], answers: list[str], progress: float) -> list[Score]:
    return [
        score([output], [answer], progress, sequential=True)[0] for output, answer in zip(outputs, answers, strict=True)
    ]
