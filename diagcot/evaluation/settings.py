"""Settings of the evaluation's kinds."""

import os
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, PositiveInt, field_validator, model_validator

from diagcot.jobs.settings import Settings
from diagcot.serving.settings import ServerSettings
from diagcot.tasks.questions.wording import Wording

Closed = Literal["binary", "single", "multi", "view", "matching", "progression"]
Written = Literal["fg", "fg_i", "fs", "ig", "ig_i"]
Task = Literal["report", "grounding", "classification", "open", "grounding_pixels", Closed, Written]
"""Reports, boxes and labels as DiagCoT asks for them, and the question answering of CX-Mind (method.md 7.2)."""

CLOSED: tuple[str, ...] = get_args(Closed)
WRITTEN: tuple[str, ...] = get_args(Written)
ASKED = (*CLOSED, *WRITTEN, "open", "grounding_pixels")
"""Tasks whose samples are made by `diagcot.tasks.questions.questions`."""

_TOKENS = {"report": 1024}


class EvaluateSettings(Settings):
    """Greedy predictions of every model on the test split."""

    tasks: list[Task] = Field(["report", "grounding"], min_length=1)
    views: Literal["image", "study"] = "image"  # a sample for each film, or one for all of a study
    samples_per_shard: int | None = Field(None, ge=1)  # of each task: those with the smallest digests of their ids
    max_tokens: dict[Task, PositiveInt] = {}  # that a model may write: 1024 for a report and 512 else
    # Of classification: the probability of each label from Yes and No, 14 short requests a film, on the validate split, too,
    # where the thresholds are chosen at which a label counts as present.
    probabilities: bool = True
    wording: dict[str, list[str]] = {}  # of the questions, as in the `questions` stage that trained the model
    server: ServerSettings = ServerSettings()

    @model_validator(mode="after")
    def _worded(self) -> "EvaluateSettings":
        Wording(self.wording)
        return self

    def tokens(self, task: str) -> int:
        """Tokens that a model may write in a task."""
        given: dict[str, int] = {**_TOKENS, **dict(self.max_tokens.items())}
        return given.get(task, 512)


class JudgeSettings(Settings):
    """A local model's word on whether an answer says what the reference says, at temperature 0."""

    tasks: list[Task] = Field(["open"], min_length=1)
    max_tokens: int = Field(32, ge=8)  # a verdict is {"same": false}
    server: ServerSettings = ServerSettings()


class ReadingSettings(Settings):
    """What both kinds of models that read reports are told."""

    tasks: list[Literal["report", Written]] = Field(["report"], min_length=1)
    weights: Path | None = None  # the folder of all their folders (docs/evaluation.md)

    @field_validator("weights", mode="before")
    @classmethod
    def _settled(cls, path: str | None) -> str | None:
        """Without variables: the jobs may lack them. One that is not set stays, and is told when it is looked for."""
        return os.path.expandvars(path) if isinstance(path, str) else path


class ClinicalSettings(ReadingSettings):
    """Scores by models that read reports, each where its folder is there."""

    batch: int = Field(64, ge=1)  # answers between two looks at the clock


class GreenSettings(ReadingSettings):
    """Scores by GREEN's language model, at temperature 0."""

    words: int = Field(300, ge=1)  # of each report that it is shown, as in RadEval
    max_tokens: int = Field(1024, ge=16)
    server: ServerSettings = ServerSettings()


class AggregateSettings(Settings):
    """The metrics table and the report."""

    draws: int = Field(1000, ge=100)  # of the bootstrap
    examples: int = Field(6, ge=0)  # samples of each task shown in the report
    r2gen: bool = False  # reports by R2Gen's protocol as well, under names of their own
    java_s: float = Field(180, gt=0)  # how long the Java tokeniser may take
