"""The plan of one stage: its units, how they are packed into tasks, its edges and resources.

A stored plan never changes, but it may grow (see `diagcot.jobs.plans.growth`): further units come after those it has.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from diagcot.jobs import owners
from diagcot.jobs.cluster import Size
from diagcot.jobs.errors import UserError
from diagcot.jobs.names import check_stage
from diagcot.jobs.owners import require_own_folder
from diagcot.jobs.plans import headers, segments
from diagcot.jobs.plans.segments import Segment
from diagcot.jobs.plans.units import Listing, Unit, Units, check_keys, encode
from diagcot.jobs.state import documents
from diagcot.jobs.state.files import create_exclusively, named, require_inside
from diagcot.jobs.state.ledger import done_keys
from diagcot.jobs.state.progress import Progress, record_bytes, reported_steps

STARTUP_SHARE = 0.05  # start-up may take this share of a task's life
TASK_START_S = 2  # what any task takes before its kind begins: Slurm's launch, Python, the plan
MOST_TASKS = 4000  # more would only burden the scheduler (MaxJobCount is 10,000 by default)
Grows = Literal["", "units", "anew"]
"""Whether a stage of an existing run may grow: "": it may not. "units": it may get further units. "anew": its product is
made again, by units that replace all earlier ones; their keys name what the product is made of."""


@dataclass(frozen=True)
class Edge:
    """This stage follows `stage`; elementwise, unit k follows unit k."""

    stage: str
    elementwise: bool = False


@dataclass(frozen=True)
class Headline:
    """The counter that a stage is run for: its GPU-hours are reported for a thousand of it."""

    count: str = ""
    """Its name in the counts of the manifests; empty if the stage has none."""
    stages: tuple[str, ...] = ()
    """Earlier stages whose GPU-hours are included."""


@dataclass(frozen=True)
class Plan:
    """What a stage is: written once as `plan.json`, and read by everybody who works on the stage."""

    run: str
    stage: str
    number: str
    """What `make submit-stage…` selects it by: `0` to `3`, or `eval`."""
    kind: str
    """Import path of what does the work, a module or `module:function`."""
    settings: dict[str, Any]
    inputs: dict[str, list[str]]
    """Role -> folders of the products that the stage reads."""
    output: Path
    """The folder of the stage's own product."""
    workspace: Path
    """A private folder that is kept between attempts and removed when the stage is done."""
    shards_root: Path
    seed: int
    after: tuple[Edge, ...]
    resources: Size
    """Of one task."""
    tasks: int
    """Array tasks; the units of each segment are cut evenly into its share of them."""
    path: Path
    """The stage's folder, `logs/<run>/<stage>`."""
    startup_s: float = 0
    """Seconds before a task can begin with its first unit, as declared."""
    unit_s: float = 1
    """Seconds for one unit, as declared."""
    code: str = ""
    """The snapshot of the code that the jobs run."""
    cluster: str = ""
    profile: str = ""
    """The resource profile that `resources` came from; empty in plans of earlier versions."""
    setup: tuple[str, ...] = ()
    """Shell lines before the work at the first submission; jobs run those of the run's cluster.yaml."""
    headline: Headline = Headline()
    grows: Grows = ""
    selector_settings: tuple[str, ...] = ()
    """Settings that only select units and fill their parameters; they may differ when the stage grows."""
    grown: tuple[Segment, ...] = ()
    """Units that came after those of plan.json."""
    units: Units | Listing = field(default_factory=lambda: Units(()), repr=False)
    units_sha256: str = ""
    created: float = 0
    """Seconds since the epoch."""
    settings_model: type[BaseModel] | None = field(default=None, repr=False, compare=False)
    """The type of `settings` at submission; not stored."""
    former_kind: str = field(default="", repr=False, compare=False)
    """What `kind` was in the last release; not stored."""

    @property
    def keys(self) -> list[str]:
        """Keys of all units, in order."""
        return self.units.keys

    @property
    def gpus(self) -> int:
        """GPUs of one task."""
        return self.resources.gpus * self.resources.ranks

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The units as they were planned: those of plan.json, then those of each growth."""
        header = {"units": len(self.units), "tasks": self.tasks, "grown": self.grown, "units_sha256": self.units_sha256}
        return segments.of_plan(header)

    def packed_like(self, other: "Plan") -> bool:
        """True if both plans cut as many units into as many tasks, so that task k of one can follow task k of the other."""
        return [segment[:2] for segment in self.segments] == [segment[:2] for segment in other.segments]

    def bounds(self, task_index: int) -> tuple[int, int]:
        """[first, last) of the units of a task. Raises IndexError if there is no such task."""
        return segments.bounds(self.segments, task_index)

    def task_of(self, unit_index: int) -> int:
        """The task that a unit belongs to, by its position. Raises IndexError if there is no such unit."""
        return segments.task_of(self.segments, unit_index)

    def units_of(self, task_index: int) -> Sequence[Unit]:
        """The units of a task."""
        first, last = self.bounds(task_index)
        return self.units[first:last]

    def keys_of(self, task_index: int) -> list[str]:
        """Keys of the units of a task; the keys of other tasks are not read."""
        return [unit.key for unit in self.units_of(task_index)]

    def missing(self) -> list[str]:
        """Keys of the units that are not done, in plan order."""
        done = done_keys(self.path)
        return [key for key in self.keys if key not in done] if done else self.keys

    def open_tasks(self) -> list[int]:
        """Indices of the tasks that have units left, in order."""
        done = done_keys(self.path)
        if not done:
            return list(range(self.tasks))
        keys = self.keys
        return [index for index in range(self.tasks) if not done.issuperset(keys[slice(*self.bounds(index))])]

    def progress(self, only: int | None = None) -> dict[int, Progress]:
        """Task index -> how far the task has come; tasks that have not begun are left out.

        only: the one task to look at, so that the units of other tasks need not be read.
        """
        done, sizes = done_keys(self.path), record_bytes(self.path)
        counts: dict[int, list[int]] = {}
        first, keys = 0, list[str]()
        if done or sizes:
            first, keys = (0, self.keys) if only is None else (self.bounds(only)[0], self.keys_of(only))
        for unit_index, key in enumerate(keys, first):
            if key in done or key in sizes:
                count = counts.setdefault(self.task_of(unit_index), [0, 0, 0])
                count[0] += key in done
                count[1] += sizes.get(key, 0)
        for task_index, steps in reported_steps(self.path).items():
            counts.setdefault(task_index, [0, 0, 0])[2] = steps
        return {task_index: Progress(*count) for task_index, count in counts.items()}

    def updated(self, stored: "Plan") -> "Plan":
        """`stored`, this stage's plan in an existing run, with today's kind and its settings under today's keys."""
        if stored.kind == self.former_kind:
            stored = replace(stored, kind=self.kind)
        if self.settings_model is None:
            return stored
        try:
            settings = self.settings_model.model_validate(stored.settings).model_dump(mode="json")
        except ValidationError:  # the comparison names the difference
            return stored
        return replace(stored, settings=settings)

    def header(self) -> dict[str, Any]:
        """The content of plan.json: the keys of the first version, and later ones where they have a value."""
        row = {
            "run": self.run,
            "stage": self.stage,
            "number": self.number,
            "kind": self.kind,
            "settings": self.settings,
            "inputs": self.inputs,
            "output": str(self.output),
            "workspace": str(self.workspace),
            "shards_root": str(self.shards_root),
            "seed": self.seed,
            "after": [{"stage": edge.stage, "each": edge.elementwise} for edge in self.after],
            "resources": self.resources.stored(),
            "tasks": self.tasks,
            "stage_dir": str(self.path),
            "startup_s": self.startup_s,
            "unit_s": self.unit_s,
            "code": self.code,
            "cluster": self.cluster,
            "setup": self.setup,
            "yields": self.headline.count,
            "yields_from": self.headline.stages,
            "grows": self.grows,
            "listed": self.selector_settings,
            "units_sha256": self.units_sha256,
            "created": self.created,
            "units": len(self.units),
        }
        later = {"profile": self.profile, "grown": self.grown}
        return row | {name: value for name, value in later.items() if value}

    @classmethod
    def from_header(cls, row: Mapping[str, Any], units: Units | Listing) -> "Plan":
        """The plan of the content of a plan.json."""
        return cls(
            run=row["run"],
            stage=row["stage"],
            number=row["number"],
            kind=row["kind"],
            settings=row["settings"],
            inputs=row["inputs"],
            output=Path(row["output"]),
            workspace=Path(row["workspace"]),
            shards_root=Path(row["shards_root"]),
            seed=row["seed"],
            after=tuple(Edge(edge["stage"], edge["each"]) for edge in row["after"]),
            resources=Size.model_validate(row["resources"]),
            tasks=row["tasks"],
            path=Path(row["stage_dir"]),
            startup_s=row["startup_s"],
            unit_s=row["unit_s"],
            code=row["code"],
            cluster=row["cluster"],
            profile=row.get("profile", ""),
            setup=tuple(row["setup"]),
            headline=Headline(row.get("yields", ""), tuple(row.get("yields_from", ()))),
            grows=row.get("grows", ""),
            selector_settings=tuple(row.get("listed", ())),
            grown=tuple(row.get("grown", ())),
            units=units,
            units_sha256=row.get("units_sha256", ""),
            created=row["created"],
        )


def pack(units: int, startup_s: float, unit_s: float, minutes: float) -> int:
    """The number of tasks to cut `units` into.

    Start-up takes at most 5 % of a task's life, a task lasts at most 80 % of its time limit (`minutes`), and there are at
    most `MOST_TASKS` tasks; where these disagree the time limit decides. startup_s, unit_s: seconds before the first
    unit, and for each unit.

    >>> pack(10, startup_s=0, unit_s=60, minutes=60), pack(1000, startup_s=180, unit_s=60, minutes=600)
    (10, 17)
    """
    if units == 0:
        return 0
    startup_s += TASK_START_S
    wanted = math.ceil(startup_s * (1 - STARTUP_SHARE) / STARTUP_SHARE / unit_s) if unit_s > 0 else units
    wanted = max(wanted, math.ceil(units / MOST_TASKS))
    allowed = int((minutes * 60 * 0.8 - startup_s) / unit_s) if unit_s > 0 else units
    return math.ceil(units / max(1, min(wanted, allowed, units)))


def write(plan: Plan) -> Plan:
    """Create the plan's files, or return the stored plan if it says the same.

    Raises UserError with the differences if the run has another plan for this stage, or if a key cannot name a file.
    """
    if not (plan.path / "plan.json").exists():
        create(plan)
    stored = plan.updated(read(plan.path))
    refuse(stored, headers.compare(stored.header(), plan.header() | {"units_sha256": digest(plan)}))
    return with_resources(plan)


def with_resources(plan: Plan) -> Plan:
    """The stored plan, which says the same as `plan`, with the resources of `plan`: those of a cluster may change.

    Raises UserError if its list of units is damaged.
    """
    stored = read(plan.path)
    segments.verify(stored.path, stored.segments)
    return replace(stored, resources=plan.resources, units=stored.units if stored.grows else plan.units)


def create(plan: Plan) -> None:
    """Create the plan's files; another launcher may be first.

    Raises UserError if a key cannot name a file, or comes twice.
    """
    plan.path.mkdir(parents=True, exist_ok=True)
    total = write_units(plan, plan.path / segments.UNITS)
    header = plan.header() | {"units_sha256": total, "created": time.time()}
    create_exclusively(plan.path / "plan.json", json.dumps(header, indent=1) + "\n")


def write_units(plan: Plan, path: Path) -> str:
    """Write the list of the plan's units, all of it or nothing; returns its sha256.

    Raises UserError if a key cannot name a file, or comes twice.
    """
    check_keys(plan.keys, plan.stage)
    staged, total = path.with_name(f".{path.name}.{os.getpid()}"), hashlib.sha256()
    try:
        with named(path), staged.open("wb") as out:
            for block in encode(plan.units):
                total.update(block)
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
        os.replace(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    return total.hexdigest()


def digest(plan: Plan) -> str:
    """sha256 of the list of the plan's units."""
    total = hashlib.sha256()
    for block in encode(plan.units):
        total.update(block)
    return total.hexdigest()


def refuse(stored: Plan, differences: Sequence[str]) -> None:
    """Raise UserError with the differences from the stored plan, if there are any."""
    if differences:
        raise UserError(
            f"run {stored.run} has another plan for stage {stored.stage} ({stored.path / 'plan.json'}):\n  "
            + "\n  ".join(differences)
            + "\n"
            + headers.remedy(differences)
        )


def read(stage_dir: Path) -> Plan:
    """The plan in a stage's folder, with all that it has grown by.

    Raises UserError if there is none, if it is damaged, or if the folder is part of a copy of a run.
    """
    owners.require_place(stage_dir)
    try:
        row = segments.header(stage_dir)
    except FileNotFoundError as error:
        raise UserError(f"{stage_dir} holds no plan: the stage was never submitted in this run") from error
    try:
        return Plan.from_header(row, Listing(stage_dir, segments.of_plan(row)))
    except ValidationError as error:
        raise documents.damaged(stage_dir / "plan.json", documents.PLAN, "its resources are not valid") from error


def require_own_folders(plan: Plan) -> None:
    """Raise UserError unless the stage's workspace is `models/<run>/.work/<stage>` and its folder `<run>/<stage>`, and
    nobody else has made them: checkpoints, which are pickles, are loaded from there.
    """
    check_stage(plan.stage)
    root = plan.workspace.parent
    if root.parts[-2:] != (plan.run, ".work") or plan.path.parts[-2:] != (plan.run, plan.stage):
        raise UserError(
            f"{plan.workspace} and {plan.path} do not belong to run {plan.run}, so nothing is written or removed"
        )
    require_inside(plan.workspace, root)
    for folder in (root.parent, root, plan.workspace):
        require_own_folder(folder)
