"""Typed settings of kind `grpo`. Imported while planning, so nothing heavy is imported here."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from diagcot.jobs import UserError
from diagcot.jobs.settings import Settings
from diagcot.rewards.names import MODES
from diagcot.serving.settings import ServerSettings
from diagcot.training.config.settings import Component, DeepSpeedSettings, FreezePolicy


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
    dual: float | None = Field(3.0, gt=1, description="a negative advantage costs at most this often; null: no bound")


class MixSettings(Settings):
    """Share of a step's prompts that come from role `mix`: `start` at first, `end` from the part `until` of the run."""

    start: float = Field(0.0, ge=0, le=1)
    end: float = Field(0.0, ge=0, le=1)
    until: float = Field(1.0, gt=0, le=1)

    def share(self, progress: float) -> float:
        """At `progress`, 0 to 1; a straight line in between."""
        return self.start + (self.end - self.start) * min(1.0, progress / self.until)


class ValidationSettings(Settings):
    """Prompts that are rolled out and scored and never trained on; of CX-Mind's sampling (method.md 8.2)."""

    prompts: int = Field(0, ge=0, description="how many at most; 0 validates nothing")
    split: Literal["held_out", "train", "validate"] = Field(
        "held_out", description="held_out: patients of `split` that are then left out of training; or another split"
    )
    share: float = Field(0.1, gt=0, lt=1, description="of the patients, held out by the hash of their name")
    every: int | None = Field(None, ge=1, description="steps; None validates before the first step and after the last")
    temperature: float = Field(0.5, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)


class GrpoSettings(FreezePolicy):
    """Kind `grpo` (method.md 5.1, 8.2). Defaults are DiagCoT's report run.

    A step rolls out `group_size` answers to each of `prompts_per_step` prompts and updates the policy once for every
    `deepspeed.global_batch` of them; `deepspeed.steps`, `epochs` (over the prompts) and `save_every` count these steps.
    """

    renamed: ClassVar[Mapping[str, str]] = {
        "samples": "group_size",
        "prompts": "prompts_per_step",
        "scale": "normalize_advantages",
        "loss": "loss_aggregation",
        "correction": "importance_cap",
        "overlap": "async_rollouts",
        "kl": "kl_coef",
        "resample": "max_resample_rounds",
    }

    trainable: tuple[Component, ...] = ("language_model",)
    reward: RewardSettings = RewardSettings()
    rewards: dict[str, RewardSettings] = Field({}, description="reward of the samples of a task, where not `reward`")
    carry_gate: bool = Field(False, description="start from the gate of the GRPO stage that made the model")
    task: str = Field("report", description="prompts made from role `shards`; role `samples` brings its own")
    split: str = Field("train", description="split of the shards that prompts are taken from: train or validate")
    views: Literal["image", "study"] = Field("image", description="a prompt for each film, or one for all of a study")
    augment: int = Field(
        0, ge=0, le=10, description="changed copies of each grounding prompt with boxes (method.md 2.4)"
    )
    mix: MixSettings | None = Field(None, description="other prompts among these, from role `mix`")
    prompts_per_step: int = Field(4, ge=1, description="prompts a step")
    group_size: int = Field(8, ge=2, description="rollouts of each prompt, the group")
    max_tokens: int = Field(1024, ge=1, description="tokens of a rollout")
    temperature: float = Field(0.9, gt=0)
    top_p: float = Field(0.99, gt=0, le=1)
    kl_coef: float = Field(0.05, ge=0, description="weight of the k3 term; 0 needs no reference model")
    clip: ClipSettings = ClipSettings()
    ratio: Literal["token", "sequence"] = Field("token", description="what is clipped; sequence is GSPO")
    loss_aggregation: Literal["token", "sequence", "constant"] = Field(
        "token", description="mean over tokens (DAPO), over sequences' means (GRPO), or over max_tokens (Dr. GRPO)"
    )
    normalize_advantages: bool = Field(
        True, description="divide advantages by the group's standard deviation; Dr. GRPO does not"
    )
    importance_cap: float | None = Field(
        None, gt=0, description="cap of the importance weight of tokens that another policy or engine drew; None: 1"
    )
    max_resample_rounds: int = Field(
        0, ge=0, description="rounds of further prompts in place of groups of equal rewards (DAPO)"
    )
    overlong: int = Field(0, ge=0, description="last tokens before max_tokens that cost reward, down to -1 (DAPO)")
    async_rollouts: bool = Field(False, description="roll out the next step while this one trains: one step off-policy")
    validation: ValidationSettings = ValidationSettings()
    best: str | None = Field(None, description="figure of validation whose highest value is exported; None: the last")
    page_every: int | None = Field(None, ge=1, description="steps between private pages of rollouts in the workspace")
    deepspeed: DeepSpeedSettings = DeepSpeedSettings(
        global_batch=8, learning_rate=1e-6, schedule="constant", weight_decay=1e-2, epochs=1, save_every=50, keep=3
    )
    server: ServerSettings = ServerSettings(gpu_memory_utilization=0.5)
    engines: int = Field(1, ge=1, description="vLLM servers a node that has any; its GPUs are shared out among them")
    rollout_nodes: int = Field(
        0, ge=0, description="nodes, the last ones, for servers alone; 0: servers and policy share all nodes"
    )
    sync: Literal["folder", "device"] = Field(
        "folder", description="weights reach the servers as files in memory, or from GPU to GPU (NCCL or CUDA IPC)"
    )
    max_gap: float = Field(
        0.02,
        gt=0,
        description="largest mean |log p(policy) - log p(engine)| of rollout tokens, nats; more ends the stage",
    )
    object_store_mb: int = Field(
        80, ge=76, description="Ray's shared memory a node; rollouts are text, so little is enough"
    )
    start_timeout_s: float = Field(1800, gt=0, description="deadline for Ray and the servers to be ready")
    step_timeout_s: float = Field(
        1500, gt=0, le=1700, description="deadline for one rollout with its scores, and for one change of weights"
    )
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
        rollouts = self.prompts_per_step * self.group_size
        if rollouts % self.deepspeed.global_batch:
            raise ValueError(
                f"deepspeed.global_batch {self.deepspeed.global_batch} does not divide the {rollouts} rollouts of a"
                f" step ({self.prompts_per_step} prompts x {self.group_size} samples)"
            )
        if self.max_tokens >= self.server.max_model_len:
            raise ValueError(
                f"max_tokens {self.max_tokens} leaves no room for a prompt; max_model_len is {self.server.max_model_len}"
            )
        if self.overlong > self.max_tokens:
            raise ValueError(f"overlong {self.overlong} is more than max_tokens {self.max_tokens}")
        return self

    @model_validator(mode="after")
    def _options_agree(self) -> "GrpoSettings":
        if self.importance_cap is not None and self.temperature != 1:
            raise ValueError(
                "importance_cap needs temperature 1: servers report log-probabilities of the model's own distribution, and the"
                " ratio for another temperature cannot be computed from them"
            )
        if self.async_rollouts and self.importance_cap is None:
            raise ValueError(
                "async_rollouts rolls out with weights that are one step old: set importance_cap, for example to 2.0"
            )
        if self.server.endpoint:
            raise ValueError("server.endpoint cannot follow the policy: rollouts need servers of the stage's own")
        if self.best is not None and not self.validation.prompts:
            raise ValueError(f"best: {self.best} needs validation.prompts")
        if self.validation.prompts and self.validation.split == self.split:
            raise ValueError(
                f"validation.split {self.split} is what the policy trains on; use held_out, or the other split"
            )
        return self

    @property
    def updates(self) -> int:
        """Optimiser steps in a step."""
        return self.prompts_per_step * self.group_size // self.deepspeed.global_batch

    def trainers(self, ranks: int, nodes: int) -> int:
        """How many of the ranks, the first ones, hold the policy. Raises UserError if no node is left for it."""
        if self.rollout_nodes >= nodes:
            raise UserError(
                f"rollout_nodes {self.rollout_nodes} of {nodes} nodes leaves none for the policy; give the stage more"
                " nodes in the cluster file, or set rollout_nodes to 0"
            )
        return ranks // nodes * (nodes - self.rollout_nodes)

    def reward_of(self, task: str) -> str:
        """Key of the reward of a task's samples: the task itself where `rewards` names it, else empty."""
        return task if task in self.rewards else ""

    @property
    def reward_table(self) -> dict[str, RewardSettings]:
        """Every reward by its key."""
        return {"": self.reward, **self.rewards}
