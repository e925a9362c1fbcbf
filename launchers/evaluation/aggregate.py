"""Kind `aggregate`: one job that reads all predictions and writes the run's metrics table and report."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from diagcot.evaluation import own_metrics
from diagcot.evaluation.settings import AggregateSettings, PredictionsSettings
from diagcot.jobs import Unit, UserError
from diagcot.jobs.environment import own_code
from launchers.inputs import ANSWERS
from launchers.stage_kind import ChainView, Stage, StageKind


def units(stage: Stage[AggregateSettings], chain: ChainView) -> list[Unit]:
    """The one unit; it carries the models in the order in which the evaluation lists them, those that ran elsewhere last.

    Its key is a digest of all that it reads and of its settings, so that an aggregation of less, or by other settings, does
    not count as this one.
    """
    sources = stage.inputs.get("predictions", [])
    if not sources:
        raise UserError(f"stage {stage.name} needs the input predictions: the evaluation stages")
    trained, brought = _models(sources, chain)
    models = [*trained, *brought]
    inputs = [
        [role, name, *(unit.key for unit in chain.units_of(name))]
        for role, names in stage.inputs.items()
        for name in names
    ]
    starts = {model: start for model in trained if (start := _start(model, models, chain))}
    for model, other in stage.settings.compare_with.items():
        if {model, other} - set(models):
            raise UserError(
                f"stage {stage.name}: compare_with names {model} and {other}; evaluated are {', '.join(models)}"
            )
        starts[model] = other
    chosen = stage.settings.model_dump(mode="json", exclude_defaults=True)
    for metric in chosen.get("metrics", []):
        metric["name"] = own_code.label(metric["name"])  # wherever its file lies
    digest = hashlib.sha256(json.dumps([models, inputs, starts, *([chosen] if chosen else [])]).encode()).hexdigest()
    return [Unit(f"metrics.{digest[:10]}", {"models": models, "starts": starts})]


def check(stage: Stage[Any], chain: ChainView) -> None:
    """Raises OwnCodeError if one of the `metrics` of the stage cannot be called, UserError if nothing answers its task."""
    asked = {
        unit.params.get("task") for source in stage.inputs.get("predictions", []) for unit in chain.units_of(source)
    }
    for metric in stage.settings.metrics:
        if metric.task not in asked:
            raise UserError(
                f"stage {stage.name}: the metric {metric.heading} scores answers to {metric.task}, which no evaluation that"
                " it reads asks for"
            )
        own_metrics.check(metric)


def notes(stage: Stage[AggregateSettings], chain: ChainView) -> list[str]:
    """What a plan shows of comparisons that there will not be."""
    trained, brought = _models(stage.inputs.get("predictions", []), chain)
    named = dict.fromkeys(name for pair in stage.settings.controls.items() for name in pair)
    return [
        f"{stage.name}: controls names {name}, which is not evaluated, so nothing is compared with it"
        for name in named
        if name not in (*trained, *brought)
    ]


def _models(sources: Sequence[str], chain: ChainView) -> tuple[list[str], list[str]]:
    """The evaluated models of the recipe, and those that ran elsewhere."""
    trained = (model for source in sources for model in chain.stage(source).inputs.get("models", []))
    brought = (
        unit.params["model"] for source in sources if _is_foreign(source, chain) for unit in chain.units_of(source)
    )
    return list(dict.fromkeys(trained)), list(dict.fromkeys(brought))


def _is_foreign(source: str, chain: ChainView) -> bool:
    return isinstance(chain.stage(source).settings, PredictionsSettings)


def _start(model: str, models: Sequence[str], chain: ChainView) -> str:
    """The nearest model that `model` was made from and that was evaluated, too; empty if there is none."""
    while sources := chain.stage(model).inputs.get("model", []):
        model = sources[0]
        if model in models:
            return model
    return ""


KIND = StageKind(
    work="diagcot.evaluation.aggregate",
    settings=AggregateSettings,
    resource_profile="cpu",
    product="report",
    startup_s=5,
    unit_s=60,
    units=units,
    reads={"predictions": ANSWERS, "verdicts": ("judge",), "clinical": ("clinical", "green")},
    check=check,
    notes=notes,
    grows="anew",  # when the evaluation has grown, or with other settings, the table is made again
    selector_settings=tuple(AggregateSettings.model_fields),
    needs=("java",),
)
