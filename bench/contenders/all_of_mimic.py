"""Submits all studies of MIMIC-CXR, chained element-wise: python all_of_mimic.py FOLDER STUDIES STAGES TASKS FAILING."""

import sys
from pathlib import Path

from diagcot.jobs import Cluster, Pipeline, Plan
from diagcot.jobs.plans.plan import STARTUP_SHARE, TASK_START_S

HERE = Path(__file__).parent
START_S, STUDY_S = 180, 6  # a server's start, and a study with dozens in flight: what units are packed by
SCALE = 3000  # by so much the studies are sped up; starts are not slept at all

folder, (studies, stages, tasks, failing) = Path(sys.argv[1]), map(int, sys.argv[2:])
start_s = studies / tasks * STUDY_S * STARTUP_SHARE / (1 - STARTUP_SHARE) - TASK_START_S if tasks else float(START_S)
size = {"partition": "cpu", "cpus": 16, "mem_gb": 1, "minutes": 1440, "array_parallelism": 1000}
cluster = Cluster.model_validate(
    {"name": "scale", "executor": "slurm", "resource_profiles": {"node": size, "small": size}}
)
flow = Pipeline("mimic", cluster, folder, code=[HERE / "studies.py"])
settings = {"seconds": STUDY_S / SCALE, "ran": str(folder / "ran"), "failing": failing}
before: list[Plan] = []
for stage in range(stages):
    keys = (f"s{50_000_000 + k}" for k in range(studies))
    plan = flow.stage(
        f"cot{stage}", "studies", keys, "node", settings=settings, elementwise=before, startup_s=start_s, unit_s=STUDY_S
    )
    before = [plan]
submitted = flow.submit()
print(f"{studies} studies, {plan.tasks} tasks a stage, {sum(len(row.jobs) for row in submitted)} jobs and arrays")
