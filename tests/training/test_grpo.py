"""GRPO on two gloo ranks with Ray and a real vLLM server: the servers follow the policy, and a kill costs nothing."""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diagcot.data.prompts import reasoned
from diagcot.data.samples import Sample, write_samples
from diagcot.jobs.context import Unit
from diagcot.jobs.testing import context, run_unit
from tests.training.ranks import Job, start

pytestmark = pytest.mark.heavy

SERVER = {"max_model_len": 512, "max_num_seqs": 64, "images": 1, "startup_timeout_s": 150}
SETTINGS: dict[str, Any] = {
    "reward": {"name": "report", "mode": "clinical"},
    "prompts": 4,
    "samples": 8,
    "max_tokens": 110,
    "temperature": 1.0,
    "kl": 0.01,
    "max_gap": 0.02,
    "server": SERVER,
    "deepspeed": {
        "steps": 4, "save_every": 2, "micro_batch": 8, "global_batch": 32,
        "learning_rate": 1e-3, "schedule": "constant", "precision": "fp32",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of phantoms, and a tiny model that has begun to answer in think and answer tags."""
    root = tmp_path_factory.mktemp("grpo")
    from diagcot.data.phantom import build as phantoms
    from diagcot.shards import build as shards
    from diagcot.shards import shard_paths
    from diagcot.training import build as model

    tree = context(root, {"studies": 80, "size": 112}, stage="phantoms")
    assert run_unit(phantoms, Unit("tree"), tree)
    source = {"kind": "mimic_cxr", "input": "phantoms"}
    sharding = context(
        root, {"sources": [source], "image_size": 112}, stage="shard", inputs={"phantoms": [str(tree.output)]}
    )
    assert run_unit(shards, Unit("00000"), sharding)
    samples = root / "shards/test/samples"
    samples.mkdir()
    write_samples(samples / "00000.jsonl", map(_reasoned, _reports(root, shard_paths(sharding.output)[0])))
    tiny = {
        "hidden": 64,
        "heads": 2,
        "kv_heads": 1,
        "layers": 2,
        "vision_hidden": 32,
        "intermediate": 128,
        "vocabulary": 600,
    }
    built = context(root, {"tiny": tiny}, stage="model", inputs={"samples": [str(samples)]})
    assert run_unit(model, Unit("model"), built)
    settings = {
        "trainable": ["vision", "merger", "language_model", "lm_head"], "max_length": 512, "tasks": {}, "validation": 0,
        "deepspeed": {
            "steps": 120, "micro_batch": 8, "global_batch": 8, "learning_rate": 4e-3, "warmup_steps": 10,
            "precision": "fp32", "save_every": 1000,
        },
    }  # fmt: skip
    inputs = {"model": [str(built.output)], "samples": [str(samples)]}
    start(root, "diagcot.training.sft", "warm", settings, inputs, world=1, drawn=False).wait()
    return root


def _reports(root: Path, shard: Path) -> Iterator[Sample]:
    from diagcot.data.tasks import report_samples
    from diagcot.shards import Shard

    return report_samples(Shard(shard), str(shard.relative_to(root / "shards")), "train")


def _reasoned(sample: Sample) -> Sample:
    first = sample.answer.split(" . ")[0]
    return replace(sample, messages=(sample.messages[0], ("assistant", reasoned(first, sample.answer))))


@pytest.fixture(scope="module")
def standby() -> Iterator[None]:
    """One server for both runs, as on a laptop."""
    from diagcot.serving import standby as servers

    with tempfile.TemporaryDirectory(prefix="dc-", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv(servers.FOLDER, folder)
        patch.setenv(servers.OWNER, str(os.getpid()))
        yield
        servers.stop(Path(folder))


def grpo(root: Path, stage: str, **changes: Any) -> Job:
    inputs = {"model": [str(root / "shards/test/warm")], "shards": [str(root / "shards/test/shard")]}
    return start(root, "diagcot.training.grpo", stage, SETTINGS | changes, inputs, drawn=False)


def test_servers_follow_the_policy_and_a_killed_run_ends_the_same(warm: Path, standby: None) -> None:
    whole = grpo(warm, "whole")
    whole.wait()
    rows = whole.rows()
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["gap"] < 0.02 for row in rows), [row["gap"] for row in rows]
    assert max(row["spread"] for row in rows) > 0 and max(row["grad_norm"] for row in rows) > 0
    assert rows[-1]["kl"] > rows[0]["kl"]  # it has moved, and the servers with it
    about = json.loads((whole.output / "model" / "diagcot.json").read_text())
    assert about["steps"] == 4 and (whole.output / "model" / "model.safetensors").is_file()

    killed = grpo(warm, "killed")
    killed.kill_after(3)
    assert [path.name for path in (killed.workspace / "checkpoints").iterdir()] == ["step-00000002"]
    grpo(warm, "killed").wait()
    again = killed.rows()
    assert [row["step"] for row in again] == [1, 2, 3, 4]
    events = (warm / "logs/test/killed/events.jsonl").read_text()
    assert '"resumed"' in events
    # Sampling on the same seeds from the same weights: equal up to rounding of batched sums.
    assert again[2]["reward"] == pytest.approx(rows[2]["reward"], abs=0.05)
    assert not _left_behind()


def _left_behind(seconds: float = 15) -> list[str]:
    """Ray processes and weights of ours that outlive their rank."""
    import psutil

    until = time.monotonic() + seconds
    while True:
        found = [str(path) for path in Path("/dev/shm").glob("diagcot-weights-*")]
        for process in psutil.process_iter(["cmdline", "uids"]):
            line = " ".join(process.info["cmdline"] or [])
            mine = process.info["uids"] and process.info["uids"].real == os.getuid()
            if mine and ("gcs_server" in line or "raylet/raylet" in line) and "/tmp/ray-" in line:
                found.append(line[:100])
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.5)
