"""The development cluster does what its users count on: arrays, GPUs, several nodes, preemption, accounting, faults."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TOOL, DevCluster, free_ports

pytestmark = pytest.mark.slurm


def ask(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


def until(ready: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"{what}: not within {seconds} s\n{ask('squeue')}"
        time.sleep(0.2)


def submit(folder: Path, script: str, *options: str) -> str:
    out = ["--output", str(folder / "%a.out"), "--parsable", "--chdir", str(folder)]
    return ask("sbatch", *out, *options, "--wrap", script)


def state(job: str) -> str:
    return ask("squeue", "-h", "-j", job, "-o", "%T")


def test_array_with_gpus(devcluster: DevCluster, shared_path: Path) -> None:
    job = submit(
        shared_path, "echo $SLURM_ARRAY_TASK_ID $CUDA_VISIBLE_DEVICES $(hostname)", "--array=0-7", "--gres=gpu:2"
    )
    until(lambda: len(list(shared_path.glob("*.out"))) == 8 and not state(job), 30, "array")
    rows = [path.read_text().split() for path in sorted(shared_path.glob("*.out"))]
    assert [row[0] for row in rows] == [str(i) for i in range(8)]
    assert all(len(row[1].split(",")) == 2 for row in rows)
    # The accounting lags behind the queue by seconds.
    until(lambda: ask("sacct", "-X", "-n", "-P", "-j", job, "-o", "State").split() == ["COMPLETED"] * 8, 15, "sacct")


def test_two_nodes_see_each_other_under_their_own_names(devcluster: DevCluster) -> None:
    found = ask("timeout", "30", "srun", "-N2", "--mem=200", "bash", "-c", "hostname; getent hosts gpu1 gpu2 | wc -l")
    names = sorted(set(found.split()) - {"2"})
    assert len(names) in (1, 2)  # one name where nodes could not be isolated
    if names != [os.uname().nodename.split(".")[0]]:
        assert len(names) == 2
        assert found.split().count("2") == 2


def test_spot_jobs_are_warned_then_requeued(devcluster: DevCluster, shared_path: Path) -> None:
    script = "trap 'echo warned >> log; exit 1' USR1; echo start >> log; while :; do sleep 0.2; done"
    node = ["-w", "gpu3", "--gres=gpu:4"]
    job = submit(shared_path, script, "-p", "spot", "--signal=B:USR1@60", "--requeue", *node)
    log = shared_path / "log"
    until(lambda: log.exists(), 20, "start")
    urgent = submit(shared_path, "sleep 1", "-p", "urgent", *node)
    until(lambda: not state(urgent), 60, "urgent job")
    assert log.read_text().split()[:2] == ["start", "warned"]
    ask("scancel", job)


def test_an_impossible_dependency_does_not_pend_for_ever(devcluster: DevCluster, shared_path: Path) -> None:
    first = submit(shared_path, "exit 1")
    second = submit(shared_path, "true", f"--dependency=afterok:{first}", "--kill-on-invalid-dep=yes")
    until(lambda: not state(second), 30, "cancelled")


def test_killed_node_requeues_and_comes_back(devcluster: DevCluster, shared_path: Path) -> None:
    job = submit(shared_path, "echo $SLURM_RESTART_COUNT >> log; sleep 60", "-p", "cpu", "-w", "cpu2", "--requeue")
    until(lambda: state(job) == "RUNNING" and (shared_path / "log").exists(), 20, "start")
    devcluster("kill-node", "cpu2")
    until(lambda: state(job) == "PENDING", 20, "requeue")
    devcluster("restore-node", "cpu2")
    until(lambda: len((shared_path / "log").read_text().splitlines()) == 2, 60, "second start")
    assert (shared_path / "log").read_text().split() == ["1"]  # the variable is empty at the first start
    ask("scancel", job)


def test_slurmctld_comes_back_with_its_queue(devcluster: DevCluster, shared_path: Path) -> None:
    job, saved, submitted = (
        submit(shared_path, "true", "--hold"),
        devcluster.directory / "ctld" / "job_state",
        time.time(),
    )
    # slurmctld writes its state every five seconds only: a job younger than that is lost when it is killed.
    until(lambda: saved.stat().st_mtime > submitted, 20, "state saved")
    devcluster("kill-ctld")
    assert "slurmctld        down" in devcluster("status")
    devcluster("restart")
    assert state(job) == "PENDING"
    ask("scancel", job)


def test_job_over_its_memory_is_ended(devcluster: DevCluster, shared_path: Path) -> None:
    script = f'{sys.executable} -c \'import time; x = bytearray(600 << 20); time.sleep(40); open("survived", "w")\''
    job = submit(shared_path, script, "--mem=200")
    until(lambda: not state(job), 30, "end")
    assert not (shared_path / "survived").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kill-node", "gpu77"], "no node 'gpu77': this cluster has gpu1"),
        (["kill-node"], "takes one node"),
        (["cut-node", "gpu1"], "needs a cluster that came up with --isolation net"),
    ],
)
def test_misuse_is_told_in_one_line(devcluster: DevCluster, arguments: list[str], message: str) -> None:
    command = [sys.executable, str(TOOL), "--directory", str(devcluster.directory), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_without_slurm_the_packages_are_named(tmp_path: Path) -> None:
    env = {"PATH": str(tmp_path), "DEVCLUSTER_DIR": str(tmp_path / "d"), "DEVCLUSTER_ISOLATION": "none"}
    code = f"import sys; sys.path.insert(0, {str(TOOL.parent)!r}); import cluster; print(cluster.missing(True))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout
    assert "slurmctld" in found
    assert "mariadb-server" in found


@pytest.mark.skipif(os.getuid() != 0, reason="nodes with networks of their own need root")
def test_nodes_with_networks_of_their_own(devcluster: DevCluster, tmp_path: Path) -> None:
    other = DevCluster(Path(f"/tmp/dcn-{os.getpid()}"))
    quick = ["--accounting", "no", "--gpu-nodes", "2", "--cpu-nodes", "1"]
    try:
        other("up", "--port", str(free_ports()), "--isolation", "net", *quick)
        found = other("exec", "timeout", "30", "srun", "-N2", "--mem=200", "ip", "-4", "-br", "addr", "show", "eth0")
        assert {line.split()[2] for line in found.splitlines()} == {"10.77.1.1/16", "10.77.1.2/16"}
        slurmd = json.loads((other.directory / "etc" / "settings.json").read_text())["port"] + 10 + 2
        reach = ["exec", "timeout", "2", "bash", "-c", f": < /dev/tcp/10.77.1.2/{slurmd}"]
        other(*reach)
        other("cut-node", "gpu2")
        with pytest.raises(AssertionError):
            other(*reach)
        other("restore-node", "gpu2")
        other(*reach)
    finally:
        other("wipe")
    assert not other.directory.exists()
