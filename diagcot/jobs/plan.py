"""The immutable plan of one stage: its units, how they are packed into tasks, its edges and resources."""

import itertools
import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from diagcot.jobs.cluster import Size
from diagcot.jobs.context import Unit
from diagcot.jobs.errors import UserError
from diagcot.jobs.files import create_exclusively
from diagcot.jobs.ledger import done_keys

STARTUP_SHARE = 0.05  # start-up may cost this share of a task's life
FREE = ("created", "code", "resources")  # parts of a plan that a relaunch may see differ


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
    tasks: tuple[tuple[int, int], ...]  # [first, last) of the units of each task
    stage_dir: str
    startup_s: float = 0
    unit_s: float = 1
    code: str = ""  # the snapshot of the code that the jobs run
    cluster: str = ""
    setup: tuple[str, ...] = ()
    units: tuple[Unit, ...] = field(default=(), repr=False)
    created: float = 0

    @property
    def path(self) -> Path:
        return Path(self.stage_dir)

    @cached_property
    def keys(self) -> list[str]:
        return [unit.key for unit in self.units]

    def units_of(self, slot: int) -> tuple[Unit, ...]:
        first, last = self.tasks[slot]
        return self.units[first:last]

    def missing(self) -> list[str]:
        """Keys of the units that are not done, in plan order."""
        done = done_keys(self.path)
        return [key for key in self.keys if key not in done]

    def open_slots(self) -> list[int]:
        """Tasks that have units left."""
        done = done_keys(self.path)
        return [s for s, (a, b) in enumerate(self.tasks) if any(key not in done for key in self.keys[a:b])]

    def header(self) -> dict[str, Any]:
        row = {k: v for k, v in self.__dict__.items() if k not in ("units", "keys")}
        row["after"] = [asdict(edge) for edge in self.after]
        row["resources"] = self.resources.model_dump()
        row["units"] = len(self.units)
        return row


def pack(units: int, startup_s: float, unit_s: float, minutes: int) -> tuple[tuple[int, int], ...]:
    """Cut `units` into tasks so that start-up is at most 5 % of a task, within 80 % of the time limit, sizes even.

    >>> pack(10, 0, 60, 60)
    ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 9), (9, 10))
    """
    if units == 0:
        return ()
    wanted = math.ceil(startup_s * (1 - STARTUP_SHARE) / STARTUP_SHARE / unit_s) if unit_s > 0 else units
    allowed = int((minutes * 60 * 0.8 - startup_s) / unit_s) if unit_s > 0 else units
    size = max(1, min(wanted, allowed, units))
    count = math.ceil(units / size)
    bounds = [round(i * units / count) for i in range(count + 1)]
    return tuple(itertools.pairwise(bounds))


def write(plan: Plan) -> Plan:
    """Create the plan's files, or return the plan that is there if it says the same.

    Raises UserError with the differences if another plan stands under the same run and stage.
    """
    folder = plan.path
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "plan.json").exists():
        lines = "".join(json.dumps({"key": u.key, **u.params}, sort_keys=True) + "\n" for u in plan.units)
        staged = folder / f".units.{os.getpid()}"
        staged.write_text(lines, encoding="utf-8")
        os.replace(staged, folder / "units.jsonl")
        header = plan.header() | {"created": time.time()}
        if create_exclusively(folder / "plan.json", json.dumps(header, indent=1) + "\n"):
            return plan
    found = read(folder)
    differences = compare(found, plan)
    if differences:
        raise UserError(
            f"run {plan.run} has another plan for stage {plan.stage} ({folder / 'plan.json'}):\n  "
            + "\n  ".join(differences)
            + "\nUse another RUN=name, or remove the run's folder to start it anew."
        )
    return found


def compare(old: Plan, new: Plan) -> list[str]:
    """One line for each difference that matters: `settings.lr: 0.1 in the run, 0.2 now`."""
    before, after = _flat(old.header()), _flat(new.header())
    lines = [
        f"{name}: {before.get(name, 'absent')} in the run, {after.get(name, 'absent')} now"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and name.split(".")[0] not in FREE
    ]
    if not lines and old.units != new.units:
        lines.append("the units differ")
    return lines


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        rows: dict[str, Any] = {}
        for key, item in value.items():
            rows |= _flat(item, f"{name}.{key}" if name else str(key))
        return rows
    return {name: json.dumps(value, default=list)}


def read(stage_dir: Path) -> Plan:
    """The plan of a stage folder. Raises UserError if there is none."""
    try:
        row = json.loads((stage_dir / "plan.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{stage_dir} holds no plan: the stage was never submitted in this run") from error
    row["units"] = tuple(_unit(line) for line in (stage_dir / "units.jsonl").read_text(encoding="utf-8").splitlines())
    row["after"] = tuple(Edge(**edge) for edge in row["after"])
    row["resources"] = Size.model_validate(row["resources"])
    row["tasks"] = tuple((a, b) for a, b in row["tasks"])
    row["setup"] = tuple(row["setup"])
    return Plan(**row)


def _unit(line: str) -> Unit:
    row = json.loads(line)
    return Unit(row.pop("key"), row)
