"""Ways to divide the work over two ranks, in one start of them: each learns what plain ZeRO-2 learns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diagcot.tasks.samples import Sample, write_samples
from tests.training import images
from tests.training.conftest import deepspeed, inputs
from tests.training.ranks import Job, start

pytestmark = pytest.mark.heavy
EVERYTHING = ["vision", "merger", "language_model", "lm_head"]
LENGTH = {"steps": 3, "learning_rate": 1e-3}
MODES: dict[str, dict[str, Any]] = {
    "zero3": {"stage": 3},
    "zero3-offload": {"stage": 3, "offload": True},
    "zero2-offload": {"offload": True},
    "checkpointing": {"gradient_checkpointing": True},
    "zero3-all": {"stage": 3, "offload": True, "gradient_checkpointing": True},
    "bf16": {"precision": "bf16"},
    "zero3-bf16": {"stage": 3, "precision": "bf16"},
    "packed": {"micro_batch_tokens": 300},
    "shared-rows": {"micro_batch_tokens": 300, "sequence_parallel": 2},
    "zero3-shared-rows": {
        "stage": 3,
        "micro_batch_tokens": 500,
        "sequence_parallel": 2,
        "gradient_checkpointing": True,
    },
    "zero3-packed-offload": {"stage": 3, "micro_batch_tokens": 300, "offload": True},
}


@pytest.fixture(scope="module")
def runs(training_root: Path) -> dict[str, Job]:
    """One image, several images and text alone in one data set, so that passes have images or none."""
    mixed = [text(row) if row % 3 else several(row) for row in range(24)]
    root = training_root / "shards/test/mixed"
    root.mkdir()
    write_samples(root / "00000.jsonl", mixed)
    further: dict[str, dict[str, Any]] = {
        name: {"deepspeed": deepspeed(**LENGTH, micro_batch=1, **mode)} for name, mode in MODES.items()
    }
    settings = {"trainable": EVERYTHING, "deepspeed": deepspeed(**LENGTH, micro_batch=1), "validation": 2}
    sources = {**inputs(training_root), "samples": [str(root)]}
    first = start(training_root, "diagcot.training.kinds.sft", "zero2", settings, sources, further=further)
    first.wait()
    return {"zero2": first} | {name: Job(training_root, name, [], first.log) for name in further}


@pytest.fixture(scope="module")
def adapters(training_root: Path) -> dict[str, Job]:
    """LoRA on ZeRO-2, on ZeRO-3, and as the recipes for 7B and 32B have it: ZeRO-3, bf16, gradient checkpointing."""
    ways: dict[str, dict[str, Any]] = {
        "lora2": {"stage": 2},
        "lora3": {"stage": 3},
        "lora3-packed": {"stage": 3, "micro_batch_tokens": 400},
        "lora3-recipes": {"stage": 3, "precision": "bf16", "gradient_checkpointing": True},
    }
    settings: dict[str, dict[str, Any]] = {
        name: {"trainable": ["lora"], "lora": {"rank": 4}, "deepspeed": deepspeed(**LENGTH, micro_batch=1, **way)}
        for name, way in ways.items()
    }
    settings["lora3-tower"] = {**settings["lora3"], "vision_cache_mb": 0}  # the tower inside every pass
    first = start(
        training_root,
        "diagcot.training.kinds.sft",
        "lora2",
        settings.pop("lora2"),
        inputs(training_root),
        further=settings,
    )
    first.wait()
    return {name: Job(training_root, name, [], first.log) for name in ["lora2", *settings]}


def text(row: int) -> Sample:
    sample = images.samples(row + 1)[-1]
    return replace(
        sample, id=f"text/{row}", study=f"text/{row}", images=(), messages=(("user", "Say it."), sample.messages[1])
    )


def several(row: int) -> Sample:
    pair = images.samples(row + 2)[-2:]
    prompt = ("user", "<image><image>Write a report.")
    return replace(
        pair[0], id=f"two/{row}", images=tuple(s.images[0] for s in pair), messages=(prompt, pair[0].messages[1])
    )


@pytest.mark.parametrize("mode", [name for name in MODES if "bf16" not in name])
def test_every_division_computes_the_same(runs: dict[str, Job], mode: str) -> None:
    plain, other = runs["zero2"].rows(), runs[mode].rows()
    assert len(other) == 3
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in other] == pytest.approx([row[name] for row in plain], rel=1e-3), name
    assert other[-1]["validation_loss"] == pytest.approx(plain[-1]["validation_loss"], rel=1e-3)


@pytest.mark.parametrize("way", ["lora3", "lora3-packed", "lora3-tower"])
def test_an_adapter_is_the_same_where_the_base_is_in_parts(adapters: dict[str, Job], way: str) -> None:
    from safetensors.torch import load_file

    two, three = adapters["lora2"], adapters[way]
    assert [row["loss"] for row in three.rows()] == pytest.approx([row["loss"] for row in two.rows()], rel=1e-3)
    divided, plain = (load_file(job.output / "model" / "adapter_model.safetensors") for job in (three, two))
    assert divided.keys() == plain.keys() and all(divided[name].shape == plain[name].shape for name in plain)
    assert max(float((divided[name] - plain[name]).abs().max()) for name in plain) < 1e-3
    assert any(float(divided[name].abs().max()) > 0 for name in divided if "lora_B" in name)


def test_an_adapter_as_the_recipes_train_it(adapters: dict[str, Job]) -> None:
    """ZeRO-3, bf16 and gradient checkpointing together: bf16's rounding apart the same, and the adapter is in bf16."""
    from safetensors.torch import load_file

    plain, recipes = adapters["lora2"], adapters["lora3-recipes"]
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in recipes.rows()] == pytest.approx([row[name] for row in plain.rows()], rel=0.05), (
            name
        )
    own, whole = (load_file(job.output / "model" / "adapter_model.safetensors") for job in (recipes, plain))
    assert {str(value.dtype) for value in own.values()} == {"torch.bfloat16"}
    assert own.keys() == whole.keys()
    assert any(float(own[name].abs().max()) > 0 for name in own if "lora_B" in name)


@pytest.mark.parametrize("mode", ["bf16", "zero3-bf16"])
def test_bf16_differs_by_its_rounding_alone(runs: dict[str, Job], mode: str) -> None:
    from safetensors.torch import load_file

    plain, other = runs["zero2"].rows(), runs[mode].rows()
    assert [row["loss"] for row in other] == pytest.approx([row["loss"] for row in plain], rel=0.03)
    weights = load_file(runs[mode].output / "model" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.bfloat16"}
