"""How a run grows: stages that join it, and units that come after those a stage has. Nothing that was planned changes.

What is new is recorded in `grown/<n>/growth.json`, one file for all stages of one submission, created last and once: a
launcher that is killed before it has changed nothing, and the next one goes on (see `diagcot.jobs.plans.segments`).
"""

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diagcot.jobs.errors import UserError
from diagcot.jobs.plans import plan as plans
from diagcot.jobs.plans import segments
from diagcot.jobs.plans.plan import Plan
from diagcot.jobs.plans.stored import stages
from diagcot.jobs.plans.units import Unit, Units
from diagcot.jobs.state.files import create_exclusively, fsync_tree
from diagcot.jobs.state.ledger import supersede

ADDED = ("inputs", "after", "units", "tasks", "units_sha256", "grown")  # compared by what was there, not as a whole


@dataclass(frozen=True)
class Addition:
    """What a stage gets: further units in tasks of their own, and its inputs, edges and settings as they are now."""

    plan: Plan
    units: Units
    tasks: int


@dataclass(frozen=True)
class Growth:
    """What a pipeline has that the run has not: `joined` are stages, `additions` what the stages that are there get."""

    run_dir: Path
    joined: tuple[str, ...] = ()
    additions: Mapping[str, Addition] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.joined or self.additions)

    def told(self) -> list[str]:
        """A line for each stage that joins or gets more."""
        lines = [f"{name}: joins the run" for name in self.joined]
        for name, more in self.additions.items():
            units, tasks = len(more.units), f"{more.tasks} task{'s' * (more.tasks != 1)}"
            what = f"{units} further unit{'s' * (units != 1)} in {tasks}" if units else "other inputs, no further units"
            lines.append(f"{name}: {'made anew' if more.plan.grows == 'anew' else what}")
        return lines

    @property
    def number(self) -> int:
        return len(segments.growths(self.run_dir)) + 1

    def commit(self, keep: Mapping[str, str], code: str) -> None:
        """Record it, for good. keep: files of the run's folder as they are now; code: the launcher's version."""
        folder, stages = self.run_dir / "grown" / str(self.number), {}
        shutil.rmtree(folder, ignore_errors=True)  # of a launcher that was killed before it came to the end of this
        folder.mkdir(parents=True)
        for name, text in keep.items():
            (folder / name).write_text(text, encoding="utf-8")
        for name, more in self.additions.items():
            listed = replace(more.plan, units=more.units)
            row: dict[str, Any] = {"units": len(more.units), "tasks": more.tasks}
            if more.units:
                row["units_sha256"] = plans.write_units(listed, folder / f"{name}.jsonl")
            header = listed.header()
            stages[name] = row | {name: header[name] for name in ("inputs", "after", "settings")}
        fsync_tree(folder)
        record = {"time": time.time(), "code": code, "joined": self.joined, "stages": stages}
        if not create_exclusively(folder / "growth.json", json.dumps(record, indent=1) + os.linesep):
            raise FileExistsError(f"{folder}/growth.json: two launchers let the same run grow at once")


def growth(run_dir: Path, listed: Sequence[Plan]) -> Growth:
    """What the plans of a pipeline have beyond those that the run has; for a new run, nothing. Writes nothing.

    Raises UserError with the differences if a plan says otherwise than the run's, if the run has a stage that is not
    listed, if a stage that cannot grow follows one that does, or if a list of units is damaged.
    """
    known = stages(run_dir)
    if gone := [name for name in known if name not in {plan.stage for plan in listed}]:
        raise UserError(
            f"run {run_dir.name} has stages that are not planned now: {', '.join(gone)}. A run may grow and not shrink:"
            " put them back, or use another RUN=name"
        )
    additions: dict[str, Addition] = {}
    for plan in listed:
        if (plan.path / "plan.json").exists():
            found = plan.updated(plans.read(plan.path))
            segments.verify(found.path, found.segments)
            more = addition(found, plan, additions)
            if more is not None:
                additions[plan.stage] = more
    _check_followers(listed, additions)
    told = {name for _, growth in segments.growths(run_dir) for name in growth["joined"]}
    began = _began_with(run_dir)
    joined = [plan.stage for plan in listed if began is not None and plan.stage not in began | told]
    return Growth(run_dir, tuple(joined), additions)


def _began_with(run_dir: Path) -> set[str] | None:
    """The stages that the run was made of at first, or None if there is no run yet."""
    try:
        return set(json.loads((run_dir / "run.json").read_bytes())["stages"])
    except FileNotFoundError:
        return None
    except KeyError:  # a run that was planned by an earlier version
        return set(stages(run_dir))


def addition(found: Plan, plan: Plan, beside: Mapping[str, Addition]) -> Addition | None:
    """What `plan` has beyond the plan that was found; None if they say the same.

    beside: what the stages before it get. Raises UserError with the differences if it is not only more.
    """
    if not (found.grows and plan.grows):
        plans.refuse(found, plans.compare(found.header(), plan.header() | {"units_sha256": plans.digest(plan)}))
        return None
    new, told = _further_units(found, plan)
    plans.refuse(found, [*_differences(found, plan), *told])
    same = all(getattr(found, name) == getattr(plan, name) for name in ("inputs", "settings"))
    if not new and same and set(found.after) == set(plan.after):
        return None
    units = Units(new)
    # A stage that follows another unit by unit is cut as that one is, so that their tasks stay pairs.
    pairs = [beside[edge.stage] for edge in plan.after if edge.elementwise and edge.stage in beside]
    tasks = next((pair.tasks for pair in pairs if pair.units.keys == units.keys), None)
    if tasks is None:
        tasks = plans.pack(len(units), plan.startup_s, plan.unit_s, plan.resources.minutes)
    return Addition(plan, units, tasks)


def _further_units(found: Plan, plan: Plan) -> tuple[list[Unit], list[str]]:
    """Units of `plan` that are not there yet, in its order; and what it says otherwise of those that are."""
    known = {unit.key: _text(unit) for unit in found.units[:]}
    listed = {unit.key: unit for unit in plan.units[:]}
    new = [unit for key, unit in listed.items() if key not in known]
    told = [
        f"unit {key}: {known[key]} in the run, {_text(unit)} now"
        for key, unit in listed.items()
        if known.get(key, _text(unit)) != _text(unit)
    ]
    if plan.grows == "units":
        told += [f"unit {key}: in the run, absent now" for key in known if key not in listed]
    elif not new and plan.keys != found.keys[-len(plan.keys) :]:
        told.append("its units are those of an earlier time")
    return new, told if len(told) <= 6 else [*told[:5], f"and {len(told) - 5} units more"]


def _text(unit: Unit) -> str:
    return json.dumps(dict(unit.params), sort_keys=True)


def _differences(found: Plan, plan: Plan) -> list[str]:
    """What differs beside the units, and is no mere addition."""
    before, after = (_fixed(one, plan.selector_settings) for one in (found, plan))
    told = plans.compare(before, after)
    for role in found.inputs:
        old, new = found.inputs[role], plan.inputs.get(role, [])
        if [root for root in new if root in old] != old:
            told.append(f"inputs.{role}: {_names(old)} in the run, {_names(new)} now")
    told += [f"after: {edge.stage} in the run, not so now" for edge in found.after if edge not in plan.after]
    return told


def _fixed(plan: Plan, listed: Sequence[str]) -> dict[str, Any]:
    header = {name: value for name, value in plan.header().items() if name not in ADDED}
    return header | {"settings": {name: value for name, value in plan.settings.items() if name not in listed}}


def _names(roots: Sequence[str]) -> str:
    return ", ".join(Path(root).name for root in roots) or "absent"


def _check_followers(listed: Sequence[Plan], additions: Mapping[str, Addition]) -> None:
    for plan in listed:
        growing = [edge.stage for edge in plan.after if edge.stage in additions and additions[edge.stage].units]
        if growing and not plan.grows and (plan.path / "plan.json").exists():
            raise UserError(
                f"stage {growing[0]} would grow, but stage {plan.stage} was made from what it had and cannot grow: use"
                " another RUN=name"
            )


def close(plan: Plan) -> None:
    """End the units of a stage that is made anew whose place others have taken. Safe to repeat."""
    if plan.grows == "anew" and plan.grown:
        first = len(plan.units) - plan.segments[-1].units
        for key in plan.keys[:first]:
            supersede(plan.path, key, plan.keys[first])
