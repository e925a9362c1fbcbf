"""Submits stages of units with this project's Pipeline: python ours.py SPEC.json (see `bench.jobs.Spec`)."""

import json
import sys
from pathlib import Path

from diagcot.jobs import Cluster, Pipeline, Plan, Unit

HERE = Path(__file__).parent
spec = json.loads(Path(sys.argv[1]).read_text())
size = {"partition": "cpu", "minutes": 1440, "mem_gb": 0.2, "array_parallelism": spec["parallel"]}
cluster = Cluster.model_validate({"name": "bench", "executor": "slurm", "resource_profiles": {"small": size}})
flow = Pipeline(spec["name"], cluster, spec["folder"], code=[HERE / "kind.py", HERE / "work.py"])
before: list[Plan] = []
for stage in range(spec["stages"]):
    units: list[Unit] | list[str]
    if spec["seconds"]:
        units = [Unit(f"{k:07d}", {"seconds": s}) for k, s in enumerate(spec["seconds"][stage])]
    else:
        units = [f"{k:07d}" for k in range(spec["units"])]
    each, after = (before, []) if spec["each"] else ([], before)
    settings = {"out": spec["out"]}
    before = [flow.stage(str(stage), "kind:run", units, "small", settings=settings, elementwise=each, after=after)]
flow.submit()
