from pathlib import Path
from typing import Any

import pytest

from tests.training import images
from tests.training.ranks import Job, start


@pytest.fixture(scope="session")
def training_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 64 samples and a tiny model whose tokenizer knows their words."""
    root = tmp_path_factory.mktemp("training")
    from diagcot.jobs import Unit
    from diagcot.jobs.testing import context, run_unit
    from diagcot.training.kinds import model as build

    images.write(root / "shards" / "test" / "samples", 64)
    ctx = context(root, TINY, inputs={"samples": [str(root / "shards/test/samples")]}, stage="base")
    assert run_unit(build, Unit("model"), ctx) is not None
    return root


@pytest.fixture(scope="session")
def undisturbed(training_root: Path) -> Job:
    """An uninterrupted run of kind `sft` on two ranks at ZeRO-2."""
    job = start(training_root, SFT, "whole", everything(), inputs(training_root))
    job.wait()
    return job


SFT = "diagcot.training.kinds.sft"
TINY = {"tiny": {"hidden": 64, "layers": 2, "vision_hidden": 32, "intermediate": 128, "vocabulary": 400}}


def inputs(root: Path) -> dict[str, list[str]]:
    return {"model": [str(root / "shards/test/base")], "samples": [str(root / "shards/test/samples")]}


def deepspeed(**changes: Any) -> dict[str, Any]:
    return {
        "micro_batch": 2,
        "global_batch": 8,
        "learning_rate": 4e-3,
        "warmup_steps": 2,
        "steps": 10,
        "precision": "fp32",
        "save_every": 4,
        **changes,
    }


def everything(**changes: Any) -> dict[str, Any]:
    """Settings of kind `sft` that train all of the model."""
    trainable = ["vision", "merger", "language_model", "lm_head"]
    return {"trainable": trainable, "deepspeed": deepspeed(weight_decay=0.1, **changes), "validation": 6}
