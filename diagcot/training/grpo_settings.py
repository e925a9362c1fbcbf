"""Typed settings of kind `grpo`. Imported while planning, so nothing heavy is imported here."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from diagcot.recipe import Settings
from diagcot.rewards.names import MODES
from diagcot.serving.settings import ServerSettings
from diagcot.training.settings import Component, DeepSpeedSettings, FreezePolicy


class RewardSettings(Settings):
    """Which reward, see `diagcot.rewards.names`. `alpha` and `margin` are the gate's (closed and open only).

    A `name` like `path/to/file.py:function` is a reward of another project, called in `style`.
    """

    name: str = "report"
    mode: str = ""
    style: Literal["", "trl", "easyr1"] = ""
    alpha: float = Field(0.2, gt=0, le=1)
    margin: float = 0.0
    workers: int = Field(1, ge=1, description="processes that score rollouts")

    @field_validator("name")
    @classmethod
    def _whole_path(cls, name: str) -> str:
        file, colon, function = name.rpartition(":")
        return f"{Path(file).resolve()}:{function}" if colon else name

    @model_validator(mode="after")
    def _known(self) -> "RewardSettings":
        if ".py:" in self.name:
            if not self.style or self.mode:
                raise ValueError(f"reward {self.name} needs a style, trl or easyr1, and no mode")
            return self
        if self.name not in MODES:
            raise ValueError(f"unknown reward {self.name!r}; known: {', '.join(MODES)}, or path/to/file.py:function")
        if self.style:
            raise ValueError(f"reward {self.name} is this project's own and has no style")
        if self.mode and self.mode not in MODES[self.name]:
            raise ValueError(f"reward {self.name} has no mode {self.mode!r}; it has {', '.join(MODES[self.name])}")
        return self

    @property
    def chosen_mode(self) -> str:
        """The mode, or the style of a reward of another project."""
        return self.style or self.mode or MODES[self.name][0]


class ClipSettings(Settings):
    """Bounds of the policy ratio (method.md 5.1)."""

    low: float = Field(0.2, gt=0, lt=1)
    high: float = Field(0.3, gt=0)
    dual: float = Field(3.0, gt=1)


class GrpoSettings(FreezePolicy):
    """Kind `grpo` (method.md 5.1, 8.2). Defaults are DiagCoT's report run.

    A step rolls out `samples` answers to each of `prompts` prompts and updates the policy once for every
    `deepspeed.global_batch` of them; `deepspeed.steps`, `epochs` (over the prompts) and `save_every` count these steps.
    """

    trainable: tuple[Component, ...] = ("language_model",)
    reward: RewardSettings = RewardSettings()
    task: str = Field("report", description="prompts made from role `shards`; role `samples` brings its own")
    split: str = Field("train", description="split of the shards that prompts are taken from: train or validate")
    views: Literal["image", "study"] = Field("image", description="a prompt for each film, or one for all of a study")
    prompts: int = Field(4, ge=1, description="prompts a step")
    samples: int = Field(8, ge=2, description="rollouts of each prompt, the group")
    max_tokens: int = Field(1024, ge=1, description="tokens of a rollout")
    temperature: float = Field(0.9, gt=0)
    top_p: float = Field(0.99, gt=0, le=1)
    kl: float = Field(0.05, ge=0, description="weight of the k3 term; 0 needs no reference model")
    clip: ClipSettings = ClipSettings()
    deepspeed: DeepSpeedSettings = DeepSpeedSettings(
        global_batch=8, learning_rate=1e-6, schedule="constant", weight_decay=1e-2, epochs=1, save_every=50, keep=3
    )
    server: ServerSettings = ServerSettings(gpu_memory_utilization=0.5)
    engines: int = Field(1, ge=1, description="vLLM servers a node; its GPUs are shared out among them")
    max_gap: float = Field(
        0.02,
        gt=0,
        description="largest mean |log p(policy) - log p(engine)| of rollout tokens, nats; more ends the stage",
    )
    object_store_mb: int = Field(
        80, ge=76, description="Ray's shared memory a node; rollouts are text, so little is enough"
    )
    start_timeout_s: float = Field(1800, gt=0, description="deadline for Ray and the servers to be ready")
    image_cache_mb: int = Field(1024, ge=0, description="host memory a rank for prepared films")

    @field_validator("split")
    @classmethod
    def _no_test(cls, value: str) -> Literal["train", "validate"]:
        if value == "test":
            raise ValueError("the test split is for evaluation: a policy trained on it has no honest score; use train")
        if value not in ("train", "validate"):
            raise ValueError(f"unknown split {value!r}; use train or validate")
        return value  # type: ignore[return-value]

    @model_validator(mode="after")
    def _batches_divide(self) -> "GrpoSettings":
        rollouts = self.prompts * self.samples
        if rollouts % self.deepspeed.global_batch:
            raise ValueError(
                f"deepspeed.global_batch {self.deepspeed.global_batch} does not divide the {rollouts} rollouts of a"
                f" step ({self.prompts} prompts x {self.samples} samples)"
            )
        if self.max_tokens >= self.server.max_model_len:
            raise ValueError(
                f"max_tokens {self.max_tokens} leaves no room for a prompt; max_model_len is {self.server.max_model_len}"
            )
        return self

    @property
    def updates(self) -> int:
        """Optimiser steps in a step."""
        return self.prompts * self.samples // self.deepspeed.global_batch
