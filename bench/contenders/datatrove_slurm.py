"""The same with datatrove's Slurm executor, which links whole stages only. Runs in the benchmarks' environment."""

import json
import sys
from pathlib import Path

from datatrove.executor.slurm import SlurmPipelineExecutor
from work import nap


class Nap:
    """A step without documents; a class of its own so that its settings travel in the pickle."""

    def __init__(self, out: str, stage: int, seconds: list[float]) -> None:
        self.out, self.stage, self.seconds = out, stage, seconds

    def __call__(self, data: object, rank: int, world_size: int) -> object:
        nap(Path(self.out), self.stage, rank, self.seconds[rank])
        return data


if __name__ == "__main__":
    spec = json.loads(Path(sys.argv[1]).read_text())
    last = None
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
    last.run()
