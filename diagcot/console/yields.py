"""What the kept chains of thought of a run have cost: one figure over a filter stage and the collect stage before it."""

from dataclasses import dataclass

from diagcot.console import run_files
from diagcot.console.status import Run, Stage

COLLECT, FILTER = "diagcot.cot.collect", "diagcot.cot.filter"


@dataclass(frozen=True)
class Yield:
    """Traces that a filter stage has judged so far, and what they cost, failed attempts included."""

    stage: str
    traces: int
    kept: int
    gpu_hours: float
    calls: int
    tokens: int  # read and written

    @property
    def per_thousand(self) -> float | None:
        """GPU-hours for a thousand kept traces; None where none is kept, or no GPU was used."""
        return 1000 * self.gpu_hours / self.kept if self.kept and self.gpu_hours else None


def yields(run: Run) -> list[Yield]:
    """One for each filter stage of the run that has judged something, from the manifests of its units."""
    found = []
    for stage in run.stages:
        if stage.kind == FILTER and (counts := _counts(stage)):
            names = {name for name, _ in stage.after}
            sources = [other for other in run.stages if other.name in names and other.kind == COLLECT]
            spent = [stage, *sources]
            sums = [counts, *map(_counts, sources)]
            tokens = sum(row.get("prompt_tokens", 0) + row.get("completion_tokens", 0) for row in sums)
            calls = sum(row.get("calls", 0) for row in sums)
            hours = sum(one.gpu_spent for one in spent)
            found.append(Yield(stage.name, counts["traces"], counts["kept"], hours, calls, tokens))
    return found


def _counts(stage: Stage) -> dict[str, int]:
    sums: dict[str, int] = {}
    for name in run_files.done_manifests(stage.path):
        row = run_files.read_json(stage.path / "done" / name.decode()) or {"counts": {}}
        for key, value in row["counts"].items():
            sums[key] = sums.get(key, 0) + value
    return sums
