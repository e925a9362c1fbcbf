"""The base of the demos in recipes/toy-base/: its card is true."""

import json
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from diagcot.cot.synthetic import synthetic_sft
from diagcot.data.phantom import build as phantoms
from diagcot.jobs import Unit
from diagcot.jobs.testing import context, run_unit
from diagcot.shards import build
from diagcot.tasks.samples import Sample, read_samples

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import toy_base as tool  # noqa: E402  a script, not a package

UNIT = Unit("00000")
COUNT = 60  # conversations of each kind, about patients of another seed than that of the training


def test_weights_are_small_and_those_of_the_card() -> None:
    record = json.loads((tool.PLACE / "figures.json").read_text(encoding="utf-8"))
    assert (tool.PLACE / "model.safetensors").stat().st_size <= 8_000_000
    assert tool.digest(tool.PLACE) == record["sha256"]
    assert record["sha256"] in (tool.PLACE / "README.md").read_text(encoding="utf-8")
    assert set(record["figures"]) >= set(tool.GOALS)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bool]]:
    """What is measured -> whether each reply was right."""
    root = tmp_path_factory.mktemp("exam")
    shards = root / "shards" / "test"

    def stage(kind: object, name: str, unit: Unit, settings: dict[str, object], **inputs: str) -> None:
        found = {role: [str(shards / where)] for role, where in inputs.items()}
        run_unit(kind, unit, context(root, settings, stage=name, output=shards / name, inputs=found))

    stage(phantoms, "phantoms", Unit("tree"), {"studies": 90, "views": ["PA"], "held_out": 0.0})
    source = {"kind": "mimic_cxr", "input": "phantoms", "frontal_only": True}
    stage(build, "shard", UNIT, {"sources": [source], "image_size": 112}, phantoms="phantoms")
    tasks = {"copy": 1.0, "letters": 1.0, "choice": 2.0, "verify_true": 1.0, "verify_false": 1.0, "init": 1.0}
    stage(synthetic_sft, "exam", UNIT, {"tasks": tasks}, shards="shard")
    by_task: dict[str, list[Sample]] = defaultdict(list)
    for sample in read_samples(shards / "exam" / "00000.jsonl"):
        by_task[sample.task].append(sample)
    samples = [sample for rows in by_task.values() for sample in rows[:COUNT]]
    replies = tool.answers(tool.PLACE, samples, root / "shards")
    results: dict[str, list[bool]] = defaultdict(list)
    for sample in samples:
        for name, value in tool.right(sample, replies[f"{sample.task}:{sample.id}"]).items():
            results[name].append(value)
    return results


@pytest.mark.parametrize("name", [*tool.GOALS, "conclusion copied", "layout"])
def test_its_figures_hold_on_patients_that_it_has_not_seen(name: str, outcomes: dict[str, list[bool]]) -> None:
    """Within three standard errors, those of this small sample and of the sample behind the card."""
    values = outcomes[name]
    assert len(values) >= COUNT
    figure = json.loads((tool.PLACE / "figures.json").read_text(encoding="utf-8"))["figures"][name]
    error = (max(figure * (1 - figure), 0.02) / len(values)) ** 0.5
    assert sum(values) / len(values) >= figure - 3 * error
