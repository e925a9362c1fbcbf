"""Stages whose product another run has made: `from: run/stage` of a recipe."""

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from diagcot.jobs import Plan, UserError
from diagcot.jobs.names import near
from diagcot.jobs.owners import other_owner
from diagcot.jobs.plans import plan as plans
from diagcot.jobs.plans import reused as files
from diagcot.jobs.plans import segments
from diagcot.jobs.state import documents, index, ledger
from diagcot.recipe import KindOf, StageSpec
from diagcot.recipe import find as find_recipe

OWN_CODE = ":"
"""What the name of a kind holds that is a file or module of somebody's own."""


@dataclass(frozen=True)
class Reused:
    """A finished stage of another run."""

    spec: StageSpec
    """The stage, with what its own recipe says; the stages that it reads are named `run/stage`."""
    ancestors: tuple[StageSpec, ...]
    """All stages that it was made from, likewise, in order. They are only looked at."""
    plan: Plan

    @property
    def product(self) -> str:
        """sha256 of what the stage made: of the names and contents of its files, wherever they are."""
        total = hashlib.sha256()
        for key in sorted(ledger.done_keys(self.plan.path)):
            manifest = ledger.manifest(self.plan.path, key) or {"outputs": {}}
            files = sorted((Path(name).name, row["sha256"]) for name, row in manifest["outputs"].items())
            total.update(json.dumps([key, files]).encode())
        return total.hexdigest()

    def record(self) -> dict[str, str]:
        """Its entry of `reused.json`."""
        return {
            "run": self.plan.run,
            "stage": self.plan.stage,
            "folder": str(self.plan.path.parent),
            "product": self.product,
        }


def continuation(run_dir: Path) -> str:
    """The command that continues a run which was made from a recipe."""
    about = documents.read(run_dir / "run.json", documents.RUN)
    file = Path(about.get("cluster_file", ""))
    cluster = str(file) if file.suffix and file.parent.name != "clusters" else about.get("cluster", "laptop")
    recipe = shlex.quote(str(segments.current(run_dir, "recipe.yaml")))
    return f"make submit-all RECIPE={recipe} CLUSTER={shlex.quote(cluster)} RUN={run_dir.name}"


def find(name: str, source: str, logs: Path, root: Path, kind_of: KindOf) -> Reused:
    """The stage `source` (`run/stage`) under the name `name`.

    logs: the folder where runs of that name are looked for first; then everywhere the user has started runs.
    Raises UserError if there is no such run or stage, if the stage is not complete, or if another user's own code would be
    run to plan with it.
    """
    run, stage = source.split("/")
    folder = _folder(run, logs)
    if chained := files.read(folder).get(stage):  # that run has it from a third one
        return find(name, f"{chained['run']}/{chained['stage']}", Path(chained["folder"]).parent, root, kind_of)
    if not (folder / "recipe.yaml").exists():
        raise UserError(f"run {run} ({folder}) was not made from a recipe, so its stages cannot be used by another run")
    owner = other_owner(folder)
    known = (lambda kind: None if OWN_CODE in kind else kind_of(kind)) if owner else kind_of
    recipe, _ = find_recipe(str(segments.current(folder, "recipe.yaml")), root, known)
    specs = {spec.name: spec for spec in recipe.stages}
    if stage not in specs:
        raise UserError(f"run {run} has no stage {stage!r}{near(stage, specs)}")
    plan = plans.read(folder / stage)
    if plan.output == folder:
        raise UserError(f"stage {stage} of run {run} makes a report, which no stage can read")
    if missing := plan.missing():
        raise UserError(
            f"stage {stage} of run {run} is not complete ({len(missing)} of {len(plan.units)} units are missing):"
            f" continue that run first (`{continuation(folder)}`)"
        )
    seen: list[StageSpec] = []
    for one in _ancestors(specs, stage):
        if owner and OWN_CODE in specs[one].kind:
            raise UserError(
                f"stage {one} of run {run} is of a kind of {owner}'s own code ({specs[one].kind}), which is not run here:"
                " make the stage yourself"
            )
        if taken := specs[one].source:
            third = find(f"{run}/{one}", taken, folder.parent, root, kind_of)
            seen += [*third.ancestors, third.spec]
        else:
            seen.append(_seen_from_outside(specs[one], plans.read(folder / one)))
    *ancestors, own = seen
    return Reused(own.model_copy(update={"name": name, "source": source}), tuple(ancestors), plan)


def require_unchanged(run_dir: Path, reused: Mapping[str, Reused]) -> None:
    """Raise UserError if a product has changed since the run in `run_dir` began to use it."""
    before = files.read(run_dir)
    for name, now in reused.items():
        if name in before and before[name]["product"] != now.product:
            raise UserError(
                f"stage {now.plan.stage} of run {now.plan.run} was made again, with another result, since run"
                f" {run_dir.name} began to use it as {name}: what is finished here was made from the earlier one. Use"
                " another RUN=name"
            )


def _folder(run: str, logs: Path) -> Path:
    if (logs / run / "run.json").exists():
        return logs / run
    folders = dict.fromkeys(entry.run_dir for entry in index.entries())
    found = [folder for folder in folders if folder.name == run]
    if len(found) > 1:
        raise UserError(f"{len(found)} runs are named {run} and none is in {logs}: {', '.join(map(str, found))}")
    if not found:
        raise UserError(f"there is no run {run!r}{near(run, {folder.name for folder in folders})}")
    return found[0]


def _ancestors(specs: dict[str, StageSpec], stage: str) -> Iterator[str]:
    """Names of all stages that `stage` was made from, in the order of the recipe, then its own."""
    needed, todo = set[str](), [stage]
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            todo += specs[name].follows
    yield from (name for name in specs if name in needed and name != stage)
    yield stage


def _seen_from_outside(spec: StageSpec, plan: Plan) -> StageSpec:
    """A stage of another run, with names that no stage of a recipe can have, and the settings that it ran with."""
    return spec.model_copy(
        update={
            "name": f"{plan.run}/{spec.name}",
            "inputs": {role: [f"{plan.run}/{name}" for name in names] for role, names in spec.inputs.items()},
            "source": f"{plan.run}/{spec.name}",
            "settings": plan.settings,
            "seed": plan.seed,
        }
    )
