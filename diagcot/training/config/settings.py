"""Typed settings of the training stages. Imported while planning, so nothing heavy is imported here."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from diagcot.jobs.settings import Settings

Component = Literal["vision", "merger", "language_model", "lm_head", "lora"]
Family = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]


class TinySettings(Settings):
    """A model from configuration with random weights, small enough to train on a CPU in minutes."""

    hidden: int = Field(128, ge=32, description="width of the language model")
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    kv_heads: int = Field(2, ge=1)
    intermediate: int = Field(384, ge=32)
    vision_depth: int = Field(2, ge=1)
    vision_hidden: int = Field(64, ge=16)
    vision_heads: int = Field(4, ge=1)
    vocabulary: int = Field(800, ge=320, description="tokens of the trained BPE, special ones included")
    context: int = Field(4096, ge=256, description="longest sequence in tokens")


class ModelSettings(Settings):
    """Kind `model`: the base of a chain, either a model on disk or a tiny one from configuration."""

    family: Family = "qwen2_5_vl"
    pretrained: Path | None = Field(None, description="directory of a downloaded model; None builds a tiny one")
    tiny: TinySettings = TinySettings()
    min_pixels: int | None = Field(None, description="pixel budget of an image, here for the whole chain")
    max_pixels: int | None = None

    @field_validator("pretrained", mode="before")
    @classmethod
    def _settled(cls, path: str | None) -> str | None:
        """Without variables: the jobs may lack them. One that is not set stays, and is told when it is looked for."""
        return os.path.expandvars(path) if isinstance(path, str) else path


class LoraSettings(Settings):
    """DiagCoT's adapter of the teacher (method.md 3.2)."""

    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class DeepSpeedSettings(Settings):
    """Optimisation and its distribution. Steps are optimiser steps over `global_batch` samples."""

    renamed: ClassVar[Mapping[str, str]] = {"save_behind": "async_save"}

    stage: Literal[2, 3] = 2
    offload: bool = Field(False, description="optimiser state (and parameters at stage 3) in host memory")
    micro_batch: int = Field(1, ge=1, description="samples a rank in one forward pass")
    global_batch: int = Field(64, ge=1, description="samples a step over all ranks")
    learning_rate: float = Field(1e-5, gt=0)
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, ge=0)
    epochs: float | None = Field(None, gt=0)
    steps: int | None = Field(None, ge=1)
    precision: Literal["fp32", "bf16"] = "bf16"
    gradient_checkpointing: bool = False
    save_every: int = Field(100, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=1, description="checkpoints kept")
    async_save: bool = Field(True, description="write checkpoints behind the training; takes host memory for one")
    wandb: bool = Field(False, description="also log to an offline run of wandb, which must be installed")

    @model_validator(mode="after")
    def _one_length(self) -> "DeepSpeedSettings":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        return self

    def accumulation(self, world_size: int) -> int:
        """Forward passes a rank for one step. Raises ValueError where the batches do not divide."""
        micro = self.micro_batch * world_size
        if self.global_batch % micro:
            raise ValueError(
                f"global_batch {self.global_batch} is no multiple of micro_batch {self.micro_batch} x {world_size}"
                " ranks; change one of them in the recipe or the number of ranks in the cluster file"
            )
        return self.global_batch // micro

    def sequences(self, samples: int | None) -> int | None:
        """Samples that the whole stage sees, of `samples` an epoch; None where that is not known."""
        if self.steps is not None:
            return self.steps * self.global_batch
        return None if samples is None else max(1, round(samples * (self.epochs or 0)))


class FreezePolicy(Settings):
    """Which components train; everything else is frozen. `expect_trainable` parameters are asserted."""

    trainable: tuple[Component, ...] = Field(min_length=1)
    expect_trainable: int | None = None


class SftSettings(FreezePolicy):
    """Kind `sft`: causal language modelling on the assistant's turns (method.md 3 and 4.3)."""

    deepspeed: DeepSpeedSettings
    lora: LoraSettings | None = None
    tasks: dict[str, float] = Field(
        default={"report": 1.0}, description="tasks made from shards and their weight: 2 = each sample twice an epoch"
    )
    views: Literal["image", "study"] = Field("image", description="a sample for each film, or one for all of a study")
    samples_weight: float = Field(1.0, ge=0, description="the same for the samples of role `samples`")
    max_length: int = Field(4096, ge=32, description="tokens of a sample; longer answers are cut and counted")
    validation: int = Field(64, ge=0, description="held-out samples for the validation loss")
    validate_every: int | None = Field(None, ge=1, description="steps; None validates at the end only")
    image_cache_mb: int = Field(1024, ge=0, description="host memory a rank for prepared films")

    @model_validator(mode="after")
    def _lora_agrees(self) -> "SftSettings":
        if ("lora" in self.trainable) != (self.lora is not None):
            raise ValueError("`lora` in trainable and the settings of `lora` belong together")
        if self.lora is not None and self.trainable != ("lora",):
            raise ValueError("with LoRA the base model stays frozen: trainable must be [lora]")
        return self


class AlignSettings(FreezePolicy):
    """Kind `align`: the projector learns to speak the language model's language (method.md 3.1).

    `lm` is the loss of the released code, `contrastive` the one that the paper describes, `combined` their sum.
    """

    trainable: tuple[Component, ...] = ("merger",)
    deepspeed: DeepSpeedSettings
    loss: Literal["lm", "contrastive", "combined"] = "lm"
    contrastive_weight: float = Field(1.0, gt=0)
    temperature: float = Field(0.07, gt=0, description="where the learned temperature starts")
    max_length: int = Field(4096, ge=32)
    validation: int = Field(64, ge=0, description="held-out pairs for loss and retrieval")
    validate_every: int | None = Field(100, ge=1, description="steps; None validates at the end only")
    image_cache_mb: int = Field(1024, ge=0)

    @model_validator(mode="after")
    def _reports_stay(self) -> "AlignSettings":
        if self.loss != "lm" and not set(self.trainable) <= {"vision", "merger"}:
            raise ValueError("the contrastive loss embeds reports once: with it only vision and merger may train")
        return self


class MergeSettings(Settings):
    """Kind `merge`: adapter and base become one model."""

    shard_size: str = Field("5GB", description="largest weight file")
