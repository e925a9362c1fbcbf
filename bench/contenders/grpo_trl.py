"""TRL's GRPOTrainer with generation by transformers: python grpo_trl.py SPEC.json; writes a row a step to its log."""

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from diagcot.rewards import registry
from diagcot.rewards.score import Reference
from diagcot.tasks.samples import Sample, read_samples
from diagcot.training.data.images import ShardImages

spec: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
torch.set_num_threads(spec["threads"])
samples = list(read_samples(Path(spec["prompts"])))
source = ShardImages(Path(spec["shards_root"]))
reward = registry.reward("report", "clinical", [Reference(sample.answer) for sample in samples])


def row(sample: Sample) -> dict[str, Any]:
    """A sample as TRL's trainer reads it."""
    image = Image.open(io.BytesIO(source.jpeg(sample.images[0]))).convert("RGB")
    return {
        "prompt": [{"role": "user", "content": sample.prompt.removeprefix("<image>")}],
        "image": image,
        "reference": sample.answer,
    }


def score(completions: list[Any], reference: list[str], **_: Any) -> list[float]:
    """The reward of our report task, for texts as TRL passes them."""
    texts = [one[0]["content"] for one in completions]
    return [one["overall"] for one in reward(texts, [Reference(text) for text in reference])]


class Steps(TrainerCallback):
    """Seconds of each step, from the end of the one before."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock of the first step."""
        self.last = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Write the seconds and figures of a step."""
        now = time.monotonic()
        known = {"reward": "reward", "length": "completions/mean_length"}
        figures = {name: (logs or {}).get(key) for name, key in known.items()}
        if figures["reward"] is not None:
            with Path(spec["log"]).open("a") as out:
                out.write(json.dumps({"step": state.global_step, "seconds": now - self.last, **figures}) + "\n")
            self.last = now


model = AutoModelForImageTextToText.from_pretrained(spec["model"], dtype=torch.float32)
if spec["tower_frozen"]:
    model.model.visual.requires_grad_(False)
trainer = GRPOTrainer(
    model=model,
    reward_funcs=score,
    args=GRPOConfig(
        output_dir=str(Path(spec["log"]).parent / "trl"),
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        max_steps=spec["steps"],
        num_generations=spec["samples"],
        per_device_train_batch_size=spec["micro_batch"],
        gradient_accumulation_steps=spec["prompts_a_step"] * spec["samples"] // spec["micro_batch"],
        max_completion_length=spec["max_tokens"],
        generation_kwargs={"min_new_tokens": spec["min_tokens"]},
        temperature=1.0,
        beta=spec["kl"],
        loss_type="bnpo",
        epsilon_high=0.3,
        learning_rate=spec["learning_rate"],
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        seed=7,
    ),
    train_dataset=Dataset.from_list([row(sample) for sample in samples]),
    processing_class=AutoProcessor.from_pretrained(spec["model"]),
    callbacks=[Steps()],
)
trainer.train()
