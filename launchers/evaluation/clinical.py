"""Kind `clinical`: an array over the evaluation's units of written answers, scored by models that read reports."""

from diagcot.evaluation.settings import ClinicalSettings
from diagcot.jobs import Unit
from diagcot.metrics.clinical import weights
from launchers.evaluation.evaluate import answered
from launchers.stage_kind import ChainView, Stage, StageKind


def units(stage: Stage[ClinicalSettings], chain: ChainView) -> list[Unit]:
    """The units of the evaluation whose task is scored, those of one shard next to each other.

    What was computed of a reference then serves all models. Raises UserError if the input is missing or nothing is
    scored.
    """
    units = answered(stage, chain, stage.settings.tasks)
    return sorted(units, key=lambda unit: [unit.params[name] for name in ("task", "source", "shard")])


def notes(stage: Stage[ClinicalSettings], chain: ChainView) -> list[str]:
    """Which models are there, and which metrics will have no value."""
    return [f"{stage.name}: {line}" for line in weights.notes(stage.settings.weights)]


KIND = StageKind(
    work="diagcot.evaluation.clinical.clinical",
    former_work="diagcot.evaluation.clinical.score",
    settings=ClinicalSettings,
    resource_profile="server",
    product="data",
    startup_s=60,
    unit_s=20,
    units=units,
    reads={"predictions": ("evaluate", "predictions")},
    notes=notes,
    grows="units",
    selector_settings=("tasks",),
)
