"""How a run grows: stages that join it, and units that come after those a stage has. Nothing that was planned changes.

What is new is recorded in `grown/<n>/growth.json`, one file for all stages of one submission, created last and once: a
launcher that is killed before has changed nothing, and the next one continues (see `diagcot.jobs.plans.segments`).
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diagcot.jobs.errors import UserError
from diagcot.jobs.plans import headers, segments
from diagcot.jobs.plans import plan as plans
from diagcot.jobs.plans.plan import Plan
from diagcot.jobs.plans.stored import stages, unplanned
from diagcot.jobs.plans.units import Unit, Units
from diagcot.jobs.state import documents
from diagcot.jobs.state.files import create_exclusively, fsync_tree, remove
from diagcot.jobs.state.ledger import supersede

AGAIN = "+"
"""Before the number in the key of a unit that makes a product as one before it did, after others in between."""
ADDED = ("inputs", "after", "units", "tasks", "units_sha256", "grown")  # only their earlier part is compared


@dataclass(frozen=True)
class Addition:
    """What a stage gets: further units in tasks of their own, and its current inputs, edges and settings."""

    plan: Plan
    units: Units
    tasks: int


@dataclass(frozen=True)
class Growth:
    """What a pipeline has beyond the stored run: stages that joined, and stage -> what an existing stage gets."""

    run_dir: Path
    joined: tuple[str, ...] = ()
    additions: Mapping[str, Addition] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.joined or self.additions)

    def lines(self) -> list[str]:
        """One line for each stage that joins or grows."""
        lines = [f"{name}: joins the run" for name in self.joined]
        for name, addition in self.additions.items():
            units, tasks = len(addition.units), f"{addition.tasks} task{'s' * (addition.tasks != 1)}"
            what = f"{units} further unit{'s' * (units != 1)} in {tasks}" if units else "other inputs, no further units"
            lines.append(f"{name}: {'made again' if addition.plan.grows == 'anew' else what}")
        return lines

    @property
    def number(self) -> int:
        """The number of this growth, from 1."""
        return len(segments.growths(self.run_dir)) + 1

    def commit(self, keep: Mapping[str, str], code: str) -> None:
        """Record it permanently. keep: the current files of the run's folder, name -> text; code: the launcher's version."""
        folder, stages = self.run_dir / "grown" / str(self.number), {}
        remove(folder, self.run_dir)  # left by a launcher that was killed in the middle of this
        folder.mkdir(parents=True)
        for name, text in keep.items():
            (folder / name).write_text(text, encoding="utf-8")
        for name, addition in self.additions.items():
            plan = replace(addition.plan, units=addition.units)
            row: dict[str, Any] = {"units": len(addition.units), "tasks": addition.tasks}
            if addition.units:
                row["units_sha256"] = plans.write_units(plan, folder / f"{name}.jsonl")
            header = plan.header()
            stages[name] = row | {name: header[name] for name in ("inputs", "after", "settings")}
        fsync_tree(folder)
        record = {"time": time.time(), "code": code, "joined": self.joined, "stages": stages}
        if not create_exclusively(folder / "growth.json", json.dumps(record, indent=1) + os.linesep):
            raise FileExistsError(f"{folder}/growth.json: two launchers let the same run grow at once")


def growth(run_dir: Path, planned: Sequence[Plan]) -> Growth:
    """What the plans of a pipeline have beyond the stored run; nothing for a new run. Writes nothing.

    Raises UserError with the differences if a plan differs from the stored one, if the run has a stage that is not
    planned, if a stage that cannot grow follows one that does, or if a list of units is damaged.
    """
    known = _known(run_dir)
    if absent := [name for name in known if name not in {plan.stage for plan in planned}]:
        raise UserError(
            f"run {run_dir.name} has stages that are not planned now: {', '.join(absent)}. A run may grow but not shrink:"
            " add them again, or use another RUN=name"
        )
    additions: dict[str, Addition] = {}
    for plan in planned:
        if (plan.path / "plan.json").exists():
            stored = plan.updated(plans.read(plan.path))
            segments.verify(stored.path, stored.segments)
            if (extra := addition(stored, plan, additions)) is not None:
                additions[plan.stage] = extra
    _check_followers(planned, additions)
    earlier = {name for _, growth in segments.growths(run_dir) for name in growth.get("joined", ())}
    first = _first_stages(run_dir)
    joined = [plan.stage for plan in planned if first is not None and plan.stage not in first | earlier]
    return Growth(run_dir, tuple(joined), additions)


def _known(run_dir: Path) -> list[str]:
    """The run's stages; a damaged list of them is written again, and what it lacks has its plan all the same."""
    try:
        return [*stages(run_dir), *unplanned(run_dir)]
    except documents.DamagedFile:
        return sorted(path.parent.name for path in run_dir.glob("*/plan.json"))


def _first_stages(run_dir: Path) -> set[str] | None:
    """The stages that the run began with, or None if there is no run yet."""
    try:
        return set(documents.read(run_dir / "run.json", documents.RUN)["stages"])
    except FileNotFoundError:
        return None
    except KeyError:  # a run of an earlier version
        return set(stages(run_dir))


def addition(stored: Plan, plan: Plan, additions: Mapping[str, Addition]) -> Addition | None:
    """What `plan` has beyond the stored plan; None if they say the same.

    additions: what the stages before it get. Raises UserError with the differences if `plan` does not only add.
    """
    if not (stored.grows and plan.grows):
        plans.refuse(stored, headers.compare(stored.header(), plan.header() | {"units_sha256": plans.digest(plan)}))
        return None
    new, unit_differences = _further_units(stored, plan)
    plans.refuse(stored, [*_differences(stored, plan), *unit_differences])
    same = all(getattr(stored, name) == getattr(plan, name) for name in ("inputs", "settings"))
    if not new and same and set(stored.after) == set(plan.after):
        return None
    units = Units(new)
    # A stage that follows another unit by unit is packed as that one is, so that their tasks stay pairs.
    pairs = [additions[edge.stage] for edge in plan.after if edge.elementwise and edge.stage in additions]
    tasks = next((pair.tasks for pair in pairs if pair.units.keys == units.keys), None)
    if tasks is None:
        tasks = plans.pack(len(units), plan.startup_s, plan.unit_s, plan.resources.minutes)
    return Addition(plan, units, tasks)


def _further_units(stored: Plan, plan: Plan) -> tuple[list[Unit], list[str]]:
    """Units of `plan` that are not stored yet, in its order; and the differences of those that are."""
    known = {as_planned(unit.key): _params(unit) for unit in stored.units[:]}
    planned = {unit.key: unit for unit in plan.units[:]}
    new = [unit for key, unit in planned.items() if key not in known]
    if plan.grows == "anew" and not new and plan.keys != list(map(as_planned, stored.keys[-len(plan.keys) :])):
        new = [Unit(_next_key(key, stored.keys), unit.params) for key, unit in planned.items()]
    differences = [
        f"unit {key}: {known[key]} in the run, {_params(unit)} now"
        for key, unit in planned.items()
        if known.get(key, _params(unit)) != _params(unit)
    ]
    if plan.grows == "units":
        differences += [f"unit {key}: in the run, absent now" for key in known if key not in planned]
    return new, differences if len(differences) <= 6 else [*differences[:5], f"and {len(differences) - 5} units more"]


def as_planned(key: str) -> str:
    """The key of a unit as its kind gives it, however often its product was made again."""
    return key.partition(AGAIN)[0]


def _next_key(key: str, known: Sequence[str]) -> str:
    """A key that no unit of the stage has had, since none runs twice: `key`, and how often its product was made so."""
    return f"{key}{AGAIN}{1 + sum(as_planned(other) == key for other in known)}"


def _params(unit: Unit) -> str:
    return json.dumps(dict(unit.params), sort_keys=True)


def _differences(stored: Plan, plan: Plan) -> list[str]:
    """What differs apart from the units, and is not only an addition."""
    differences = headers.compare(_fixed(stored, plan.selector_settings), _fixed(plan, plan.selector_settings))
    for role, old in stored.inputs.items():
        new = plan.inputs.get(role, [])
        if [root for root in new if root in old] != old:
            differences.append(f"inputs.{role}: {_names(old)} in the run, {_names(new)} now")
    return differences + [f"after: {edge} in the run, not so now" for edge in stored.after if edge not in plan.after]


def _fixed(plan: Plan, selector_settings: Sequence[str]) -> dict[str, Any]:
    """The part of a header that may not differ when a stage grows."""
    header = {name: value for name, value in plan.header().items() if name not in ADDED}
    settings = {name: value for name, value in plan.settings.items() if name not in selector_settings}
    return header | {"settings": settings}


def _names(roots: Sequence[str]) -> str:
    return ", ".join(Path(root).name for root in roots) or "absent"


def _check_followers(planned: Sequence[Plan], additions: Mapping[str, Addition]) -> None:
    for plan in planned:
        growing = [edge.stage for edge in plan.after if edge.stage in additions and additions[edge.stage].units]
        if growing and not plan.grows and (plan.path / "plan.json").exists():
            raise UserError(
                f"stage {growing[0]} would grow, but stage {plan.stage} was made from what it had and cannot grow: use"
                " another RUN=name"
            )


def close(plan: Plan) -> None:
    """Mark the units of a stage that makes its product again as superseded by the newest ones. Safe to repeat."""
    if plan.grows == "anew" and plan.grown:
        first = len(plan.units) - plan.segments[-1].units
        for key in plan.keys[:first]:
            supersede(plan.path, key, plan.keys[first])
