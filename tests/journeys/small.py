"""A small chain that trains and evaluates for real, in this process: data, a model, fine-tuning, an adapter, a table."""

import json
from pathlib import Path

from diagcot.cli.main import main

RECIPE = """\
name: small
seed: 3
stages:
  - {name: phantoms, kind: phantoms, number: 0, settings: {studies: 40, size: 56, views: [PA], held_out: 0.3}}
  - name: shard
    kind: shard
    number: 0
    inputs: {tree: phantoms}
    settings: {sources: [{kind: mimic_cxr, input: tree}], shards: 2, image_size: 56}
  - name: base
    kind: model
    number: 1
    inputs: {shards: shard}
    settings: {tiny: {hidden: 32, layers: 1, vision_hidden: 32, intermediate: 64, vocabulary: 400}}
  - name: tuned
    kind: sft
    number: 1
    inputs: {model: base, shards: shard}
    settings: &sft
      trainable: [language_model, merger]
      tasks: {report: 1.0}
      deepspeed: {steps: 2, global_batch: 4, micro_batch: 2, learning_rate: 1.0e-3, precision: fp32}
  - name: adapter
    kind: sft
    number: 1
    inputs: {model: base, shards: shard}
    settings: {<<: *sft, trainable: [lora], lora: {rank: 2}}
  - {name: merged, kind: merge, number: 1, inputs: {model: base, adapter: adapter}}
  - name: retrieval
    kind: retrieval
    number: eval
    inputs: {models: [base, tuned, merged], shards: shard}
    settings: {precision: fp32}
  - {name: report, kind: aggregate, number: eval, inputs: {predictions: retrieval}, settings: {draws: 100, examples: 1}}
"""


def cluster(folder: Path) -> Path:
    """A cluster of this process, with its folders in `folder`."""
    roots = {name: str(folder / name) for name in ("logs", "shards", "models")}
    profiles = {name: dict[str, int]() for name in ("cpu", "small", "server", "train", "grpo")}
    path = folder / "here.yaml"
    path.write_text(json.dumps({"name": "here", "executor": "debug", "roots": roots, "resource_profiles": profiles}))
    return path


def run(folder: Path, name: str, recipe: str = RECIPE) -> Path:
    """A finished run of the recipe in a folder of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "small.yaml").write_text(recipe)
    chain = ["--recipe", str(folder / "small.yaml"), "--cluster", str(cluster(folder)), "--run", name]
    assert main(["submit", *chain]) == 0
    return folder / "logs" / name
