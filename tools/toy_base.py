"""Measures the base of the demos and publishes it: `python tools/toy_base.py RUN` after the chain of recipes/toy-base.yaml.

It generates greedy replies to conversations about patients that the training did not see, counts the right ones, and
writes weights, figures.json and the card README.md to recipes/toy-base/.
"""

import argparse
import hashlib
import json
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / "recipes" / "toy-base"
GOALS = {"copy": 0.98, "verdict": 0.95, "letters": 0.98, "choice": 0.98}
STAGES = ("copying", "choosing", "conversing", "base")
"""The stages that train it."""
_FILES = (".json", ".jinja", ".safetensors")
_BATCH = 16


def answers(folder: Path, samples: Iterable[Any], shards_root: Path, max_tokens: int = 256) -> dict[str, str]:
    """Id -> greedy reply of the model in `folder`, on the CPU and without constraints of the layout."""
    import torch

    from diagcot.training.data.collator import Collator
    from diagcot.training.models import model

    network, processor = model.load(folder).eval(), model.load_processor(folder)
    network.config.use_cache = True
    network.set_attn_implementation("eager")  # prompts are padded on the left here, which needs a mask
    collator = Collator(processor, shards_root, 4096)
    tokenizer = processor.tokenizer
    replies = {}
    rows = sorted(samples, key=lambda sample: sum(len(text) for _, text in sample.messages))
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        encoded = [collator.encode(sample) for sample in batch]
        prompts = [e.ids[: int((e.labels != -100).nonzero()[0])] for e in encoded]
        inputs = collator.join(encoded, batch)
        width = max(map(len, prompts))
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = prompt, 1
        images = {name: inputs[name] for name in ("pixel_values", "image_grid_thw") if name in inputs}
        with torch.inference_mode():
            out = network.generate(
                input_ids=ids,
                attention_mask=mask,
                mm_token_type_ids=(ids == collator.image_id).int(),
                max_new_tokens=max_tokens,
                do_sample=False,
                **images,
            )
        for sample, reply in zip(batch, out[:, width:], strict=True):
            replies[f"{sample.task}:{sample.id}"] = tokenizer.decode(reply, skip_special_tokens=True)
    return replies


def right(sample: Any, reply: str) -> dict[str, bool]:
    """What a reply shows: whether it is the expected one, its layout valid, its verdict right, its reference copied."""
    outcome = {sample.task: reply.strip() == sample.answer.strip()}
    if sample.answer.startswith("{"):
        expected = json.loads(sample.answer)
        try:
            row = json.loads(reply)
        except ValueError:
            row = {}
        outcome["layout"] = isinstance(row, dict) and row.keys() == expected.keys()
        if "verdict" in expected:
            outcome["verdict"] = row.get("verdict") is expected["verdict"]
        if "conclusion" in expected:
            outcome["conclusion copied"] = row.get("conclusion") == expected["conclusion"]
    return outcome


def measure(folder: Path, run: str, count: int) -> dict[str, float]:
    """Share of right replies, 0 to 1, of up to `count` held-out samples of every conversation, by what is measured."""
    from diagcot.tasks.samples import read_samples

    shards_root = ROOT / "shards"
    by_task: dict[str, list[Any]] = defaultdict(list)
    for path in sorted((shards_root / run / "exam").glob("*.jsonl")):
        for sample in read_samples(path):
            by_task[sample.task].append(sample)
    samples = [sample for task in sorted(by_task) for sample in by_task[task][:count]]
    replies = answers(folder, samples, shards_root)
    outcomes: dict[str, list[bool]] = defaultdict(list)
    for sample in samples:
        for name, value in right(sample, replies[f"{sample.task}:{sample.id}"]).items():
            outcomes[name].append(value)
    return {name: round(sum(values) / len(values), 4) for name, values in sorted(outcomes.items())}


def digest(folder: Path) -> str:
    """SHA-256 of the weights in `folder`."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def publish(folder: Path, figures: dict[str, float], seed: int, steps: dict[str, int]) -> None:
    """Copy the model's files to recipes/toy-base/ and write figures and card."""
    for path in folder.iterdir():
        if path.suffix in _FILES and path.name != "diagcot.json":
            shutil.copyfile(path, PLACE / path.name)
    record = {"seed": seed, "steps": steps, "sha256": digest(PLACE), "figures": figures}
    (PLACE / "figures.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    goals = {name: f"{goal:.0%}" for name, goal in GOALS.items()}
    lines = "\n".join(f"| {name} | {value:.1%} | {goals.get(name, '')} |" for name, value in figures.items())
    size = (PLACE / "model.safetensors").stat().st_size / 1e6
    (PLACE / "README.md").write_text(
        f"""# The base of the demos

A Qwen2.5-VL of {size:.1f} MB that this project trained from random weights with `make toy-base`: recipes/toy-base.yaml,
seed {seed}, {steps["copying"]} steps of copying, {steps["choosing"]} of reading options, {steps["conversing"]} of all
conversations, {steps["base"]} of the same with more images.
Its data are phantoms, drawings of simple shapes and text by rule; no image or report of a person is part of it. It is for
demonstrations and tests only; do not use it on images of people.

SHA-256 of model.safetensors: `{record["sha256"]}`

Greedy replies to conversations about patients that the training did not see. A reply is right if it is the expected text;
for the rows `verdict`, `layout` and `conclusion copied`, if that part is right. Text that an image alone decides (`report`,
`grounding`) is rarely word for word the same.

| what | right | goal |
|---|---|---|
{lines}
""",
        encoding="utf-8",
    )


def main() -> int:
    """Measure and publish the model of a run; exit status 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="name of the run of recipes/toy-base.yaml")
    parser.add_argument("--count", type=int, default=200, help="held-out samples of every conversation (default 200)")
    parser.add_argument("--dry", action="store_true", help="measure without publishing")
    options = parser.parse_args()
    folder = ROOT / "models" / options.run / "base" / "model"
    figures = measure(folder, options.run, options.count)
    for name, value in figures.items():
        print(f"{name:24s} {value:7.1%}" + (f"  goal {GOALS[name]:.0%}" if name in GOALS else ""))
    if not options.dry:
        recipe = yaml.safe_load((ROOT / "logs" / options.run / "recipe.yaml").read_text(encoding="utf-8"))
        stages = {stage["name"]: stage for stage in recipe["stages"]}
        steps = {name: stages[name]["settings"]["deepspeed"]["steps"] for name in STAGES}
        publish(folder, figures, recipe["seed"], steps)
        print(f"published in {PLACE.relative_to(ROOT)}")
    missed = [name for name, goal in GOALS.items() if figures.get(name, 0.0) < goal]
    if missed:
        print(f"below the goal: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
