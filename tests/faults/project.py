"""A person's project: the file `recipe.json`, from which a pipeline of 200 units in three stages is declared, and its run.

`python -m tests.faults.project FOLDER RUN` submits it to Slurm, as the person's own script does (docs/jobs.md).
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagcot.jobs import Pipeline, Plan, UserError
from diagcot.jobs.plans.plan import read
from tests import chains

STAGES = ("first", "second", "third")
RECIPE = {"pairs": 40, "records": 5, "seconds": 0.2, "seed": 1, "scratch": ""}
SIZES = {
    "spot": {"partition": "spot", "minutes": 4, "mem_gb": 0.3, "array_parallelism": 12},
    "cpu": {"partition": "cpu", "minutes": 4, "mem_gb": 0.3, "array_parallelism": 12},
    "small": {"partition": "cpu", "minutes": 5, "mem_gb": 0.3},
}


@dataclass
class Project:
    """A folder that may be moved, and the name of the run in it."""

    folder: Path
    run: str

    @property
    def run_dir(self) -> Path:
        return self.folder / "logs" / self.run

    @property
    def products(self) -> Path:
        return self.folder / "shards" / self.run

    @property
    def recipe(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "recipe.json").read_text()))

    def write(self, **changes: Any) -> None:
        """Make the folder with its recipe, or edit the recipe."""
        self.folder.mkdir(parents=True, exist_ok=True)
        before = self.recipe if (self.folder / "recipe.json").exists() else RECIPE
        (self.folder / "recipe.json").write_text(json.dumps(before | changes))

    def plans(self) -> list[Plan]:
        """The plans of the stages that have been written."""
        return [read(self.run_dir / name) for name in STAGES if (self.run_dir / name / "plan.json").exists()]

    def declare(self, executor: str = "slurm") -> Pipeline:
        """Two units for each of `pairs`, as many that follow them one by one, and one for each pair that follow those as a
        whole. The products have the same bytes on any executor.
        """
        recipe = self.recipe
        more = {"max_attempts": 6, "warning_seconds": 10, "scratch": recipe["scratch"]}
        on = chains.cluster(executor, resource_profiles=SIZES, **more)
        flow = Pipeline(self.run, on, self.folder, code=[chains.ROOT / "tests"], seed=recipe["seed"])
        pairs = [f"{k:02d}-{half}" for k in range(recipe["pairs"]) for half in "ab"]
        singles = [f"{k:02d}" for k in range(recipe["pairs"])]
        relay = {"seconds": 0 if executor == "debug" else recipe["seconds"]}
        growing: dict[str, Any] = {"settings": relay, "grows": "units", "unit_s": 20}
        counted = growing | {"settings": relay | {"records": recipe["records"]}}
        first = flow.stage("first", "tests.kinds.count", pairs, "spot", **counted)
        follow: dict[str, Any] = {"elementwise": [first], "inputs": {"source": [first]}}
        second = flow.stage("second", "tests.kinds.relay", pairs, "cpu", **follow, **growing)
        growing["unit_s"] = 10
        flow.stage("third", "tests.kinds.relay", singles, "spot", inputs={"source": [second]}, **growing)
        return flow


def main(argv: list[str]) -> int:
    """Submit the run; 1 and one line on standard error if that is refused."""
    flow = Project(Path(argv[0]), argv[1]).declare()
    try:
        rows = flow.submit()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for line in flow.grew:
        print(f"run {flow.run} has grown: {line}")
    for row in rows:
        print(f"{row.stage}  {row.state}  {row.tasks} tasks  jobs {' '.join(row.jobs)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
