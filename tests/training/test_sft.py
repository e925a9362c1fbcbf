"""Supervised fine-tuning on two real DeepSpeed ranks over gloo."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.training.conftest import deepspeed, inputs
from tests.training.ranks import Job, start

pytestmark = pytest.mark.heavy
EVERYTHING = ["vision", "merger", "language_model", "lm_head"]
KIND = "diagcot.training.sft"


@pytest.fixture(scope="module")
def whole(made: Path) -> Job:
    """An uninterrupted run at ZeRO-2."""
    job = start(made, KIND, "whole", _settings(), inputs(made))
    job.wait()
    return job


def _settings(**changes: object) -> dict[str, object]:
    return {"trainable": EVERYTHING, "deepspeed": deepspeed(**changes), "validation": 6}


def test_learns_and_writes_a_model(whole: Job) -> None:
    rows = whole.rows()
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert rows[-1]["validation_loss"] < rows[0]["loss"]
    about = json.loads((whole.output / "model" / "diagcot.json").read_text())
    assert about["trainable"] == about["parameters"] and about["steps"] == 10
    assert about["loss"] == rows[-1]["loss"]
    assert (whole.output / "train.jsonl").read_text() == (whole.workspace / "train.jsonl").read_text()


def test_model_directory_gives_the_trained_loss(whole: Job, made: Path) -> None:
    """What was written, read anew by transformers, has the validation loss that the ranks measured."""
    import torch

    from diagcot.jobs.testing import context
    from diagcot.training import dataset, language, model
    from diagcot.training.batch import Collator
    from tests.training.films import DrawnSource

    network = model.load(whole.output / "model").eval()
    collator = Collator(model.processor_of(whole.output / "model"), made, 4096, source=DrawnSource())
    data = dataset.gather(context(made, inputs=inputs(made)), {}, 1.0, 6)
    assert len(data.validation) == 6 and not {s.study for s in data.train} & {s.study for s in data.validation}
    batch = collator(data.validation)
    with torch.no_grad():
        loss = language.summed_loss(network(**language.inputs_of(batch)).logits, batch["labels"])
    targets = int((batch["labels"][:, 1:] != language.IGNORED).sum())
    assert float(loss) / targets == pytest.approx(whole.rows()[-1]["validation_loss"], rel=1e-4)


def test_killed_and_resumed_gives_the_same_model(whole: Job, made: Path) -> None:
    killed = start(made, KIND, "killed", _settings(), inputs(made))
    killed.kill_after(6)
    assert not (killed.output / "model").exists()
    resumed = start(made, KIND, "killed", _settings(), inputs(made))
    resumed.wait()
    assert [row["step"] for row in resumed.rows()] == list(range(1, 11))
    assert [row["loss"] for row in resumed.rows()] == pytest.approx([row["loss"] for row in whole.rows()], rel=1e-5)
    mine, other = (load_file(job.output / "model" / "model.safetensors") for job in (resumed, whole))
    assert mine.keys() == other.keys()
    assert max(float((mine[name] - other[name]).abs().max()) for name in mine) < 1e-5


def test_zero_3_stopped_and_resumed_agrees_with_zero_2(whole: Job, made: Path) -> None:
    first = start(made, KIND, "zero3", _settings(stage=3), inputs(made), stop_after=5)
    assert "stopped" in first.wait()
    assert not (first.output / "model").exists()
    again = start(made, KIND, "zero3", _settings(stage=3), inputs(made))
    again.wait()
    assert [row["loss"] for row in again.rows()] == pytest.approx([row["loss"] for row in whole.rows()], rel=1e-3)
    assert (
        load_file(again.output / "model" / "model.safetensors").keys()
        == load_file(whole.output / "model" / "model.safetensors").keys()
    )
