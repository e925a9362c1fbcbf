"""Typed settings of the training stages. Imported while planning, so nothing heavy is imported here."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from diagcot.jobs.settings import Settings
from diagcot.tasks.prompt_set import PromptedSettings

ROOT = Path(__file__).resolve().parents[3]

Component = Literal["vision", "merger", "language_model", "lm_head", "lora"]
Family = Literal[
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "gemma3",
    "internvl",
    "llava_onevision",
    "idefics3",
    "smolvlm",
]
"""`model_type` of the families in `diagcot.training.families`."""
TEXT: Literal["text"] = "text"
"""In place of a family: a language model without images, which judges or verifies and does not train."""
ShardTask = Literal["report", "classification", "grounding"]
"""Tasks whose samples are made from shards (`diagcot.tasks.diagnosis.SAMPLES`)."""
Reasoning = Literal["kept", "joined", "dropped"]
TrackerName = Literal["wandb", "mlflow", "swanlab"]


class TinySettings(Settings):
    """A model from configuration with random weights, small enough to train on a CPU in minutes."""

    hidden: int = Field(128, ge=32, description="Width of the language model.")
    layers: int = Field(4, ge=1, description="Layers of the language model.")
    heads: int = Field(4, ge=1, description="Attention heads of the language model.")
    kv_heads: int = Field(2, ge=1, description="Key and value heads of the language model.")
    intermediate: int = Field(384, ge=32, description="Width of the language model's MLP.")
    vision_depth: int = Field(2, ge=1, description="Layers of the vision tower.")
    vision_hidden: int = Field(64, ge=16, description="Width of the vision tower.")
    vision_heads: int = Field(4, ge=1, description="Attention heads of the vision tower.")
    vocabulary: int = Field(800, ge=320, description="Tokens of the BPE that is trained, special ones included.")
    context: int = Field(4096, ge=256, description="Longest sequence in tokens.")


class ModelSettings(Settings):
    """Kind `model`: the base of a chain, either a model on disk or a tiny one from configuration."""

    family: Family | Literal["text"] = Field(
        "qwen2_5_vl",
        description="Architecture of the model. text: a language model without images, of any architecture that vLLM serves, as"
        " judge or verifier.",
    )
    pretrained: Path | None = Field(
        None,
        description="Folder of a model: a downloaded one, an output folder of LLaMA-Factory, or the folder `actor` of a"
        " checkpoint of EasyR1 or verl. $VARIABLES are replaced, and a relative path starts at the project's root. null builds"
        " a tiny model.",
    )
    adapter: Path | None = Field(
        None,
        description="Folder of a LoRA adapter of PEFT or LLaMA-Factory, which is added to the weights of `pretrained`.",
    )
    tiny: TinySettings = Field(TinySettings(), description="Sizes of the tiny model.")
    min_pixels: int | None = Field(
        None, description="Fewest pixels that an image is resized to, for the whole chain; null keeps the model's own."
    )
    max_pixels: int | None = Field(
        None, description="Most pixels that an image is resized to, for the whole chain; null keeps the model's own."
    )

    @model_validator(mode="after")
    def _has_base(self) -> "ModelSettings":
        if self.adapter is not None and self.pretrained is None:
            raise ValueError("`adapter` needs its base as `pretrained`")
        if self.family == TEXT and self.pretrained is None:
            raise ValueError("family: text is a model from disk: give its folder as `pretrained`")
        return self

    @field_validator("pretrained", "adapter", mode="before")
    @classmethod
    def _settled(cls, path: str | None) -> str | None:
        """Variables are replaced now, since jobs may lack them. An unset one stays and is reported when it is needed."""
        if not isinstance(path, str):
            return path
        filled = os.path.expandvars(path)
        return filled if "$" in filled else str(ROOT / Path(filled).expanduser())


class LoraSettings(Settings):
    """A LoRA adapter on the language model. The defaults are those of DiagCoT's teacher (arXiv:2509.06409)."""

    rank: int = Field(8, ge=1, description="Rank of the adapter's matrices.")
    alpha: int = Field(16, ge=1, description="Scale of the adapter's output; it is multiplied by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of the adapter's inputs that are dropped in training.")
    use_rslora: bool = Field(
        False,
        description="Multiply by alpha / √rank instead, which keeps large ranks stable (rsLoRA, arXiv:2312.03732).",
    )
    use_dora: bool = Field(
        False,
        description="Train the length of each row of the weights by itself (DoRA, arXiv:2402.09353); needs deepspeed.stage 2.",
    )
    load_in_4bit: bool = Field(
        False,
        description="Hold the frozen projections of the language model in 4 bits (QLoRA, arXiv:2305.14314); needs a GPU, the"
        " package bitsandbytes and deepspeed.stage 2.",
    )
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="Projections of the language model that get an adapter.",
    )


class DeepSpeedSettings(Settings):
    """Optimisation and its distribution. Steps are optimiser steps over `global_batch` samples."""

    renamed: ClassVar[Mapping[str, str]] = {
        "save_behind": "async_save",
        "clip": "gradient_clipping",
        "wandb": "trackers",
    }

    stage: Literal[2, 3] = Field(
        2, description="ZeRO stage: 2 divides gradients and optimiser state among the ranks, 3 also the weights."
    )
    offload: bool = Field(
        False, description="Keep the optimiser state, and at stage 3 also the parameters, in host memory."
    )
    micro_batch: int = Field(
        1, ge=1, description="Samples in one forward pass of a rank, padded to the longest of them."
    )
    micro_batch_tokens: int | None = Field(
        None,
        ge=1,
        description="Most tokens in one forward pass of a rank: samples are then packed, one after the other without padding,"
        " and spread evenly over passes and ranks. A longer sample is a pass of its own. null: `micro_batch` padded samples.",
    )
    sequence_parallel: int = Field(
        1,
        ge=1,
        description="Ranks, neighbours in number, that share the tokens of each pass (DeepSpeed Ulysses), for samples whose"
        " activations do not fit one GPU; in kind sft, with micro_batch_tokens. It must divide the number of ranks, and the"
        " model's heads of keys and values.",
    )
    global_batch: int = Field(64, ge=1, description="Samples in one optimiser step over all ranks.")
    learning_rate: float = Field(1e-5, gt=0, description="Highest learning rate.")
    warmup_steps: int = Field(0, ge=0, description="Steps in which the learning rate rises from 0.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="Course of the learning rate after the warm-up."
    )
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW.")
    adam_beta2: float = Field(
        0.999,
        gt=0,
        lt=1,
        description="AdamW's decay of the mean square of gradients; 0.95 is steadier where a tiny model trains from nothing.",
    )
    gradient_clipping: float = Field(1.0, ge=0, description="Largest norm of the gradient; 0 does not clip.")
    epochs: float | None = Field(None, gt=0, description="Passes over the data; give either epochs or steps.")
    steps: int | None = Field(None, ge=1, description="Optimiser steps; give either epochs or steps.")
    precision: Literal["fp32", "bf16"] = Field("bf16", description="Type of the weights in forward and backward pass.")
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass instead of keeping them."
    )
    save_every: int = Field(100, ge=1, description="Steps between checkpoints.")
    keep: int = Field(2, ge=1, description="Number of checkpoints that are kept.")
    async_save: bool = Field(
        True, description="Write checkpoints while training goes on; takes host memory for one checkpoint."
    )
    trackers: tuple[TrackerName, ...] = Field(
        (),
        description="Packages that also get the figures, in files below the stage's folder in logs; they must be installed"
        " (`pip install diagcot[trackers]`), and send nothing.",
    )

    @field_validator("trackers", mode="before")
    @classmethod
    def _was_wandb(cls, value: Any) -> Any:
        """The old key `wandb` was true or false."""
        return (("wandb",) if value else ()) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _one_length(self) -> "DeepSpeedSettings":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        return self

    @model_validator(mode="after")
    def _rows_to_share(self) -> "DeepSpeedSettings":
        if self.sequence_parallel > 1 and not self.micro_batch_tokens:
            raise ValueError("sequence_parallel divides packed rows: give micro_batch_tokens, too")
        return self

    def check_batches(self, world_size: int) -> None:
        """Raises ValueError if the samples of a step do not divide among the ranks."""
        size = 1 if self.micro_batch_tokens else self.micro_batch
        if world_size % self.sequence_parallel:
            raise ValueError(
                f"sequence_parallel {self.sequence_parallel} does not divide the {world_size} ranks; change it in the recipe, or"
                " the number of ranks in the cluster file"
            )
        groups = world_size // self.sequence_parallel
        if self.global_batch % (size * groups):
            raise ValueError(
                f"global_batch {self.global_batch} is not a multiple of micro_batch {size} x {groups}"
                " ranks; change one of them in the recipe or the number of ranks in the cluster file"
            )

    def refuse_sharing(self, kind: str) -> None:
        """Raises ValueError if ranks are to share passes, which `kind` does not do."""
        if self.sequence_parallel > 1:
            raise ValueError(
                f"deepspeed.sequence_parallel is for kind sft; {kind} does not divide sequences: remove it"
            )

    def sequences(self, samples: int | None) -> int | None:
        """Samples that the whole stage sees if an epoch has `samples`; None if that is not known."""
        if self.steps is not None:
            return self.steps * self.global_batch
        return None if samples is None else max(1, round(samples * (self.epochs or 0)))


class FreezePolicy(Settings):
    """Which components train; everything else is frozen."""

    trainable: tuple[Component, ...] = Field(
        min_length=1, description="Components of the model that train; all others are frozen."
    )
    expect_trainable: int | None = Field(
        None,
        ge=0,
        le=10**13,
        description="Number of parameters that must train; another number is an error. null does not check.",
    )


class AdapterPolicy(FreezePolicy):
    """A freeze policy that may train a LoRA adapter, alone or together with whole components."""

    lora: LoraSettings | None = Field(
        None,
        description="The adapter that trains; goes with `lora` in `trainable`, alone or with merger, vision or lm_head.",
    )
    deepspeed: DeepSpeedSettings = Field(description="Optimisation and its distribution over the ranks.")

    @model_validator(mode="after")
    def _lora_agrees(self) -> "AdapterPolicy":
        if ("lora" in self.trainable) != (self.lora is not None):
            raise ValueError("`lora` in trainable and the settings of `lora` belong together")
        if self.lora is not None and "language_model" in self.trainable:
            raise ValueError("under an adapter the language model stays frozen: trainable names lora or language_model")
        return self

    @model_validator(mode="after")
    def _adapter_reads_whole_weights(self) -> "AdapterPolicy":
        chosen = [name for name in ("use_dora", "load_in_4bit") if self.lora is not None and getattr(self.lora, name)]
        if chosen and self.deepspeed.stage == 3:
            raise ValueError(
                f"lora.{chosen[0]} reads whole weights of the base, which deepspeed.stage 3 divides among the GPUs: use stage 2"
            )
        return self


class SftSettings(AdapterPolicy, PromptedSettings):
    """Kind `sft`: causal language modelling on the assistant's turns (DiagCoT, arXiv:2509.06409)."""

    tasks: dict[ShardTask, float] = Field(
        {"report": 1.0},
        description="Tasks made from the input `shards`, and how often each of their samples is seen in an epoch.",
    )
    views: Literal["image", "study"] = Field(
        "image", description="image: a sample for each image of a study; study: one sample with all of them."
    )
    samples_weight: float = Field(
        1.0, ge=0, description="How often each sample of the input `samples` is seen in an epoch."
    )
    reasoning: Reasoning = Field(
        "kept",
        description="Reasoning in the answers of the input `samples`: kept; joined in one block before the last answer; or"
        " dropped, so that the last answer alone is learned.",
    )
    max_length: int = Field(4096, ge=32, description="Most tokens of a sample; longer answers are cut and counted.")
    validation: int = Field(64, ge=0, description="Number of held-out samples for the validation loss.")
    validate_every: int | None = Field(
        None, ge=1, description="Steps between validations; null validates only at the end."
    )
    image_cache_mb: int = Field(1024, ge=0, description="Host memory of a rank for prepared images, in MB.")
    vision_cache_mb: int = Field(
        1024,
        ge=0,
        description="Host memory of a rank for what a frozen vision tower makes of images, in MB: it sees each image once. 0: it"
        " sees them in every pass.",
    )


class AlignSettings(FreezePolicy, PromptedSettings):
    """Kind `align`: the projector learns to map images to the language model's space (DiagCoT, arXiv:2509.06409)."""

    trainable: tuple[Component, ...] = Field(
        ("merger",), min_length=1, description="Components of the model that train; all others are frozen."
    )
    deepspeed: DeepSpeedSettings = Field(description="Optimisation and its distribution over the ranks.")
    loss: Literal["lm", "contrastive", "combined"] = Field(
        "lm",
        description="lm: language-model loss, as in the released code; contrastive: as the paper describes it; combined:"
        " their sum.",
    )
    contrastive_weight: float = Field(1.0, gt=0, description="Weight of the contrastive loss in the combined one.")
    temperature: float = Field(0.07, gt=0, description="Initial value of the learned temperature.")
    max_length: int = Field(4096, ge=32, description="Most tokens of a sample; longer answers are cut and counted.")
    validation: int = Field(64, ge=0, description="Number of held-out pairs for loss and retrieval.")
    validate_every: int | None = Field(
        100, ge=1, description="Steps between validations; null validates only at the end."
    )
    image_cache_mb: int = Field(1024, ge=0, description="Host memory of a rank for prepared images, in MB.")
    vision_cache_mb: int = Field(
        1024,
        ge=0,
        description="Host memory of a rank for what a frozen vision tower makes of images, in MB: it sees each image once. 0: it"
        " sees them in every pass.",
    )

    @model_validator(mode="after")
    def _reports_stay(self) -> "AlignSettings":
        self.deepspeed.refuse_sharing("align")
        if self.loss != "lm" and not set(self.trainable) <= {"vision", "merger"}:
            raise ValueError("the contrastive loss embeds reports once: with it only vision and merger may train")
        if self.loss != "lm" and self.deepspeed.micro_batch_tokens:
            raise ValueError(
                "the contrastive loss needs equally many pairs on every rank: give micro_batch, not micro_batch_tokens"
            )
        return self


class RetrievalSettings(Settings):
    """Kind `retrieval`: embeds the test split's images and reports as `align` does, and ranks each among the others."""

    views: Literal["image", "study"] = Field(
        "image", description="image: a sample for each image of a study; study: one sample with all of them."
    )
    samples_per_shard: int | None = Field(
        None,
        ge=1,
        description="Most pairs of each shard, chosen by the digests of their ids as `evaluate` does; null: all.",
    )
    micro_batch: int = Field(16, ge=1, description="Images or reports in one forward pass.")
    precision: Literal["fp32", "bf16"] = Field("bf16", description="Type of the weights.")


class MergeSettings(Settings):
    """Kind `merge`: adapter and base become one model."""

    shard_size: str = Field(
        "5GB",
        pattern=r"^[1-9][0-9]*(KB|MB|GB)$",
        description="Largest size of one weight file, such as 5GB; the stage needs about twice as much memory.",
    )

    @property
    def shard_bytes(self) -> int:
        """`shard_size` in bytes."""
        return int(self.shard_size[:-2]) * {"KB": 10**3, "MB": 10**6, "GB": 10**9}[self.shard_size[-2:]]
