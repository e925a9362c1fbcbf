"""GRPO whose reward has components of models: tiny ones in the published formats, and a judge on a real vLLM server."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.evaluation import report_models
from tests.serving import tiny as judges
from tests.training import warm as tiny
from tests.training.ranks import Job, start

pytestmark = pytest.mark.heavy

WEIGHTS = {"format": 0.2, "chexbert": 0.3, "radgraph": 0.3, "judge": 0.2}
SETTINGS: dict[str, Any] = {
    "reward": {"name": "report", "mode": "clinical", "components": WEIGHTS},
    "reasoning": "none",  # whatever the policy writes is its report
    "prompts_per_step": 1,
    "group_size": 4,
    "max_tokens": 40,
    "precheck_groups": 0,  # a policy that has learned nothing does not end its reports
    "temperature": 1.0,
    "kl_coef": 0.0,
    "server": {"max_model_len": 512, "max_num_seqs": 16, "images": 1, "startup_timeout_s": 150},
    "deepspeed": {
        "steps": 2, "save_every": 2, "micro_batch": 4, "global_batch": 4, "learning_rate": 1e-3, "schedule": "constant",
        "precision": "fp32",
    },
}  # fmt: skip
# The judge writes bytes at random, up to four for a character of its reason.
JUDGE = {"max_tokens": 1000, "server": {"max_model_len": 4096, "max_num_seqs": 8, "startup_timeout_s": 150}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of phantoms, a policy and a judge that have learned nothing, and a folder of tiny models that read reports."""
    root = tmp_path_factory.mktemp("models")
    tiny.raw(root, studies=12)
    report_models.write_chexbert(root / "weights")
    report_models.write_radgraph(root / "weights", "radgraph")
    judges.build(root / "shards/test/judge/model")
    return root


def grpo(root: Path, stage: str) -> Job:
    models = {"weights": str(root / "weights"), "judge": JUDGE}
    inputs = {
        "model": [str(root / "shards/test/model")],
        "shards": [str(root / "shards/test/shard")],
        "judge": [str(root / "shards/test/judge")],
    }
    settings = SETTINGS | {"reward_models": models}
    return start(root, "diagcot.training.kinds.grpo", stage, settings, inputs, world=1, drawn=False)


def children(job: Job, word: str) -> Iterator[Any]:
    import psutil

    for process in psutil.Process(job.processes[0].pid).children(recursive=True):
        try:
            if word in " ".join(process.cmdline()):
                yield process
        except psutil.Error:
            continue


def test_models_score_each_group_and_a_dead_judge_is_started_again(root: Path) -> None:
    job = grpo(root, "judged")
    job.reach(1)
    (judge,) = [process for process in children(job, "judge/model") if os.getpgid(process.pid) == process.pid]
    os.killpg(judge.pid, signal.SIGKILL)
    job.wait()
    rows = [row for row in job.rows() if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        parts = sum(weight * row[f"reward_{name}"] for name, weight in WEIGHTS.items())
        assert row["reward"] == pytest.approx(parts, abs=1e-4)
        assert all(0 <= row[f"reward_{name}"] <= 1 for name in WEIGHTS)
        assert row["reward_plain"] != row["reward"] and row["reward_unread"] == 0  # every verdict was read
        seconds = [row[f"reward_{name}_s"] for name in ("chexbert", "radgraph", "judge")]
        assert max(seconds) > 0
        shares = sum(row[name] for name in ("sync_s", "rollout_s", "reward_s", "train_s", "idle_s"))
        assert shares == pytest.approx(row["seconds"], abs=1e-3)
    assert max(row["spread"] for row in rows) > 0 and max(row["reward_judge"] for row in rows) > 0
    assert [event["number"] for event in job.events("server_restart")] == [1]
