"""Submits a training of one rank on each of two nodes and waits for its end: `two_nodes.py ROOT JOB.json`.

Run as a client of the development cluster (`devcluster exec`), so that nodes may have networks of their own.
"""

import json
import sys
from pathlib import Path

from diagcot.jobs.plans import plan as plans
from diagcot.jobs.plans.units import Units
from tests import chains
from tests.faults import runs


def declare(root: Path, job: Path) -> plans.Plan:
    """The stage; `job` holds its settings and inputs."""
    return chains.plan(
        root,
        "sft",
        1,
        kind="tests.kinds.drawn",
        seed=7,  # as the runs that it is compared with
        units=Units(["model"]),
        resources=runs.size(nodes=2, mem_gb=3, minutes=10),
        **json.loads(job.read_text()),
    )


if __name__ == "__main__":
    root = Path(sys.argv[1])
    plan = declare(root, Path(sys.argv[2]))
    runs.submit(root, [plan])
    runs.finished([plan])
