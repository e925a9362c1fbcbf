"""The plan of one stage: its units, how they are packed into tasks, its edges and resources.

A plan that was written never changes. It may grow (see `diagcot.jobs.plans.growth`): further units come after those it has.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from diagcot.jobs.cluster import Size
from diagcot.jobs.errors import UserError
from diagcot.jobs.names import check_stage, require_inside
from diagcot.jobs.plans import segments
from diagcot.jobs.plans.segments import Segment
from diagcot.jobs.plans.units import Listing, Unit, Units, check_keys, encode
from diagcot.jobs.state.files import create_exclusively
from diagcot.jobs.state.ledger import done_keys
from diagcot.jobs.state.progress import Progress, record_bytes, reported_steps

STARTUP_SHARE = 0.05  # start-up may cost this share of a task's life
TASK_START_S = 2  # what any task costs before its kind begins: Slurm's launch, Python, the plan
MOST_TASKS = 4000  # more would only cost scheduler records (MaxJobCount is 10,000 by default) and submitit's files
FREE = ("created", "code", "resources", "yields", "yields_from", "grows", "listed")  # what a relaunch may see differ
NOT_STORED = ("units", "settings_model")
Grows = Literal["", "units", "anew"]
"""Whether a stage may grow: not at all; by further units; or by making its product anew, where the units, whose keys tell
what it is made of, take the place of all earlier ones."""


@dataclass(frozen=True)
class Edge:
    """This stage follows `stage`; with `each`, unit k follows unit k."""

    stage: str
    each: bool = False


@dataclass(frozen=True)
class Plan:
    run: str
    stage: str
    number: str
    kind: str  # import path of the module that does the work
    settings: dict[str, Any]
    inputs: dict[str, list[str]]
    output: str
    workspace: str
    shards_root: str
    seed: int
    after: tuple[Edge, ...]
    resources: Size
    tasks: int  # the units of each part are cut evenly into its share of so many array tasks, see `bounds`
    stage_dir: str
    startup_s: float = 0
    unit_s: float = 1
    code: str = ""  # the snapshot of the code that the jobs run
    cluster: str = ""
    setup: tuple[str, ...] = ()
    yields: str = ""  # the count of what the stage is for: GPU-hours are told for a thousand of it
    yields_from: tuple[str, ...] = ()  # stages whose GPU-hours are part of that
    grows: Grows = ""
    listed: tuple[str, ...] = ()  # settings that only say which units there are and what stands in their parameters
    grown: tuple[Segment, ...] = ()  # parts of `units` and `tasks` that came after those of plan.json
    units: Units | Listing = field(default_factory=lambda: Units(()), repr=False)
    units_sha256: str = ""
    created: float = 0
    settings_model: type[BaseModel] | None = field(default=None, repr=False, compare=False)  # not stored

    @property
    def path(self) -> Path:
        return Path(self.stage_dir)

    @property
    def keys(self) -> list[str]:
        return self.units.keys

    @property
    def gpus(self) -> int:
        """GPUs of one task."""
        return self.resources.gpus * self.resources.ranks

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        header = {"units": len(self.units), "tasks": self.tasks, "grown": self.grown, "units_sha256": self.units_sha256}
        return segments.of_plan(header)

    def alike(self, other: "Plan") -> bool:
        """Whether both plans cut as many units into tasks alike, so that task k of one can follow task k of the other."""
        return [segment[:2] for segment in self.segments] == [segment[:2] for segment in other.segments]

    def bounds(self, slot: int) -> tuple[int, int]:
        """[first, last) of the units of task `slot`."""
        return segments.bounds(self.segments, slot)

    def task_of(self, unit_index: int) -> int:
        """The task that unit number `index` belongs to."""
        return segments.task_of(self.segments, unit_index)

    def units_of(self, slot: int) -> Sequence[Unit]:
        first, last = self.bounds(slot)
        return self.units[first:last]

    def keys_of(self, slot: int) -> list[str]:
        return [unit.key for unit in self.units_of(slot)]  # a task does not read all other tasks' keys

    def missing(self) -> list[str]:
        """Keys of the units that are not done, in plan order."""
        done = done_keys(self.path)
        return [key for key in self.keys if key not in done] if done else self.keys

    def open_slots(self) -> list[int]:
        """Tasks that have units left, in order."""
        done = done_keys(self.path)
        if not done:
            return list(range(self.tasks))
        keys = self.keys
        return [slot for slot in range(self.tasks) if not done.issuperset(keys[slice(*self.bounds(slot))])]

    def updated(self, stored: "Plan") -> "Plan":
        """`stored`, this stage's plan in an existing run, with its settings under today's keys."""
        if self.settings_model is None:
            return stored
        try:
            settings = self.settings_model.model_validate(stored.settings).model_dump(mode="json")
        except ValidationError:  # the comparison names the difference
            return stored
        return replace(stored, settings=settings)

    def progress(self, only: int | None = None) -> dict[int, Progress]:
        """Task index -> how far the task has come; tasks that have not begun are left out.

        only: the one task to look at, so that the units of other tasks need not be read.
        """
        done, sizes = done_keys(self.path), record_bytes(self.path)
        counts: dict[int, list[int]] = {}
        first, keys = 0, list[str]()
        if done or sizes:
            first, keys = (0, self.keys) if only is None else (self.bounds(only)[0], self.keys_of(only))
        for index, key in enumerate(keys, first):
            if key in done or key in sizes:
                count = counts.setdefault(self.task_of(index), [0, 0, 0])
                count[0] += key in done
                count[1] += sizes.get(key, 0)
        for slot, steps in reported_steps(self.path).items():
            counts.setdefault(slot, [0, 0, 0])[2] = steps
        return {slot: Progress(*count) for slot, count in counts.items()}

    def header(self) -> dict[str, Any]:
        """The content of plan.json, and `grown` where there is more."""
        row = {name: getattr(self, name) for name in (item.name for item in fields(self)) if name not in NOT_STORED}
        if not self.grown:
            del row["grown"]
        row["after"] = [asdict(edge) for edge in self.after]
        row["resources"] = self.resources.model_dump()
        row["units"] = len(self.units)
        return row


def pack(units: int, startup_s: float, unit_s: float, minutes: float) -> int:
    """Into how many tasks to cut `units`.

    Start-up is to cost at most 5 % of a task's life, a task to last at most 80 % of the time limit, and the tasks to
    be at most `MOST_TASKS`; where these disagree the time limit rules.

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
    """Create the plan's files, or return the plan that is there if it says the same.

    Raises UserError with the differences if another plan stands under the same run and stage, or if a key is no name.
    """
    if not (plan.path / "plan.json").exists():
        create(plan)
    found = plan.updated(read(plan.path))
    refuse(found, compare(found.header(), plan.header() | {"units_sha256": digest(plan)}))
    return taken_up(plan)


def taken_up(plan: Plan) -> Plan:
    """The plan that was written, of which `plan` says the same, with the resources of `plan`: a cluster's may change.

    Raises UserError if its list of units is damaged.
    """
    found = read(plan.path)
    segments.verify(found.path, found.segments)
    return replace(found, resources=plan.resources, units=found.units if found.grows else plan.units)


def create(plan: Plan) -> None:
    """Create the plan's files; another launcher may be first. Raises UserError if a key is no name, or comes twice."""
    plan.path.mkdir(parents=True, exist_ok=True)
    staged = plan.path / f".units.{os.getpid()}"
    total = write_units(plan, staged)
    os.replace(staged, plan.path / segments.UNITS)
    header = plan.header() | {"units_sha256": total, "created": time.time()}
    create_exclusively(plan.path / "plan.json", json.dumps(header, indent=1) + "\n")


def write_units(plan: Plan, path: Path) -> str:
    """Write the list of the plan's units; returns its digest. Raises UserError if a key is no name, or comes twice."""
    check_keys(plan.keys, plan.stage)
    with path.open("wb") as out:
        total = hashlib.sha256()
        for block in encode(plan.units):
            total.update(block)
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    return total.hexdigest()


def digest(plan: Plan) -> str:
    """sha256 of the list of the plan's units."""
    total = hashlib.sha256()
    for block in encode(plan.units):
        total.update(block)
    return total.hexdigest()


def refuse(found: Plan, differences: Sequence[str]) -> None:
    """Raise a UserError that tells what differs from the plan that was found, if anything does."""
    if differences:
        raise UserError(
            f"run {found.run} has another plan for stage {found.stage} ({found.path / 'plan.json'}):\n  "
            + "\n  ".join(differences)
            + "\nUse another RUN=name, or remove the run's folder to start it anew."
        )


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line for each difference of two plan.json that matters: `settings.lr: 0.1 in the run, 0.2 now`."""
    before, after = _flat(old), _flat(new)
    units = "the keys or parameters of the units differ"
    return [
        units
        if name == "units_sha256"
        else f"{name}: {before.get(name, 'absent')} in the run, {after.get(name, 'absent')} now"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and name.split(".")[0] not in FREE
    ]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        rows: dict[str, Any] = {}
        for key, item in value.items():
            rows |= _flat(item, f"{name}.{key}" if name else str(key))
        return rows
    return {name: json.dumps(value, default=list)}


def read(stage_dir: Path) -> Plan:
    """The plan of a stage folder, with all that it has grown by. Raises UserError if there is none."""
    try:
        row = segments.header(stage_dir)
    except FileNotFoundError as error:
        raise UserError(f"{stage_dir} holds no plan: the stage was never submitted in this run") from error
    row["units"] = Listing(stage_dir, segments.of_plan(row))
    row["after"] = tuple(Edge(**edge) for edge in row["after"])
    row["resources"] = Size.model_validate(row["resources"])
    row["setup"] = tuple(row["setup"])
    row["yields_from"] = tuple(row.get("yields_from", ()))
    for name in ("setup", "listed", "grown"):
        row[name] = tuple(row.get(name, ()))
    return Plan(**row)


def require_own_folders(plan: Plan) -> None:
    """Raise UserError unless the stage's workspace is a folder of the run's own, `models/<run>/.work/<stage>`."""
    check_stage(plan.stage)
    root = Path(plan.workspace).parent
    if root.parts[-2:] != (plan.run, ".work") or plan.path.parts[-2:] != (plan.run, plan.stage):
        raise UserError(f"{plan.workspace} and {plan.path} are not of run {plan.run}, so nothing is written or removed")
    require_inside(Path(plan.workspace), root)
