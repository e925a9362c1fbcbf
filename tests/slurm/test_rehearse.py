"""A rehearsal on real daemons: what a node lacks, what Slurm refuses and what never starts, from one command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diagcot.jobs.slurm import commands as slurm
from diagcot.preflight.rehearsal import command
from launchers.chain import Chain, open_chain
from tests.conftest import DevCluster
from tests.faults import runs

pytestmark = [pytest.mark.slurm, pytest.mark.heavy]
REPO = Path(__file__).parents[2]
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
  - name: wide
    kind: merge
    number: 1
    inputs: {model: base, adapter: base}
  - name: evaluate
    kind: evaluate
    number: eval
    inputs: {models: [base, wide], shards: shard}
  - {name: report, kind: aggregate, number: eval, inputs: {predictions: evaluate}}
"""


def chain(folder: Path, roots: Path, **stages: object) -> Chain:
    """The short recipe on the development cluster, with roots of its own."""
    (folder / "short.yaml").write_text(RECIPE)
    cluster = {
        "name": "dev",
        "executor": "slurm",
        "roots": {name: str(roots / name) for name in ("logs", "shards", "models")},
        "setup": ["module load cuda/99"],
        "slurm": {"partition": "gpu"},
        "resource_profiles": {
            "cpu": {"cpus": 1, "mem_gb": 1, "partition": "cpu"},
            "small": {"cpus": 1, "mem_gb": 0.5, "partition": "cpu"},
            "server": {"cpus": 1, "gpus": 1, "mem_gb": 2, "exclude": "gpu1,gpu2"},
            "train": {"nodes": 2, "cpus": 1, "gpus": 1, "mem_gb": 2, "exclude": "gpu3,gpu4"},
        },
        "stages": stages,
    }
    (folder / "dev.yaml").write_text(json.dumps(cluster))
    return open_chain(str(folder / "short.yaml"), str(folder / "dev.yaml"), "real")


def read_only(cluster: DevCluster, node: str, folder: Path) -> None:
    """Another, read-only file system in the place of `folder`, on one node alone."""
    pid = (cluster.directory / "run" / f"slurmd-{node}.id").read_text().split()[0]
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
    user = [] if os.getuid() == 0 else ["-U", "--preserve-credentials"]
    subprocess.run(["nsenter", "-t", pid, *user, "-m", "-r", "--", *mount], check=True, capture_output=True)


def queued() -> list[str]:
    """Names of jobs of the rehearsal that Slurm still has."""
    return [job.name for job in slurm.queue() if job.name.startswith("real.rehearsal")]


def test_one_rehearsal_tells_all_that_would_fail(
    devcluster: DevCluster, shared_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    roots = shared_path / "roots"
    (roots / "models").mkdir(parents=True)
    for node in ("gpu1", "gpu2"):
        read_only(devcluster, node, roots / "models")
    denied = "sbatch: error: Batch job submission failed: Access/permission denied"
    runs.shim(shared_path / "bin", "sbatch", f"if {runs.IN_A_JOB}; then echo '{denied}' >&2; exit 1; fi", monkeypatch)
    made = chain(shared_path, roots, shard={"partition": "cpus"}, wide={"nodes": 9, "minutes": 3000})
    assert command.main(made, patience_minutes=0.2) == 1
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines()[-40:-2])) <= 80
    (result,) = (roots / "logs" / "rehearsals").glob("real.rehearsal*/findings.json")
    rows = json.loads(result.read_text())["rows"]
    bad = {(row["stage"], row["subject"]): row for row in rows if row["level"] == "bad"}

    # The stage with an unknown partition, the one on a read-only folder, the one that can never start, and nodes that may
    # not submit.
    # (24.11 refuses it, 22.05 leaves it pending.)
    late = "submission" if slurm.version() >= (24, 11) else "start"
    wanted = {("shard", "submission"), ("base", "folders"), ("wide", "size"), ("wide", late), ("finaliser", "Slurm")}
    assert set(bad) == wanted, rows
    assert "invalid partition" in bad["shard", "submission"]["text"]
    assert "did you mean 'cpu'" in bad["shard", "submission"]["remedy"]
    assert f"cannot write to {roots}/models: Read-only file system" in bad["base", "folders"]["text"]
    assert sorted(bad["base", "folders"]["hosts"]) == ["gpu1", "gpu2"]
    assert ("PartitionNodeLimit" if late == "start" else "not available") in bad["wide", late]["text"]
    assert "asks for 9 nodes, cpu has 2" in bad["wide", "size"]["text"]
    assert "cpus" in said and "Read-only" in said and "5 problems to fix before submitting" in said
    assert "may not submit" in bad["finaliser", "Slurm"]["text"] and "denied" in bad["finaliser", "Slurm"]["text"]
    assert "make retry" in bad["finaliser", "Slurm"]["remedy"]
    (setup,) = {row["text"] for row in rows if row["subject"] == "setup"}  # one kind of complaint, of every job
    assert "module: command not found" in setup

    # All others were rehearsed to their end, those behind a stage that failed included.
    for stage in ("phantoms", "primer", "model", "evaluate", "report", "finaliser"):
        assert any(row["stage"] == stage and row["subject"] == "folders" for row in rows), stage
        assert stage == "finaliser" or not any(row["stage"] == stage and row["level"] == "bad" for row in rows)
    (collective,) = [row for row in rows if row["subject"] == "collective"]
    assert (
        collective["stage"] == "base" and "2 ranks connected in" in collective["text"] and "gloo" in collective["text"]
    )
    assert any(row["stage"] == "evaluate" and row["subject"] == "scratch" for row in rows)
    assert all(row["level"] == "note" for row in rows if row["stage"] == "evaluate" and row["subject"] == "GPUs")

    # Every job had its real counterpart's options and edges, and nothing of a real run was touched or is left.
    script = (result.parent / "base" / "job.sbatch").read_text()
    assert {"#SBATCH --nodes=2", "#SBATCH --partition=gpu", "#SBATCH --time=2"} <= set(script.splitlines())
    first = json.loads((result.parent / "primer" / "attempts" / "1.json").read_text())["arrays"][0]
    assert first["after"] == ""  # shard, which it follows, was refused
    assert (
        "afterany:" in json.loads((result.parent / "report" / "attempts" / "1.json").read_text())["arrays"][0]["after"]
    )
    assert not queued()
    assert sorted(path.name for path in roots.iterdir()) == ["logs", "models"]
    assert [path.name for path in (roots / "logs").iterdir()] == ["rehearsals"]
    assert not list((roots / "models").iterdir())


@pytest.mark.usefixtures("devcluster")
def test_ctrl_c_cancels_the_jobs(shared_path: Path) -> None:
    roots = shared_path / "roots"
    chain(shared_path, roots)
    names = ["--recipe", str(shared_path / "short.yaml"), "--cluster", str(shared_path / "dev.yaml"), "--run", "real"]
    rehearse = subprocess.Popen(
        [sys.executable, "-m", "diagcot", "rehearse", *names],
        cwd=REPO,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end = time.monotonic() + 60
    while len(queued()) < 3 and time.monotonic() < end:
        time.sleep(0.2)
    assert queued()
    rehearse.send_signal(signal.SIGINT)
    said, _ = rehearse.communicate(timeout=60)
    assert rehearse.returncode == 130, said
    assert "cancelling" in said
    end = time.monotonic() + 20
    while queued() and time.monotonic() < end:
        time.sleep(0.5)
    assert not queued()
    assert [path.name for path in roots.rglob("*") if path.name.startswith(".real.rehearsal")] == []
