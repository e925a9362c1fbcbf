"""GRPO on gloo ranks with Ray and a real vLLM server: the servers follow the policy, and a kill costs nothing."""

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from diagcot.jobs.cluster import Size
from diagcot.jobs.execution import local
from diagcot.jobs.plans.units import Units
from diagcot.jobs.state import failures, runner
from diagcot.serving.server import warm as servers
from diagcot.serving.server.owner import process_identity
from diagcot.tasks.samples import write_samples
from tests import chains
from tests.faults import runs
from tests.training import warm as tiny
from tests.training.ranks import Job, start

pytestmark = pytest.mark.heavy

SERVER = {"max_model_len": 512, "max_num_seqs": 64, "images": 1, "startup_timeout_s": 150}
DEEPSPEED = {
    "steps": 4, "save_every": 2, "micro_batch": 8, "global_batch": 32,
    "learning_rate": 1e-3, "schedule": "constant", "precision": "fp32",
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "reward": {"name": "report", "mode": "clinical"},
    "prompts_per_step": 4,
    "group_size": 8,
    "max_tokens": 110,
    "temperature": 1.0,
    "kl_coef": 0.01,
    "max_gap": 0.02,
    "server": SERVER,
    "deepspeed": DEEPSPEED,
}
VALIDATION = {"prompts": 12, "share": 0.2, "every": 2}
OPTIONS: dict[str, Any] = {"validation": VALIDATION, "best": "clinical", "page_every": 2}
BOUND_S = 60  # a stage whose Ray has died ends within this, and all of Ray with it


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of phantoms, and a tiny model that has begun to answer in think and answer tags."""
    root = tmp_path_factory.mktemp("grpo")
    tiny.build(root)
    return root


@pytest.fixture(scope="module")
def warm_server() -> Iterator[None]:
    """One server for all runs, as on a laptop."""
    with tempfile.TemporaryDirectory(prefix="dc-", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv(servers.FOLDER, folder)
        patch.setenv(servers.OWNER, str(os.getpid()))
        yield
        servers.stop(Path(folder))


@pytest.fixture(scope="module")
def undisturbed(warm: Path, warm_server: None) -> Job:
    """A run that nothing disturbs."""
    job = grpo(warm, "whole", **OPTIONS)
    job.wait()
    return job


def grpo(root: Path, stage: str, kind: str = "diagcot.training.kinds.grpo", world: int = 2, **changes: Any) -> Job:
    job = {name: changes.pop(name) for name in ("nodes", "attempt") if name in changes}
    inputs = inputs_of(root)
    if "mix" in changes:
        inputs["mix"] = [str(root / "shards/test/mix")]
    return start(root, kind, stage, SETTINGS | changes, inputs, world, drawn=False, **job)


def inputs_of(root: Path) -> dict[str, list[str]]:
    return {"model": [str(root / "shards/test/warm")], "shards": [str(root / "shards/test/shard")]}


def steps(job: Job) -> list[dict[str, Any]]:
    return [row for row in job.rows() if "loss" in row]


def validations(job: Job) -> dict[int, dict[str, Any]]:
    return {row["step"]: row for row in job.rows() if "validation_reward" in row}


def test_servers_follow_the_policy(undisturbed: Job) -> None:
    rows = steps(undisturbed)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["gap"] < 0.02 for row in rows), [row["gap"] for row in rows]
    assert max(row["spread"] for row in rows) > 0 and max(row["grad_norm"] for row in rows) > 0
    assert rows[-1]["kl"] > rows[0]["kl"]  # it has moved, and the servers with it
    for row in rows:
        parts = sum(row[name] for name in ("sync_s", "rollout_s", "reward_s", "train_s", "idle_s"))
        assert parts == pytest.approx(row["seconds"], abs=1e-3) and row["idle_s"] >= 0
    about = json.loads((undisturbed.output / "model" / "diagcot.json").read_text())
    assert about["steps"] == 4 and (undisturbed.output / "model" / "model.safetensors").is_file()
    held = validations(undisturbed)
    assert list(held) == [0, 2, 4]
    best = max(held, key=lambda step: (held[step]["validation_clinical"], -step))
    assert about.get("best_step", 4) == best
    assert about["validation_before"] == held[0]["validation_reward"]
    assert about["gain_low"] <= about["gain"] <= about["gain_high"]
    pages = sorted((undisturbed.workspace / "pages").iterdir())
    assert [page.name for page in pages] == ["rollouts-00000002.html", "rollouts-00000004.html"]


def test_servers_on_a_node_of_their_own_work_one_step_ahead_on_a_mix(warm: Path, warm_server: None) -> None:
    """All that changes the order of things at once: overlap, a mix of two rewards, dynamic sampling, two updates."""
    from diagcot.shards import Shard, shard_paths
    from diagcot.tasks.diagnosis import classification_samples

    shard = shard_paths(warm / "shards/test/shard")[0]
    (warm / "shards/test/mix").mkdir()
    name = str(shard.relative_to(warm / "shards"))
    write_samples(warm / "shards/test/mix/00000.jsonl", classification_samples(Shard(shard), name, "train"))
    ahead = grpo(
        warm, "ahead", nodes=2, attempt="one", rollout_nodes=1, max_staleness=2, importance_cap=2.0, top_p=1.0,
        max_resample_rounds=1,
        mix={"start": 0.5, "end": 0.25}, rewards={"classification": {"name": "classification"}},
        validation={**VALIDATION, "every": None}, deepspeed={**DEEPSPEED, "global_batch": 16},
    )  # fmt: skip
    ahead.wait()
    rows = steps(ahead)
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and list(validations(ahead)) == [0, 4]
    assert rows[0]["drift"] == pytest.approx(0, abs=1e-3)  # rolled out with the weights that trained on it
    assert all(row["gap"] < 0.02 for row in rows), [row["gap"] for row in rows]
    # Later ones were rolled out with weights of a step before, whose drift is far above the 1e-6 of equal weights.
    assert all(row["drift"] > 1e-3 for row in rows[1:]), [row["drift"] for row in rows]
    assert any("reward_of_classification" in row for row in rows) and all("reward_of_report" in row for row in rows)
    assert not (ahead.workspace / "ray.one.json").exists()


def test_a_dead_server_and_a_dead_reward_worker_are_replaced(warm: Path, warm_server: None) -> None:
    hurt = grpo(warm, "hurt", world=1)
    hurt.reach(1)
    kill(hurt.processes[0].pid or 0, "ray::RewardWorker")
    records = (json.loads(path.read_text()) for path in Path(os.environ[servers.FOLDER]).glob("*/server.json"))
    processes = [int(record["process"].split(":")[0]) for record in records]
    # Another one serves runs whose rollouts are ahead.
    processes = [p for p in processes if Path(f"/proc/{p}").exists()]  # one that was replaced has left its record
    (own,) = [p for p in processes if b"--scheduling-policy" not in Path(f"/proc/{p}/cmdline").read_bytes()]
    os.killpg(own, signal.SIGKILL)
    hurt.wait()
    assert [row["step"] for row in steps(hurt)] == [1, 2, 3, 4]


@pytest.mark.row(
    35,
    promise="Ray and its job end within a minute and leave no process of Ray; the job runs again automatically, continues from"
    " its newest checkpoint, and ends with the figures of an undisturbed run",
    injected="SIGKILL of the gcs_server of rank 0's Ray in the middle of GRPO",
    daemons="real",
)
def test_row_35_a_job_whose_ray_is_killed_ends_soon_and_runs_again(warm: Path, undisturbed: Job) -> None:
    job = Job(warm, "again", [], warm / "logs/test/runner.log")
    stage = chains.plan(
        warm, "again", 1, run="test", kind="diagcot.training.kinds.grpo", settings=SETTINGS | OPTIONS, inputs=inputs_of(warm),
        output=job.output, workspace=job.workspace, shards_root=warm / "shards", seed=7,
        units=Units(["model"]), resources=Size(cpus=1, tasks_per_node=2, minutes=20),
        path=warm / "logs/test/again",
    )  # fmt: skip
    run_dir = chains.write(warm, [stage], chains.cluster())
    assert local.start(run_dir, ["again"])
    runner_id = runner.process_id(run_dir) or 0
    try:
        job.reach(1)
        workers = named(runner_id, "ray::RewardWorker")
        runs.until(lambda: 2 in validations(job), "the validation at step 2, after which it is saved")
        for worker in workers:  # step 3 waits for its rewards, so the newest checkpoint is of step 2
            worker.suspend()
        kill(runner_id, "gcs_server")
        runs.until(lambda: not runner.process_id(run_dir), "the end of the run")
    finally:
        local.stop(run_dir)
    (message,) = [row["message"] for row in failures.read(stage.path) if row["rank"] == 0]
    assert "its gcs_server has died; the next attempt resumes" in message
    assert [row["step"] for row in job.events("resumed")] == [2]
    assert not stage.missing()
    published = [json.loads(line) for line in (job.output / "train.jsonl").read_text().splitlines()]
    assert [row["step"] for row in published if "validation_reward" in row] == [0, 2, 4]
    rows, expected = [row for row in published if "loss" in row], steps(undisturbed)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for name in ("loss", "reward"):  # sampling on the same seeds: equal up to rounding of batched sums
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in expected], abs=0.05)


@pytest.mark.parametrize(
    ("victim", "message"),
    [("raylet", "its raylet has died"), ("ray::RolloutServer", "a rollout server died")],
)
def test_a_dead_raylet_or_server_ends_the_stage_soon(warm: Path, warm_server: None, victim: str, message: str) -> None:
    lost = grpo(warm, victim.rpartition(":")[2], world=1)
    lost.reach(1)
    kill(lost.processes[0].pid or 0, victim)
    assert lost.ended(BOUND_S) != [0]
    assert message in lost.log.read_text()


def named(root: int, name: str) -> list[psutil.Process]:
    """The processes of that name below process `root`."""
    family = psutil.Process(root).children(recursive=True)
    return [process for process in family if name in " ".join(process.cmdline()[:1]) or name == process.name()]


def kill(root: int, name: str) -> None:
    """SIGKILL the process of that name below process `root`; all of that Ray must be gone within BOUND_S."""
    family = psutil.Process(root).children(recursive=True)
    (victim,) = named(root, name)
    ray = {process_identity(p.pid) for p in family if "ray" in p.name() or p.name() == "gcs_server"}
    began = time.monotonic()
    victim.kill()
    if "Worker" in name:
        return
    while alive := [process for process in ray if process_identity(int(process.split(":")[0])) == process]:
        assert time.monotonic() < began + BOUND_S, alive
        time.sleep(0.2)
    print(f"{name} killed: all of Ray gone after {time.monotonic() - began:.1f} s")


def test_a_run_that_cannot_learn_is_refused(warm: Path, warm_server: None) -> None:
    """Before the first update, on every rank, as an error for the user; with further groups if need be."""
    vain = grpo(warm, "vain", temperature=1e-4, precheck_groups=4)
    assert vain.ended(400) != [0, 0]
    told = [line for line in vain.log.read_text().splitlines() if line.startswith("diagcot.jobs.errors.UserError: ")]
    assert len(told) == 2
    for line in told:
        assert "cannot learn, as the first 4 groups of 8 rollouts show" in line
        assert "are equal" in line and "precheck_groups: 0" in line
    assert not vain.rows() and not (vain.output / "model").exists()


def test_a_divided_model_and_reference_learn_the_same(warm: Path, undisturbed: Job) -> None:
    divided = grpo(warm, "divided", **OPTIONS, warn_gap=1e-9, deepspeed={**DEEPSPEED, "steps": 2, "stage": 3})
    divided.wait()
    for row, expected in zip(steps(divided), steps(undisturbed)[:2], strict=True):
        for name in ("loss", "kl", "grad_norm", "reward"):
            assert row[name] == pytest.approx(expected[name], rel=0.05, abs=0.02), name
    (warning,) = divided.events("gap_warning")
    assert warning["step"] == 1 and warning["gap"] <= 0.02 and warning["level"] == 1e-9


@pytest.mark.parametrize(("stage", "trainable"), [(3, ["lora"]), (2, ["lora", "merger"])])
def test_an_adapter_learns_against_its_base(warm: Path, warm_server: None, stage: int, trainable: list[str]) -> None:
    """The servers hold adapter and base merged, the reference is the base, and a whole model is published."""
    from safetensors.torch import load_file

    job = grpo(
        warm, f"adapter-{stage}", trainable=trainable, lora={"rank": 4}, precheck_groups=0,
        deepspeed={**DEEPSPEED, "steps": 2, "stage": stage, "learning_rate": 1e-2},
    )  # fmt: skip
    job.wait()
    first, second = steps(job)
    assert first["kl"] == pytest.approx(0, abs=1e-6) and second["kl"] > 1e-4  # it began as its reference, and has moved
    assert max(first["gap"], second["gap"]) < 0.02  # as have the servers
    base = load_file(warm / "shards/test/warm/model/model.safetensors")
    trained = load_file(job.output / "model" / "model.safetensors")
    assert trained.keys() == base.keys()
    changed = {name for name in base if not trained[name].equal(base[name])}
    assert any("q_proj" in name for name in changed)
    assert any(".merger." in name for name in changed) == ("merger" in trainable)
    assert all("_proj.weight" in name or ".merger." in name for name in changed)
    about = json.loads((job.output / "model" / "diagcot.json").read_text())
    assert about["trainable"] == sum(about[f"trainable_{name}"] for name in trainable)


def test_a_server_that_keeps_old_weights_ends_the_stage(warm: Path, warm_server: None) -> None:
    fooled = grpo(warm, "fooled", "tests.training.stale", world=1)
    assert fooled.ended(400) != [0]
    assert "do not hold the policy's weights" in fooled.log.read_text()
    assert len(steps(fooled)) == 1 and not (fooled.output / "model").exists()


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No Ray process and no folder of weights outlives its rank."""
    before = _ray_processes()
    yield
    until = time.monotonic() + 15
    while (processes := _ray_processes() - before) and time.monotonic() < until:
        time.sleep(0.5)
    assert not processes


def _ray_processes() -> set[str]:
    """Ray's processes and folders of weights of this worker's tests, without those of other workers."""
    import psutil

    processes: set[str] = set()
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        line = " ".join(process.info["cmdline"] or [])
        worker = (process.info["environ"] or {}).get("PYTEST_XDIST_WORKER")
        if ("gcs_server" in line or "raylet/raylet" in line) and worker == os.environ.get("PYTEST_XDIST_WORKER"):
            processes.add(f"{process.info['pid']} {line[:100]}")
    if "PYTEST_XDIST_WORKER" not in os.environ:
        processes |= {str(path) for path in Path("/dev/shm").glob("diagcot-weights-*")}
    return processes
