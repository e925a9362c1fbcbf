"""A GRPO stage of one rank, with Ray in this process, whose servers are scripted."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs import Context
from diagcot.jobs.testing import context
from diagcot.serving.server import process
from diagcot.tasks.samples import Sample
from diagcot.training.config.grpo_settings import GrpoSettings
from tests.fakes import ray_here
from tests.fakes.serving import COMMAND, write_script

SAMPLE = Sample("d/s/i", "binary", "d/s", (), (("user", "Is it clear?"), ("assistant", "yes")))
DEEPSPEED = {"steps": 2, "micro_batch": 2, "global_batch": 2, "precision": "fp32", "learning_rate": 1e-3}


@contextlib.contextmanager
def stage(
    root: Path, monkeypatch: pytest.MonkeyPatch, script: dict[str, Any], **changes: Any
) -> Iterator[tuple[Any, Context]]:
    """The state of the stage, for as many steps as its settings say, and its context. changes: of settings."""
    from diagcot.training.distributed import process_group
    from diagcot.training.kinds import grpo
    from diagcot.training.rl import rollout_pool
    from diagcot.training.rl.curriculum import Curriculum
    from diagcot.training.rl.loop import LoopState
    from tests.serving import tiny

    ray_here.install(monkeypatch)
    write_script(root, monkeypatch, exchanges=True, **script)
    monkeypatch.setattr(process, "program", lambda override: COMMAND)
    tiny.build(root / "shards/test/base/model")
    settings = GrpoSettings.model_validate(
        {
            "reward": {"name": "classification", "workers": 1},
            "prompts_per_step": 1, "group_size": 2, "max_tokens": 8, "deepspeed": DEEPSPEED,
            "server": {"startup_timeout_s": 60, "shutdown_timeout_s": 1, "enforce_eager": True},
            **changes,
        }
    )  # fmt: skip
    ctx = context(root, inputs={"model": [str(root / "shards/test/base")]})
    prompts = Curriculum(settings, 7, settings.deepspeed.steps or 0, [SAMPLE], [], [])
    head: Any = type("Head", (), {"lost": False, "check": lambda self: None})()
    with process_group.connected(ctx), contextlib.ExitStack() as stack:
        pool = rollout_pool.RolloutPool(grpo.model_input(ctx), settings, ctx, prompts.corpus(), head)
        stack.callback(pool.close)
        yield LoopState(settings, prompts, pool), ctx
