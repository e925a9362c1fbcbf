"""A tiny model that has begun to answer in think and answer tags, and the phantoms that it learned from."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from diagcot.jobs import Unit
from diagcot.jobs.testing import context, run_unit
from diagcot.tasks.prompts import reasoned
from diagcot.tasks.samples import Sample, write_samples
from tests.training.ranks import start

TINY = {
    "hidden": 64, "heads": 2, "kv_heads": 1, "layers": 2, "vision_hidden": 32, "intermediate": 128, "vocabulary": 600,
}  # fmt: skip


def build(root: Path, studies: int = 80, steps: int = 120) -> dict[str, list[str]]:
    """Shards of phantoms and the model, under `root`; returns the inputs of a GRPO stage."""
    inputs = raw(root, studies)
    settings = {
        "trainable": ["vision", "merger", "language_model", "lm_head"], "max_length": 512, "tasks": {}, "validation": 0,
        "deepspeed": {
            "steps": steps, "micro_batch": 8, "global_batch": 8, "learning_rate": 4e-3, "warmup_steps": 10,
            "precision": "fp32", "save_every": 1000,
        },
    }  # fmt: skip
    samples = {"samples": [str(root / "shards/test/samples")]}
    start(root, "diagcot.training.kinds.sft", "warm", settings, inputs | samples, world=1, drawn=False).wait()
    return {"model": [str(root / "shards/test/warm")], "shards": inputs["shards"]}


def raw(root: Path, studies: int) -> dict[str, list[str]]:
    """Shards of phantoms, their reports with reasoning, and a model that has learned nothing yet, under `root`."""
    from diagcot.data.phantom import build as phantoms
    from diagcot.shards import build as shards
    from diagcot.training.kinds import model

    tree = context(root, {"studies": studies, "size": 112}, stage="phantoms")
    assert run_unit(phantoms, Unit("tree"), tree)
    source = {"kind": "mimic_cxr", "input": "phantoms"}
    sharding = context(
        root, {"sources": [source], "image_size": 112}, stage="shard", inputs={"phantoms": [str(tree.output)]}
    )
    assert run_unit(shards, Unit("00000"), sharding)
    samples = root / "shards/test/samples"
    samples.mkdir()
    write_samples(samples / "00000.jsonl", map(_reasoned, reports(root)))
    built = context(root, {"tiny": TINY}, stage="model", inputs={"samples": [str(samples)]})
    assert run_unit(model, Unit("model"), built)
    return {"model": [str(built.output)], "shards": [str(sharding.output)]}


def reports(root: Path) -> Iterator[Sample]:
    """The training split's images with their reports."""
    from diagcot.shards import Shard, shard_paths
    from diagcot.tasks.diagnosis import report_samples

    shard = shard_paths(root / "shards/test/shard")[0]
    return report_samples(Shard(shard), str(shard.relative_to(root / "shards")), "train")


def _reasoned(sample: Sample) -> Sample:
    first = sample.answer.split(" . ")[0]
    return replace(sample, messages=(sample.messages[0], ("assistant", reasoned(first, sample.answer))))
