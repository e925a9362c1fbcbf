"""The scripts of a run, each submitted by hand with sbatch to real daemons, finish the run as the launcher would."""

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from diagcot.cli.main import main
from diagcot.console.state import executor
from diagcot.console.state.status import snapshot
from diagcot.jobs import chain
from diagcot.jobs.plans.plan import read
from diagcot.jobs.slurm import commands as slurm

pytestmark = [pytest.mark.slurm, pytest.mark.heavy, pytest.mark.usefixtures("devcluster")]
RECIPE = """
name: short
stages:
  - {name: phantoms, kind: phantoms, number: 0, settings: {studies: 20, size: 64}}
  - name: shard
    kind: shard
    number: 0
    inputs: {phantoms: phantoms}
    settings: {sources: [{kind: mimic_cxr, input: phantoms}], shards: 2}
  - {name: primer, kind: synthetic-sft, number: 0, inputs: {shards: shard}, elementwise: shards}
  - {name: model, kind: model, number: 1, inputs: {samples: primer}}
  - name: base
    kind: sft
    number: 1
    inputs: {model: model, samples: primer}
    settings: {trainable: [lm_head], deepspeed: {steps: 1, global_batch: 2, precision: fp32}}
"""
PROFILES = {
    "cpu": {"cpus": 1, "mem_gb": 1, "partition": "cpu", "minutes": 5},
    "small": {"cpus": 1, "mem_gb": 1, "partition": "cpu", "minutes": 5},
    "train": {"nodes": 2, "cpus": 1, "gpus": 1, "mem_gb": 2, "minutes": 5},
}


def submit(script: Path, jobs: dict[str, str], folder: Path) -> str:
    """Submit a script from `folder` with the dependencies that its comments name; returns the job id."""
    text = script.read_text()
    after = [
        re.sub(r"<job of (\S+?)>", lambda match: jobs[match[1]], line) for line in re.findall("--dependency=(.*)", text)
    ]
    flags = [f"--dependency={','.join(after)}"] if after else []
    done = subprocess.run(["sbatch", "--parsable", *flags, str(script)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_script_runs_by_hand_and_ends_its_stage(shared_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roots = {name: str(shared_path / name) for name in ("logs", "shards", "models")}
    cluster = {"name": "dev", "executor": "slurm", "roots": roots, "slurm": {"partition": "gpu"}}
    (shared_path / "short.yaml").write_text(RECIPE)
    (shared_path / "dev.yaml").write_text(json.dumps(cluster | {"resource_profiles": PROFILES}))
    names = ["--recipe", str(shared_path / "short.yaml"), "--cluster", str(shared_path / "dev.yaml"), "--run", "hand"]
    assert main(["scripts", *names]) == 0
    run_dir = shared_path / "logs" / "hand"
    scripts = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in scripts] == [
        f"{name}.sbatch" for name in ("phantoms", "shard", "primer", "model", "base")
    ]
    assert not slurm.queue()  # nothing was submitted

    jobs: dict[str, str] = {}
    for script in scripts:
        jobs[script.name] = submit(script, jobs, shared_path)
    end = time.monotonic() + 240
    while slurm.alive(dict.fromkeys(jobs.values(), "")) and time.monotonic() < end:
        time.sleep(1)

    for script in scripts:
        plan = read(run_dir / script.stem)
        logs = "\n".join(path.read_text() for path in [*plan.path.glob("slurm/*.log"), *plan.path.glob("out/*.log")])
        assert not plan.missing(), f"{script.stem}: {logs}"
        summary = json.loads((plan.path / "summary.json").read_text())
        assert (summary["state"], summary["missing"], summary["retries"]) == ("done", [], 0)
    base = read(run_dir / "base")
    assert len(list((base.path / "out").glob("*.log"))) == 2  # two ranks, on two nodes
    assert str(base.code) in scripts[-1].read_text()  # the copy of the code, as the launcher's jobs

    # The launcher and the screens take the stages for complete, and the same scripts find nothing to do.
    assert all(stage.done == stage.units for stage in snapshot(run_dir, executor.query(run_dir)).stages)
    assert main(["submit", *names]) == 0
    assert capsys.readouterr().out.count("  complete") == len(scripts)
    again = submit(scripts[0], jobs, shared_path)
    while slurm.alive({again: ""}) and time.monotonic() < end + 60:
        time.sleep(0.5)
    assert len(list((run_dir / "phantoms" / "done").iterdir())) == 1 and not chain.alive(run_dir / "phantoms")
