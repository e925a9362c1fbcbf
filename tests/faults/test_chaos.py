"""Everything at once: at the end every record exactly once, and the bytes of a quiet run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from diagcot.jobs.plans.plan import read
from tests import chains
from tests.conftest import QUICK_TO_NOTICE, TOOL, DevCluster
from tests.faults.chaos import STAGES, declare

pytestmark = [pytest.mark.slurm, pytest.mark.heavy]
SEED = 20


def files(root: Path) -> dict[str, bytes]:
    folder = root / "shards" / "chaos"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.skipif(os.getuid() != 0, reason="nodes with networks of their own need root")
@pytest.mark.timeout(600)
def test_a_chain_survives_chaos(devcluster_with: Callable[..., DevCluster], shared_path: Path) -> None:
    quiet = shared_path / "quiet"
    flow = declare(quiet, "debug")
    flow.submit()
    rough = shared_path / "rough"
    cluster = devcluster_with(accounting=True, isolation="net", gpu_nodes=3, cpu_nodes=2, cpus=8, extra=QUICK_TO_NOTICE)
    env = os.environ | {"PYTHONPATH": str(chains.ROOT)}
    driver = [sys.executable, "-m", "tests.faults.chaos", str(TOOL), str(cluster.directory), str(rough), str(SEED)]
    command = [sys.executable, str(TOOL), "--directory", str(cluster.directory), "exec", *driver]
    done = subprocess.run(command, capture_output=True, text=True, timeout=590, env=env, cwd=chains.ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    print(json.dumps(told, indent=1))
    plans = [read(rough / "logs" / "chaos" / name) for name in STAGES]
    assert told["done"], {plan.stage: plan.missing() for plan in plans}
    assert not told["left"] and told["seconds"] < 420
    assert sum(len(plan.units) for plan in plans) == 200
    assert files(rough) == files(quiet)  # no record lost, none twice, nothing half written beside them
    for plan in plans:
        summary = json.loads((plan.path / "summary.json").read_text())
        assert summary["state"] == "done" and not summary["missing"]
        assert all(row["why"] for row in summary["submissions"])  # every retry explained
    queue = subprocess.run([*command[:5], "squeue", "-h"], capture_output=True, text=True, timeout=60)
    assert queue.returncode == 0 and not [line for line in queue.stdout.splitlines() if "chaos" in line]
