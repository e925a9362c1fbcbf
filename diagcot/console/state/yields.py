"""What a thousand of the good products of a stage have cost so far, such as kept chains of thought."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from diagcot.console.state.status import Run, Stage
from diagcot.jobs.state.files import read_json
from diagcot.jobs.state.ledger import done_manifests


@dataclass(frozen=True)
class Yield:
    """How many a stage has made, and the GPU-hours of all executions, of the stages before it that count as well."""

    stage: str
    name: str  # of the count
    made: int
    gpu_hours: float

    @property
    def per_thousand(self) -> float | None:
        """GPU-hours for a thousand of them; None where there is none, or no GPU was used."""
        return 1000 * self.gpu_hours / self.made if self.made and self.gpu_hours else None


def yields(run: Run) -> list[Yield]:
    """One for each stage whose launcher names what it yields (`YIELDS`), once it has finished a unit."""
    spent = {stage.name: stage.gpu_spent for stage in run.stages}
    return [
        Yield(
            stage.name,
            stage.yields,
            _made(stage),
            sum(spent.get(name, 0.0) for name in (stage.name, *stage.yields_from)),
        )
        for stage in run.stages
        if stage.yields and stage.done
    ]


def _made(stage: Stage) -> int:
    return sum(_count(stage.path / "done" / name.decode(), stage.yields) for name in done_manifests(stage.path))


@lru_cache(maxsize=100_000)
def _count(manifest: Path, name: str) -> int:
    """Manifests do not change: of those that were seen before, none is read again."""
    return int(((read_json(manifest) or {}).get("counts") or {}).get(name, 0))
