"""The same with plain submitit: map_array, the stages linked by hand (a whole stage: afterok, unit by unit: aftercorr).

`chunks` > 0: the units cut into so many lists by hand, as a user does who has more of them than MaxArraySize.
"""

import json
import sys
from pathlib import Path

import submitit
from work import nap

spec = json.loads(Path(sys.argv[1]).read_text())


def naps(out: str, stage: int, part: list[tuple[int, float]]) -> None:
    """The work of one array task."""
    for index, seconds in part:
        nap(Path(out), stage, index, seconds)


count, after = spec["chunks"] or spec["units"], ""
for stage in range(spec["stages"]):
    executor = submitit.SlurmExecutor(folder=Path(spec["folder"]) / "submitit" / str(stage))
    more = {"additional_parameters": {"dependency": after}} if after else {}
    executor.update_parameters(
        job_name=spec["name"], partition="cpu", time=1440, mem="200MB", array_parallelism=spec["parallel"], **more
    )
    seconds = spec["seconds"][stage] if spec["seconds"] else [0.0] * spec["units"]
    units = list(enumerate(seconds))
    parts = [units[k * len(units) // count : (k + 1) * len(units) // count] for k in range(count)]
    jobs = executor.map_array(naps, [spec["out"]] * count, [stage] * count, parts)
    after = ("aftercorr:" if spec["each"] else "afterok:") + jobs[0].job_id.split("_")[0]
