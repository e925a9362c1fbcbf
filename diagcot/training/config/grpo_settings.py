"""Typed settings of kind `grpo`. Imported while planning, so nothing heavy is imported here."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from diagcot.jobs import UserError
from diagcot.jobs.settings import Settings
from diagcot.serving.settings import ServerSettings
from diagcot.tasks.prompt_set import PromptedSettings
from diagcot.training.config.reward_settings import RADGRAPH_REASONING, REASONING, RewardModelsSettings, RewardSettings
from diagcot.training.config.settings import AdapterPolicy, Component, DeepSpeedSettings, ShardTask


class ClipSettings(Settings):
    """Bounds of the policy ratio (DiagCoT, arXiv:2509.06409; dual clipping: Ye et al. 2020, arXiv:1912.09729)."""

    low: float = Field(0.2, gt=0, lt=1, description="The ratio is clipped below 1 - low.")
    high: float = Field(0.3, gt=0, description="The ratio is clipped above 1 + high.")
    dual: float | None = Field(
        3.0, gt=1, description="A negative advantage costs at most this multiple of itself; null: no bound."
    )


class MixSettings(Settings):
    """Share of a step's prompts that come from the input `mix`; it changes along a straight line."""

    start: float = Field(0.0, ge=0, le=1, description="Share at the first step.")
    end: float = Field(0.0, ge=0, le=1, description="Share from `until` on.")
    until: float = Field(1.0, gt=0, le=1, description="Part of the steps after which the share is `end`.")

    def share(self, progress: float) -> float:
        """The share at `progress`, which runs from 0 to 1."""
        return self.start + (self.end - self.start) * min(1.0, progress / self.until)


class ValidationSettings(Settings):
    """Prompts that are rolled out and scored and never trained on. Sampling is CX-Mind's (arXiv:2508.03733)."""

    prompts: int = Field(0, ge=0, description="Most prompts of a validation; 0 validates nothing.")
    split: Literal["held_out", "train", "validate"] = Field(
        "held_out",
        description="held_out: patients of the training split who are then left out of training; or another split.",
    )
    share: float = Field(
        0.1, gt=0, lt=1, description="Share of the patients that is held out, chosen by the hash of their name."
    )
    every: int | None = Field(
        None, ge=1, description="Steps between validations; null validates before the first step and after the last."
    )
    temperature: float = Field(0.5, ge=0, description="Sampling temperature of the answers.")
    top_p: float = Field(1.0, gt=0, le=1, description="Probability mass that answers are sampled from.")


class GrpoSettings(AdapterPolicy, PromptedSettings):
    """Kind `grpo`: reinforcement learning; the defaults are those of DiagCoT's report run (arXiv:2509.06409).

    A step rolls out `group_size` answers to each of `prompts_per_step` prompts and updates the policy once for every
    `deepspeed.global_batch` of them; `deepspeed.steps`, `epochs` (over the prompts) and `save_every` count these steps.
    """

    renamed: ClassVar[Mapping[str, str]] = {
        "samples": "group_size",
        "prompts": "prompts_per_step",
        "scale": "normalize_advantages",
        "loss": "loss_aggregation",
        "correction": "importance_cap",
        "async_rollouts": "max_staleness",
        "kl": "kl_coef",
        "resample": "max_resample_rounds",
        "clip": "ratio_clipping",
    }

    trainable: tuple[Component, ...] = Field(
        ("language_model",), min_length=1, description="Components of the model that train; all others are frozen."
    )
    reward: RewardSettings = Field(RewardSettings(), description="Reward of all samples that `rewards` does not name.")
    rewards: dict[str, RewardSettings] = Field({}, description="Task and the reward of its samples.")
    reward_models: RewardModelsSettings = Field(
        RewardModelsSettings(), description="The models behind the `components` of rewards."
    )
    carry_gate: bool = Field(False, description="Start from the gate of the GRPO stage that made the model.")
    reasoning: Literal["expected", "none"] = Field(
        "expected",
        description="expected: replies reason and answer in the layout of the reward; none: the whole reply is the answer, and"
        " the reward gets it inside that layout, so the format is never in doubt.",
    )
    task: ShardTask = Field(
        "report", description="Task of the prompts made from the input `shards`; the input `samples` brings its own."
    )
    format_instruction: bool = Field(
        False,
        description="End each prompt that does not name the tags with the format instruction of the prompt set, as DiagCoT's"
        " runs do.",
    )
    split: str = Field("train", description="Split of the shards that prompts are taken from: train or validate.")
    views: Literal["image", "study"] = Field(
        "image", description="image: a prompt for each image of a study; study: one prompt with all of them."
    )
    augment: int = Field(
        0,
        ge=0,
        le=10,
        description="Changed copies of each grounding prompt that has boxes (DiagCoT, arXiv:2509.06409).",
    )
    mix: MixSettings | None = Field(None, description="Share of other prompts, from the input `mix`.")
    prompts_per_step: int = Field(4, ge=1, description="Prompts of a step.")
    group_size: int = Field(8, ge=2, description="Rollouts of each prompt.")
    max_tokens: int = Field(1024, ge=1, description="Most tokens of a rollout.")
    long_prompts: Literal["leave_out", "refuse"] = Field(
        "leave_out",
        description="Prompts that the servers cannot take: of more tokens than server.max_model_len leaves beside max_tokens, or"
        " with more images than server.images. They are counted before the first step. leave_out: the stage trains without"
        " them; refuse: it ends.",
    )
    temperature: float = Field(0.9, gt=0, description="Sampling temperature of the rollouts.")
    top_p: float = Field(0.99, gt=0, le=1, description="Probability mass that rollouts are sampled from.")
    kl_coef: float = Field(
        0.05,
        ge=0,
        description="Weight of the KL term (k3) in the loss; above 0 the GPUs share a reference model, each holding its part.",
    )
    ratio_clipping: ClipSettings = Field(ClipSettings(), description="Bounds of the policy ratio.")
    ratio: Literal["token", "sequence"] = Field(
        "token", description="Policy ratio of each token, or of the whole sequence as in GSPO."
    )
    loss_aggregation: Literal["token", "sequence", "constant"] = Field(
        "token",
        description="token: mean over all tokens (DAPO); sequence: mean over the sequences' means (GRPO); constant: over"
        " max_tokens (Dr. GRPO).",
    )
    policy_loss: Literal["ppo", "cispo"] = Field(
        "ppo",
        description="ppo: clipped ratios; cispo: the ratio, at most 1 + ratio_clipping.high, is a weight without gradient"
        " (arXiv:2506.13585).",
    )
    advantage_estimator: Literal["grpo", "rloo", "reinforce_plus_plus"] = Field(
        "grpo",
        description="grpo: reward minus the group's mean; rloo: minus the mean of the others of its group (arXiv:2402.14740);"
        " reinforce_plus_plus: normalised over all tokens of the step (arXiv:2501.03262).",
    )
    normalize_advantages: bool = Field(
        True,
        description="With advantage_estimator grpo: divide advantages by the standard deviation of their group; Dr. GRPO does"
        " not.",
    )
    importance_cap: float | None = Field(
        None,
        gt=0,
        description="Cap of a token's importance weight p(policy) / p(server), which corrects the gap; null: all weights are 1.",
    )
    max_resample_rounds: int = Field(
        0, ge=0, description="Rounds in which groups of equal rewards are replaced by further prompts (DAPO)."
    )
    overlong: int = Field(
        0, ge=0, description="Last tokens before max_tokens that cost reward, down to -1 at the limit (DAPO)."
    )
    mask_cut: bool = Field(
        False,
        description="Leave rollouts that are cut at max_tokens out of the loss; their rewards still count in their group. A"
        " cut rollout may reason well, and a bad reward for its length alone is noise that disturbs training (DAPO, overlong"
        " filtering, arXiv:2503.14476, section 3.4). DiagCoT and CX-Mind train on all rollouts.",
    )
    max_staleness: int = Field(
        0,
        ge=0,
        le=16,
        description="Steps by which the weights that a rollout began with may be older than those that train on it. 0: the"
        " servers wait while the policy trains; k: they roll out the k next steps meanwhile, which needs importance_cap.",
    )
    validation: ValidationSettings = Field(ValidationSettings(), description="Prompts that measure progress.")
    best: str | None = Field(
        None, description="Validation figure whose highest value decides which weights are exported; null: the last."
    )
    page_every: int | None = Field(
        None, ge=1, description="Steps between private pages of rollouts in the stage's workspace; null writes none."
    )
    deepspeed: DeepSpeedSettings = Field(
        DeepSpeedSettings(
            global_batch=8, learning_rate=1e-6, schedule="constant", weight_decay=1e-2, epochs=1, save_every=50, keep=3
        ),
        description="Optimisation and its distribution; global_batch rollouts make one update.",
    )
    server: ServerSettings = Field(
        ServerSettings(gpu_memory_utilization=0.5), description="vLLM servers that draw the rollouts."
    )
    engines: int = Field(
        1, ge=1, description="vLLM servers on each node that has servers; its GPUs are divided among them."
    )
    rollout_nodes: int = Field(
        0, ge=0, description="Number of nodes, the last ones, for servers only; 0: servers and policy share all nodes."
    )
    sync: Literal["folder", "device"] = Field(
        "folder", description="Weights reach the servers as files in memory, or from GPU to GPU (NCCL or CUDA IPC)."
    )
    warn_gap: float = Field(
        0.02,
        gt=0,
        description="Mean |log p(policy) - log p(server)| of a step's rollout tokens in nats above which an event warns.",
    )
    max_gap: float = Field(
        0.15,
        gt=0,
        description="Largest such mean in nats; more ends the stage before its weights change. bf16 alone gives 0.03 to 0.06.",
    )
    precheck_groups: int = Field(
        16,
        ge=0,
        description="Before the first update, groups of rollouts that may show that there is nothing to learn from before the"
        " stage is refused; 0 refuses nothing.",
    )
    object_store_mb: int = Field(80, ge=76, description="Ray's shared memory on a node, in MB.")
    start_timeout_s: float = Field(1800, gt=0, description="Seconds until Ray and the servers must be ready.")
    step_timeout_s: float = Field(
        1500,
        gt=0,
        le=1700,
        description="Seconds for one rollout with its scores, times 1 + max_staleness, and for one change of weights.",
    )
    image_cache_mb: int = Field(1024, ge=0, description="Host memory of a rank for prepared images, in MB.")
    vision_cache_mb: int = Field(
        1024,
        ge=0,
        description="Host memory of a rank for what a frozen vision tower makes of images, in MB: it sees each image once. 0: it"
        " sees them in every pass.",
    )

    @field_validator("split")
    @classmethod
    def _no_test(cls, value: str) -> Literal["train", "validate"]:
        if value == "test":
            raise ValueError("the test split is for evaluation: a policy trained on it has no honest score; use train")
        if value not in ("train", "validate"):
            raise ValueError(f"unknown split {value!r}; use train or validate")
        return value  # type: ignore[return-value]

    @model_validator(mode="before")
    @classmethod
    def _rollouts_ahead(cls, value: Any) -> Any:
        """The old key `async_rollouts` was a switch: true is one step."""
        if isinstance(value, Mapping) and isinstance(value.get("async_rollouts"), bool):
            return {**value, "async_rollouts": int(value["async_rollouts"])}
        return value

    @model_validator(mode="after")
    def _batches_divide(self) -> "GrpoSettings":
        self.deepspeed.refuse_sharing("grpo")
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
        if self.importance_cap is not None and (self.temperature != 1 or self.top_p != 1):
            raise ValueError(
                "importance_cap needs temperature 1 and top_p 1: servers report log-probabilities of the model's own"
                " distribution, and the ratio for another one cannot be computed from them"
            )
        if self.max_staleness and self.importance_cap is None:
            raise ValueError(
                "with max_staleness rollouts are from older weights: set importance_cap, for example to 2.0, with temperature 1"
                " and top_p 1"
            )
        if self.lora is not None and self.lora.dropout:
            raise ValueError(
                "lora.dropout must be 0 in GRPO: with random dropouts the policy's log-probabilities are not the servers'"
            )
        if self.reasoning == "none" and self.format_instruction:
            raise ValueError("reasoning: none takes replies without tags, which format_instruction asks for")
        components = {name for reward in self.reward_table.values() for name in reward.components}
        if self.reasoning == "none" and (of_reasoning := sorted(components & {REASONING, RADGRAPH_REASONING})):
            raise ValueError(
                f"reasoning: none leaves no reasoning to score, but a reward has the component {of_reasoning[0]}"
            )
        if self.server.endpoint:
            raise ValueError("server.endpoint cannot follow the policy: rollouts need the stage's own servers")
        if self.advantage_estimator == "reinforce_plus_plus" and self.max_resample_rounds:
            raise ValueError(
                "max_resample_rounds replaces groups of equal rewards, from which reinforce_plus_plus learns: set it to 0"
            )
        if self.best is not None and not self.validation.prompts:
            raise ValueError(f"best: {self.best} needs validation.prompts")
        if self.validation.prompts and self.validation.split == self.split:
            raise ValueError(
                f"validation.split {self.split} is what the policy trains on; use held_out, or the other split"
            )
        return self

    @model_validator(mode="after")
    def _reference_is_rounded_too(self) -> "GrpoSettings":
        if self.lora is not None and self.lora.load_in_4bit and self.own_reference:
            raise ValueError(
                "lora.load_in_4bit needs trainable: [lora], or kl_coef: 0: a second model as reference would lack the rounded"
                " weights that the policy starts from"
            )
        return self

    @property
    def own_reference(self) -> bool:
        """Whether the KL term needs a model of its own: where an adapter alone trains, the base is the reference."""
        return self.kl_coef > 0 and self.trainable != ("lora",)

    @property
    def updates(self) -> int:
        """Optimiser steps for the rollouts of one step."""
        return self.prompts_per_step * self.group_size // self.deepspeed.global_batch

    def trainers(self, ranks: int, nodes: int) -> int:
        """How many of the ranks, the first ones, hold the policy. Raises UserError if no node is left."""
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
    def scoring_models(self) -> tuple[str, ...]:
        """The models that give components of any reward, each once."""
        return tuple(dict.fromkeys(name for reward in self.reward_table.values() for name in reward.models))

    @property
    def reward_table(self) -> dict[str, RewardSettings]:
        """Every reward by its key."""
        return {"": self.reward, **self.rewards}
