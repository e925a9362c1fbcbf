"""Writes a whole run with phantom films, stages and predictions of five models, for the tests of tables and reports."""

import json
import math
import random
import re
import time
from pathlib import Path

from diagcot.data.phantom.drawing import VIEWS, draw
from diagcot.data.phantom.findings import Findings
from diagcot.data.phantom.patients import visits
from diagcot.data.pixels import convert
from diagcot.data.study import CHEXPERT_LABELS, Image, Study
from diagcot.jobs.cluster import Size
from diagcot.jobs.plans import plan
from diagcot.jobs.plans.units import Units
from diagcot.jobs.state import ledger
from diagcot.shards import Shard
from diagcot.shards.writer import ShardWriter
from diagcot.tasks import diagnosis as tasks
from diagcot.tasks.predictions import ASKED, Prediction
from diagcot.tasks.prompt_set import DEFAULT
from diagcot.tasks.prompts import classification_answer, reasoned
from diagcot.tasks.questions.questions import question_samples
from diagcot.tasks.questions.wording import Wording

MODELS = ("base", "align", "teacher", "cot-sft", "grpo")
SKILL = {"base": 0.15, "align": 0.45, "teacher": 0.62, "cot-sft": 0.6, "grpo": 0.85}


def write_shard(
    path: Path,
    studies: int,
    dataset: str = "mimic_cxr",
    size: int = 112,
    seed: int = 0,
    splits: tuple[str, ...] = ("test",),
) -> Shard:
    """A shard of phantoms whose splits follow each other; by default all are of the test split."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with ShardWriter(path) as out:
        for number, visit in enumerate(visits(studies, seed)):
            found: Findings = visit.findings
            drawn = [draw(str(visit.study), found, view, size) for view in VIEWS]
            images = tuple(
                Image(f"{visit.study}-{film.view}", film.view, boxes=film.boxes, phantom=True) for film in drawn
            )
            findings, impression = found.report()
            study = Study(
                dataset,
                str(visit.study),
                str(visit.subject),
                splits[number % len(splits)],
                findings,
                impression,
                labels=found.labels(),
                images=images,
            )
            out.add(study, [convert(film.jpeg(), size, 90) for film in drawn])
    return Shard(path)


def answer(sample, model: str, others: list[str]) -> Prediction:
    """An answer that keeps each sentence, and each box, of the reference with the model's skill."""
    skill, rng = SKILL[model], random.Random(f"{sample.id}{model}")
    scores = {}
    if sample.task in ASKED:
        return Prediction.of(sample, model, asked(sample, skill, rng, others), "stop", "test")
    if sample.task == "classification":
        truth = {name: sample.meta["labels"].get(name) == 1 for name in CHEXPERT_LABELS}
        scores = {name: (skill * value + rng.random()) / (1 + skill) for name, value in truth.items()}
        text = classification_answer([name for name, score in scores.items() if score > 0.5])
    elif sample.task == "grounding":
        jitter = int(400 * (1 - skill))
        text = re.sub(r"\d+", lambda n: str(max(0, min(1000, int(n[0]) + rng.randint(-jitter, jitter)))), sample.answer)
    else:
        strange = rng.choice(others).split(" . ")
        text = " . ".join(s if rng.random() < skill else rng.choice(strange) for s in sample.answer.split(" . "))
    think = "Heart: the silhouette is compared with the thorax.\nLungs: both bases and apices are looked at."
    output = reasoned(think, text) if model in ("cot-sft", "grpo") else text
    finish = "stop" if rng.random() > 0.02 else "length"
    return Prediction.of(sample, model, output, finish, "test", scores)


def asked(sample, skill: float, rng: random.Random, others: list[str]) -> str:
    """The gold answer to a question with the model's skill, else another option or another report's words."""
    if rng.random() < skill:
        return sample.answer
    options = sample.meta.get("options")
    return f"{rng.choice('ABCDEFG'[: len(options)])}) ✅" if options else rng.choice(others)


def write_predictions(
    root: Path, shard: Shard, shards_root: Path, limit: int | None = None, questions: tuple[str, ...] = ()
) -> None:
    """One JSONL file for each model and task, as the evaluation stage writes them."""
    root.mkdir(parents=True, exist_ok=True)
    name = str(shard.path.relative_to(shards_root))
    samples = {
        "report": list(tasks.report_samples(shard, name, "test"))[:limit],
        "grounding": list(tasks.grounding_samples(shard, name, "test"))[:limit],
    }
    for task in questions:
        made = tasks.SAMPLES[task](shard, name, "test", "image", DEFAULT) if task in tasks.SAMPLES else None
        made = made or question_samples(shard, name, "test", {task: 1.0}, Wording(), 7, "image")
        samples[task] = list(made)[:limit]
    others = [sample.answer for sample in samples["report"]]
    for model in MODELS:
        for task, mine in samples.items():
            rows = [json.dumps(answer(sample, model, others).row()) for sample in mine]
            (root / f"{model}.{task}.{shard.path.stem}.jsonl").write_text("".join(row + "\n" for row in rows))


def write_stages(logs: Path, root: Path, start: float | None = None) -> None:
    """Stage folders that are done, with training logs for those that train; one was retried."""
    clock = start or time.time() - 600
    names = ["shard", "base", "align", "teacher", "cot", "filter", "cot-sft", "grpo", "evaluate"]
    numbers = dict(zip(names, ["0", "1", "1", "1", "2", "2", "2", "3", "eval"], strict=True))
    (logs / "stages").write_text("\n".join(names))
    (logs / "recipe.yaml").write_text("name: tiny\n")
    (logs / "run.json").write_text(json.dumps({"uuid": "0" * 32, "recipe": "tiny", "cluster": "laptop"}))
    for name in names:
        units = 4 if name in ("shard", "cot", "filter") else 1
        weights = name not in ("shard", "cot", "filter", "evaluate")
        output = root / ("models" if weights else "shards") / "demo" / name
        output.mkdir(parents=True, exist_ok=True)
        made = plan.write(
            plan.Plan(
                "demo",
                name,
                numbers[name],
                f"diagcot.{name}",
                {"warn_gap": 0.02, "max_gap": 0.15} if name == "grpo" else {},
                {},
                output,
                root / "work",
                root / "shards",
                7,
                (),
                Size(),
                units,
                logs / name,
                units=Units(f"{i:05d}" for i in range(units)),
                code="c0ffee",
            )
        )
        seconds = {"shard": 9, "base": 95, "align": 40, "grpo": 120, "evaluate": 61}.get(name, 25)
        for key in made.keys:
            product = output / f"{key}.done"
            staged = product.with_suffix(".staged")
            staged.write_text(name)
            about = {"started": clock, "seconds": seconds / units, "startup_seconds": 3.0}
            ledger.publish(made.path, key, {product: staged}, {"samples": 40}, about)
            manifest = made.path / "done" / f"{key}.json"
            manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"time": clock + seconds}))
        if name == "cot":
            (made.path / "failed").mkdir()
            failed = {
                "task": "00001",
                "attempt": "1",
                "rank": 0,
                "time": clock,
                "type": "ServerError",
                "message": "the model server died 4 times in a row",
            }
            (made.path / "failed" / "00001.1.r0.json").write_text(json.dumps(failed))
        if weights:
            rows = [
                {"step": s, "epoch": s / 50, "loss": 3 * math.exp(-s / 60) + 0.4 + 0.1 * random.Random(s).random()}
                | (
                    {"reward": 0.4 + s / 600, "reward_format": 1 - math.exp(-s / 30), "gap": 0.03}
                    if name == "grpo"
                    else {}
                )
                for s in range(1, 201)
            ]
            (output / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        clock += seconds if name != "align" else 0


def write_run(
    root: Path,
    studies: int = 12,
    size: int = 112,
    datasets: tuple[str, ...] = ("mimic_cxr",),
    questions: tuple[str, ...] = (),
) -> Path:
    """The run `demo` under `root`; returns its folder of logs."""
    logs = root / "logs" / "demo"
    logs.mkdir(parents=True)
    for place, dataset in enumerate(datasets):
        shard = write_shard(root / "shards" / "demo" / "shard" / f"{place:05d}.h5", studies, dataset, size, place)
        write_predictions(root / "shards" / "demo" / "evaluate", shard, root / "shards", questions=questions)
    write_stages(logs, root)
    return logs
