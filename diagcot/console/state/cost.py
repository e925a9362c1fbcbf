"""GPU-hours of stages: declared, spent and remaining; and estimates of training compared with the actual cost."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diagcot.console import text
from diagcot.jobs.plans import segments
from diagcot.jobs.state import documents

Plan = Mapping[str, Any]  # the content of a plan.json
_GPU, _FITS = 80e9, 72e9  # bytes of a GPU, and those that a plan may count on
_PARTS = {
    "weights": "policy", "reference": "reference", "gradients": "gradients", "optimizer": "optimizer",
    "gathered": "gathered layers", "activations": "activations", "logits": "logits", "tower": "vision tower",
    "base": "CUDA and NCCL",
    "sleeping_engine": "sleeping engine", "awake_engine": "awake engine",
}  # fmt: skip
BRIEF_S = 10  # start-up of all tasks of a stage together that is not worth showing


def gpus(plan: Plan) -> int:
    """Number of GPUs of one array task."""
    size = plan["resources"]
    return int(size["gpus"] * size["nodes"] * size["tasks_per_node"])


def memory_gb(size: Mapping[str, Any]) -> float:
    """Memory of one node in GB, in whatever form it is asked for; 0 if it is left to Slurm, or all of the node's."""
    if per_cpu := size.get("mem_per_cpu_gb"):
        return float(per_cpu * size.get("cpus", 1) * size.get("tasks_per_node", 1))
    return float(size.get("mem_gb") or 0)


def declared(plan: Plan) -> tuple[float, float]:
    """GPU-hours of a stage: (at the declared durations, at the time limits)."""
    seconds = plan["tasks"] * plan.get("startup_s", 0) + plan["units"] * plan.get("unit_s", 0)
    limit = plan["tasks"] * plan["resources"]["minutes"] * 60
    return gpus(plan) * min(seconds, limit) / 3600, gpus(plan) * limit / 3600


def remaining(plan: Plan, spent: float, worked: float) -> float:
    """GPU-hours that remain: at the cost of the finished units, or as declared if there are none.

    worked: finished units and the fractions of running ones.
    """
    units = plan["units"]
    if worked >= 1 and spent:
        return float(spent / worked * (units - worked))
    return declared(plan)[0] * (1 - worked / units) if units else 0.0


def serving_figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """Average figures of the model servers of a finished stage, if it used any (see `serving.ServingStats.counts`)."""
    counts = summary.get("counts", {})
    figures = {}
    life = (summary.get("ended") or 0) - (summary.get("started") or 0)
    if "completion_tokens" in counts and life > 0:
        figures["tokens/s"] = counts["completion_tokens"] / life
        figures["requests/s"] = counts.get("requests", counts.get("calls", 0)) / life
    if counts.get("told_tokens"):
        figures["cache hits %"] = 100 * counts["cached_tokens"] / counts["told_tokens"]
    return figures


def startup_share(summary: Mapping[str, Any]) -> float:
    """Share of start-up (model servers, imports, loading) in the task time of a finished stage, 0 to 1; 0 if it was short."""
    if summary.get("startup_seconds", 0) < BRIEF_S:
        return 0.0
    return float(summary["startup_seconds"] / summary["seconds"])


def planned(estimates: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The estimated cost of each training stage, and the assumptions."""
    for stage, row in estimates.items():
        size = f"{_millions(row['parameters'])} parameters, {_millions(row['trained'])} of them trained"
        yield f"{stage}: {size}; about {_gb(row['memory'])} per GPU with ZeRO-{row['zero']}; {_hours(row)}"
        yield f"{stage}: {_other_zero(row)}"
        if len(row["budget"]) > 1:
            yield from (_moment(stage, name, parts) for name, parts in row["budget"].items())
    if estimates:
        yield (
            "GPU-hours of training are estimated for 312 TFLOP/s (A100) at 35 and 7 % of it, what DiagCoT's own runs"
            " reached; memory with attention that keeps no square matrix (docs/training.md)"
        )


def compared(run_dir: Path, spent: Mapping[str, float]) -> Iterator[str]:
    """Actual and estimated cost of finished training stages. spent: their GPU-hours."""
    estimates = documents.find(run_dir / "estimates.json", documents.ESTIMATES)
    for number in range(1, segments.count_growths(run_dir) + 1):
        estimates |= documents.find(run_dir / "grown" / str(number) / "estimates.json", documents.ESTIMATES)
    for stage, hours in spent.items():
        row = estimates.get(stage)
        if row is None:
            continue
        line = f"{stage} took {text.number(round(hours, 1))} GPU-hours; estimated: {_hours(row)}"
        summary = documents.find(run_dir / stage / "summary.json", documents.SUMMARY)
        used = summary.get("counts", {}).get("gpu_memory_gb")
        yield line + (f"; {text.number(round(used, 1))} GB per GPU, estimated {_gb(_trained(row))}" if used else "")


def _trained(row: Mapping[str, Any]) -> float:
    """Bytes of the training processes alone, which is what they measure."""
    parts: Mapping[str, float] = row.get("budget", {}).get("training", {"all": row["memory"]})
    return sum(size for name, size in parts.items() if not name.endswith("_engine"))


def _other_zero(row: Mapping[str, Any]) -> str:
    """What the other ZeRO stage would take, and whether it would be better."""
    other = _gb(row["other_zero_memory"])
    if row["zero"] == 2:
        return f"ZeRO-3 would take {other} and gather the weights in every pass"
    if row["other_zero_memory"] <= _FITS:
        return f"ZeRO-2 would take {other}, which fits a GPU of 80 GB, and gather no weights: `deepspeed: {{stage: 2}}`"
    return f"ZeRO-2 would take {other}, too much for a GPU of 80 GB"


def _moment(stage: str, name: str, parts: Mapping[str, float]) -> str:
    """A line of the budget of a GPU: what it holds at a moment; a warning if that is more than it has."""
    when = {"training": "while it trains", "rollouts": "while it rolls out"}[name]
    held = ", ".join(f"{_PARTS[part]} {size / 1e9:.1f}" for part, size in parts.items())
    total = sum(parts.values())
    line = f"{stage}: {_gb(total)} of a GPU {when}: {held}"
    if total <= _GPU:
        return line
    return f"! {line}; more than the 80 GB of an A100 or H100: more GPUs, a lower gpu_memory_utilization, or an adapter"


def _hours(row: Mapping[str, Any]) -> str:
    if row["sound"] is None:
        return "GPU-hours are unknown until the samples are counted"
    least, most = (text.number(round(row[name], 1)) for name in ("sound", "modest"))
    return f"{least} to {most} GPU-hours for {_millions(row['tokens'])} tokens"


def _gb(size: float) -> str:
    return f"{size / 1e9:.0f} GB"


def _millions(count: float) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"
