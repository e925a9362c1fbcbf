"""Training on two nodes of a real Slurm, each with a network of its own, of which one dies once."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from diagcot.jobs.state import failures
from diagcot.jobs.state.failures import LOST_PEER
from tests.conftest import DevCluster
from tests.faults import runs
from tests.training import two_nodes
from tests.training.conftest import everything, inputs
from tests.training.ranks import Job

pytestmark = [pytest.mark.slurm, pytest.mark.heavy]


@pytest.mark.skipif(os.getuid() != 0, reason="nodes with networks of their own need root")
@pytest.mark.row(
    35,
    promise="the job ends within a minute, runs again by the cause of its end, continues from its newest checkpoint, and"
    " ends with the losses of an undisturbed run",
    injected="SIGKILL of one of two ranks on two nodes with separate networks, in the middle of training",
    daemons="real",
)
def test_row_35_a_rank_killed_on_one_of_two_nodes(
    devcluster_with: Callable[..., DevCluster], shared_path: Path, training_root: Path, undisturbed: Job
) -> None:
    cluster = devcluster_with(accounting=True, isolation="net", gpu_nodes=0, cpu_nodes=2)
    root, job = shared_path / "nodes", shared_path / "job.json"
    job.write_text(json.dumps({"settings": everything(), "inputs": inputs(training_root)}))
    cluster("exec", sys.executable, "-m", "tests.training.two_nodes", str(root), str(job), seconds=400)
    plan = two_nodes.declare(root, job)
    assert runs.summary(plan)["state"] == "done"
    assert len(runs.executions(plan, 0)) == 2
    # Who killed it is not known; the kernel does it to those that are out of memory.
    assert runs.why(plan)[1] == "out of memory: runs again with more"
    (lost,) = failures.read(plan.path)
    assert (lost["rank"], lost["type"]) == (1, LOST_PEER)
    events = [json.loads(line) for line in (plan.path / "events.jsonl").read_text().splitlines()]
    (resumed,) = [row for row in events if row["event"] == "resumed"]
    assert resumed["step"] in (4, 8)  # progress is reported twice a second: on a fast machine the rank dies later
    starts = [row["time"] for row in events if row["event"] == "started"]
    last = max(row["time"] for row in events if row.get("attempt", resumed["attempt"]) != resumed["attempt"])
    assert len(starts) == 2 and starts[1] - last < 120
    rows = [json.loads(line) for line in (plan.output / "train.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in undisturbed.rows()], rel=1e-5)
