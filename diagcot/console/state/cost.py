"""What a stage may cost, has cost and still needs in GPU-hours, and what it got for them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diagcot.console import text
from diagcot.jobs.plans import segments
from diagcot.jobs.state.files import read_json

Plan = Mapping[str, Any]  # the content of a plan.json
BRIEF_S = 10  # start-up of all tasks of a stage together that is not worth a word


def gpus(plan: Plan) -> int:
    """GPUs of one task."""
    size = plan["resources"]
    return int(size["gpus"] * size["nodes"] * size["tasks_per_node"])


def declared(plan: Plan) -> tuple[float, float]:
    """GPU-hours (by the declared durations, at the time limits)."""
    seconds = plan["tasks"] * plan.get("startup_s", 0) + plan["units"] * plan.get("unit_s", 0)
    most = plan["tasks"] * plan["resources"]["minutes"] * 60
    return gpus(plan) * min(seconds, most) / 3600, gpus(plan) * most / 3600


def left(plan: Plan, cost: float, worked: float) -> float:
    """GPU-hours for what remains: as the units that are done have cost, or as declared before there is one.

    worked: units done, those in work by their share.
    """
    units = plan["units"]
    if worked >= 1 and cost:
        return cost / worked * (units - worked)
    return declared(plan)[0] * (1 - worked / units) if units else 0.0


def got(summary: Mapping[str, Any]) -> dict[str, float]:
    """What the model servers of a stage that is done gave over its whole life, where its counts tell (see
    `serving.Flow.counts`)."""
    counts, found = summary.get("counts", {}), {}
    life = (summary.get("ended") or 0) - (summary.get("started") or 0)
    if "completion_tokens" in counts and life > 0:
        found["tokens/s"] = counts["completion_tokens"] / life
        found["requests/s"] = counts.get("requests", counts.get("calls", 0)) / life
    if counts.get("told_tokens"):
        found["cache hits %"] = 100 * counts["cached_tokens"] / counts["told_tokens"]
    return found


def startup(summary: Mapping[str, Any]) -> float:
    """The share of start-up (model servers, imports, loading) in the time of a done stage's tasks, 0 to 1; 0 if it was brief."""
    if summary.get("startup_seconds", 0) < BRIEF_S:
        return 0.0
    return float(summary["startup_seconds"] / summary["seconds"])


def planned(estimates: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What each stage of training is estimated to take, and by which assumptions."""
    for stage, row in estimates.items():
        what = f"{_millions(row['parameters'])} parameters, {_millions(row['trained'])} of them trained"
        yield f"{stage}: {what}; about {_gb(row['memory'])} on a GPU; {_hours(row)}"
    if estimates:
        yield (
            "GPU-hours of training are estimated for 312 TFLOP/s (A100) at 35 and 7 % of it, what DiagCoT's own runs"
            " reached; memory with attention that keeps no square matrix (docs/training.md)"
        )


def compared(run_dir: Path, spent: Mapping[str, float]) -> Iterator[str]:
    """Finished training stages with their estimates. spent: their GPU-hours."""
    estimates = read_json(run_dir / "estimates.json") or {}
    for number in range(1, segments.count_growths(run_dir) + 1):
        estimates |= read_json(run_dir / "grown" / str(number) / "estimates.json") or {}
    for stage, hours in spent.items():
        row = estimates.get(stage)
        if row is None:
            continue
        line = f"{stage} took {text.number(round(hours, 1))} GPU-hours; estimated: {_hours(row)}"
        used = ((read_json(run_dir / stage / "summary.json") or {}).get("counts") or {}).get("gpu_memory_gb")
        yield line + (f"; {text.number(round(used, 1))} GB on a GPU, estimated {_gb(row['memory'])}" if used else "")


def _hours(row: Mapping[str, Any]) -> str:
    if row["sound"] is None:
        return "GPU-hours not known before the samples are counted"
    least, most = (text.number(round(row[name], 1)) for name in ("sound", "modest"))
    return f"{least} to {most} GPU-hours for {_millions(row['tokens'])} tokens"


def _gb(size: float) -> str:
    return f"{size / 1e9:.0f} GB"


def _millions(count: float) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"
