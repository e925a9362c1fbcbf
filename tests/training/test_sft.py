"""Supervised fine-tuning on two real DeepSpeed ranks over gloo."""

import json
from pathlib import Path

import pytest

from tests.training.conftest import inputs
from tests.training.ranks import Job

pytestmark = pytest.mark.heavy


def test_learns_and_writes_a_model(undisturbed: Job) -> None:
    rows = undisturbed.rows()
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert rows[-1]["validation_loss"] < rows[0]["loss"]
    about = json.loads((undisturbed.output / "model" / "diagcot.json").read_text())
    assert about["trainable"] == about["parameters"] and about["steps"] == 10
    assert about["loss"] == rows[-1]["loss"]
    assert (undisturbed.output / "train.jsonl").read_text() == (undisturbed.workspace / "train.jsonl").read_text()


def test_model_directory_gives_the_trained_loss(undisturbed: Job, training_root: Path) -> None:
    """What was written, read by transformers, has the validation loss that the ranks measured."""
    import torch

    from diagcot.jobs.testing import context
    from diagcot.training.data import dataset
    from diagcot.training.data.collator import Collator
    from diagcot.training.losses import language
    from diagcot.training.models import model
    from tests.training.images import DrawnImages

    network = model.load(undisturbed.output / "model").eval()
    collator = Collator(model.load_processor(undisturbed.output / "model"), training_root, 4096, source=DrawnImages())
    data = dataset.load(context(training_root, inputs=inputs(training_root)), {}, 1.0, 6)
    assert len(data.validation) == 6 and not {s.study for s in data.train} & {s.study for s in data.validation}
    batch = collator(data.validation)
    with torch.no_grad():
        loss = language.summed_loss(network, language.model_inputs(batch), batch["labels"])
    targets = int((batch["labels"][:, 1:] != language.IGNORED).sum())
    assert float(loss) / targets == pytest.approx(undisturbed.rows()[-1]["validation_loss"], rel=1e-4)


def test_every_figure_is_in_the_log_on_tensorboard_and_in_the_picture(undisturbed: Job) -> None:
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows, logs = undisturbed.rows(), undisturbed.root / "logs" / "test" / "whole"
    names = {"loss", "lr", "grad_norm", "tokens_per_s", "memory_gb", "data_wait", "seconds"}
    assert all(names <= row.keys() and "mfu" not in row for row in rows)  # a CPU's peak is unknown
    assert all(0 <= row["data_wait"] <= 1 and row["memory_gb"] > 0.05 for row in rows)
    board = EventAccumulator(str(logs / "tensorboard")).Reload()
    for name in names:
        values = [(event.step, event.value) for event in board.Scalars(name)]
        assert values == [(row["step"], pytest.approx(row[name], rel=1e-5)) for row in rows]
    with Image.open(logs / "curves.png") as picture:
        assert picture.format == "PNG" and picture.width > 600
        assert (
            len(set(picture.convert("RGB").resize((200, 200)).get_flattened_data())) > 50
        )  # lines, and not an empty page
