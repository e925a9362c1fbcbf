"""The same with datatrove's Slurm executor, which links whole stages only. Runs in the benchmarks' environment."""

import json
import sys
from pathlib import Path

from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove_step import Nap

if __name__ == "__main__":
    spec = json.loads(Path(sys.argv[1]).read_text())
    last: SlurmPipelineExecutor | None = None
    for stage in range(spec["stages"]):
        last = SlurmPipelineExecutor(
            pipeline=[Nap(spec["out"], stage, spec["seconds"][stage])] if spec["seconds"] else [],
            tasks=spec["units"],
            tasks_per_job=-(-spec["units"] // spec["chunks"]) if spec["chunks"] else 1,
            time="1-0",
            partition="cpu",
            qos="",
            mem_per_cpu_gb=1,
            workers=spec["parallel"],
            job_name=spec["name"],
            max_array_size=spec["array_size"],
            logging_dir=f"{spec['folder']}/datatrove/{stage}",
            depends=last,
            venv_path=f"{Path(sys.executable).parent}/activate",
            sbatch_args={},
        )
    assert last is not None
    last.run()
