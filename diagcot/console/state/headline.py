"""The cost of a stage's main output, such as kept chains of thought."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from diagcot.console.state.run import Run, Stage
from diagcot.jobs.state import documents
from diagcot.jobs.state.ledger import done_manifests


@dataclass(frozen=True)
class HeadlineCost:
    """The number of outputs of a stage, and the GPU-hours of all executions of it and of the stages that prepared them."""

    stage: str
    name: str  # of the count
    count: int
    gpu_hours: float

    @property
    def per_thousand(self) -> float | None:
        """GPU-hours per 1,000 outputs; None if there are none, or no GPU was used."""
        return 1000 * self.gpu_hours / self.count if self.count and self.gpu_hours else None


def headline_costs(run: Run) -> list[HeadlineCost]:
    """One for each stage that has a headline count (`StageKind`) and has finished a unit."""
    spent = {stage.name: stage.gpu_spent for stage in run.stages}
    return [
        HeadlineCost(
            stage.name,
            stage.headline,
            _count(stage),
            sum(spent.get(name, 0.0) for name in (stage.name, *stage.headline_from)),
        )
        for stage in run.stages
        if stage.headline and stage.done
    ]


def _count(stage: Stage) -> int:
    folder = stage.path / "done"
    return sum(_manifest_count(folder / name.decode(), stage.headline) for name in done_manifests(stage.path))


@lru_cache(maxsize=100_000)
def _manifest_count(manifest: Path, name: str) -> int:
    """A count in a manifest. Manifests never change, so each is read only once."""
    counted = documents.find(manifest, documents.MANIFEST).get("counts", {}).get(name, 0)
    return int(counted) if isinstance(counted, int | float) else 0
