"""The projector's stage: on two ranks the contrastive loss sees the pairs of both."""

from pathlib import Path

import pytest

from tests.training.conftest import deepspeed, inputs
from tests.training.ranks import start

pytestmark = pytest.mark.heavy


def test_two_ranks_compute_the_loss_of_one(made: Path) -> None:
    """Same global batch on one and two ranks: the same losses, gradients and merger, and nothing else changed."""
    from safetensors.torch import load_file

    def settings(micro: int) -> dict[str, object]:
        return {"loss": "combined", "deepspeed": deepspeed(micro_batch=micro, steps=4), "validation": 6}

    jobs = [
        start(made, "diagcot.training.align", f"align{world}", settings(8 // world), inputs(made), world)
        for world in (2, 1)
    ]
    for job in jobs:
        job.wait()
    two, one = (job.rows() for job in jobs)
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=2e-3)
    assert two[-1]["loss"] < two[0]["loss"]
    assert 0 <= two[-1]["validation_recall_at_1"] <= two[-1]["validation_recall_at_5"] <= 1
    base, trained, alone = (
        load_file(root / "model" / "model.safetensors")
        for root in (made / "shards/test/base", jobs[0].output, jobs[1].output)
    )
    assert base.keys() == trained.keys()  # a server refuses weights that the model does not have
    changed = {name for name in base if not base[name].equal(trained[name])}
    assert changed and all("merger" in name for name in changed)
    assert max(float((trained[name] - alone[name]).abs().max()) for name in base) < 1e-3
