"""Settings of the evaluation's two kinds."""

from typing import Literal

from pydantic import Field, PositiveInt

from diagcot.recipe import Settings
from diagcot.serving.settings import ServerSettings

Task = Literal["report", "grounding", "classification"]


class MaxTokens(Settings):
    """Tokens that a model may write in each task."""

    report: PositiveInt = 1024
    grounding: PositiveInt = 512
    classification: PositiveInt = 512


class EvaluateSettings(Settings):
    """Greedy predictions of every model on the test split."""

    tasks: list[Task] = Field(["report", "grounding"], min_length=1)
    views: Literal["image", "study"] = "image"  # a sample for each film, or one for all of a study
    samples_per_shard: int | None = Field(None, ge=1)  # of each task: those with the smallest digests of their ids
    max_tokens: MaxTokens = MaxTokens()
    server: ServerSettings = ServerSettings()


class AggregateSettings(Settings):
    """The metrics table and the report."""

    draws: int = Field(1000, ge=100)  # of the bootstrap
    examples: int = Field(6, ge=0)  # samples of each task shown in the report
    java_s: float = Field(180, gt=0)  # how long the Java tokeniser may take
