"""The projector's stage: on two ranks the contrastive loss sees the pairs of both."""

from pathlib import Path

import pytest

from tests.training.conftest import deepspeed, inputs
from tests.training.ranks import Job, start

pytestmark = pytest.mark.heavy


def test_two_ranks_compute_the_loss_of_one(training_root: Path) -> None:
    """One global batch as one pass of one rank, and as two passes of two ranks: the same losses, gradients and merger.

    The contrastive loss is over all its pairs either way, and nothing but the merger changes.
    """
    from safetensors.torch import load_file

    def settings(micro: int) -> dict[str, object]:
        return {
            "loss": "combined",
            "deepspeed": deepspeed(micro_batch=micro, steps=4),
            "validation": 6,
            "validate_every": 2,
        }

    # As the recipes train it: a frozen language model in parts, whose reports are embedded and whose images are cached there.
    divided = {"deepspeed": deepspeed(micro_batch=2, steps=4, stage=3, gradient_checkpointing=True)}
    jobs = [
        start(
            training_root,
            "diagcot.training.kinds.align",
            f"align{world}",
            settings({1: 8, 2: 2}[world]),
            inputs(training_root),
            world,
            further={"align-zero3": divided} if world == 2 else {},
        )
        for world in (2, 1)
    ]
    for job in jobs:
        job.wait()
    three = Job(training_root, "align-zero3", [], jobs[0].log)
    two, one = (job.rows() for job in jobs)
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-4)
        assert [row[name] for row in three.rows()] == pytest.approx([row[name] for row in one], rel=1e-3)
    assert two[-1]["loss"] < two[0]["loss"]
    for row in (two[1], two[3]):
        recall = [row[f"validation_recall_at_{k}"] for k in (1, 5, 10)]
        assert recall == sorted(recall) and recall[0] >= 0 and recall[-1] <= 1
    assert "validation_recall_at_1" not in two[2]
    base, trained, alone = (
        load_file(root / "model" / "model.safetensors")
        for root in (training_root / "shards/test/base", jobs[0].output, jobs[1].output)
    )
    assert base.keys() == trained.keys()  # a server refuses weights that the model does not have
    changed = {name for name in base if not base[name].equal(trained[name])}
    assert changed and all("merger" in name for name in changed)
    assert max(float((trained[name] - alone[name]).abs().max()) for name in base) < 1e-4
    parts = load_file(three.output / "model" / "model.safetensors")
    assert max(float((parts[name] - alone[name]).abs().max()) for name in base) < 1e-3
