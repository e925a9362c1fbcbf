"""Checks of a stage's inputs that several kinds share."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from diagcot.jobs import Unit, UserError
from diagcot.jobs.names import near
from diagcot.recipe import StageSpec
from diagcot.tasks.questions.wording import GIVEN
from launchers import own_files
from launchers.stage_kind import ChainView, Stage, StageKind

SHARDS = ("shard", "import")
WEIGHTS = ("model", "align", "sft", "merge", "grpo")
SAMPLES = ("filter", "questions", "synthetic-sft", "import", "texts")
ANSWERS = ("evaluate", "retrieval", "predictions")
"""Kinds of stages that provide what several kinds read."""

NEEDS: dict[str, tuple[str, ...]] = {
    "report": ("reports",),
    **dict.fromkeys(("classification", "binary", "single", "multi", "open", "combined"), ("labels",)),
    "view": ("views",),
    "matching": ("reports",),
    "progression": ("labels", "order"),
    **dict.fromkeys(("grounding", "grounding_pixels"), ("boxes",)),
    **dict.fromkeys(("fg", "fg_i", "fs", "ig", "ig_i"), ("reports",)),
}
"""Task -> what a collection must have for it, as `CollectionEntry.gives` names it."""


LABELLED = " (`from_report: true` in a collection's entry labels its reports by rule)"


def possible(task: str, given: Collection[str]) -> bool:
    """Whether a collection that gives this has samples of a task: what the task is made of, or questions of its own."""
    return (task in GIVEN and "questions" in given) or set(NEEDS.get(task, ())) <= set(given)


def without_samples(stage: Stage[Any], chain: ChainView, tasks: Iterable[str]) -> list[str]:
    """One line for each task that none of the collections of the input `shards` can give a sample of."""
    given: list[set[str]] = []
    for name in stage.inputs.get("shards", []):
        shards = chain.stage(name)
        for source in shards.settings.sources if shards.spec.kind == "shard" else ():
            drawn = source.input is not None or source.phantom_images
            given.append(source.dataset.gives() | ({"boxes"} if drawn else set()))
    lacking = [task for task in tasks if given and not any(possible(task, known) for known in given)]
    return [
        f"{stage.name}: no collection of its shards has {' and '.join(NEEDS[task])}, so there will be no sample of task {task}"
        + (LABELLED if "labels" in NEEDS[task] and any("reports" in known for known in given) else "")
        for task in lacking
    ]


def wrong(stage: StageSpec, kind: StageKind[Any], provided_by: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """(role, what is wrong with it) of each input that the kind does not read, or that is of a kind that cannot provide it.

    provided_by: name of a stage -> its kind. A kind of the user's own may provide anything.
    """
    if kind.reads is None:
        return
    for role, names in stage.inputs.items():
        if role not in kind.reads:
            reads = near(role, kind.reads) or "; it reads nothing"
            yield role, f"stage {stage.name} is of kind {stage.kind}, which reads no {role!r}{reads}"
            continue
        for name in names:
            if (provider := provided_by(name)) not in kind.reads[role] and ":" not in provider:
                yield (
                    role,
                    f"stage {stage.name} reads {name} as {role}, and {name} is of kind {provider}: {role} are made by"
                    f" {', '.join(kind.reads[role])}",
                )


def single(stage: Stage[Any], role: str, what: str) -> str:
    """The one stage of a role. Raises UserError that says `what` the stage needs if there is none or more than one."""
    names = stage.inputs.get(role, [])
    if len(names) != 1:
        raise UserError(f"stage {stage.name} needs {what}")
    return names[0]


def one_per_shard(stage: Stage[Any], chain: ChainView) -> list[Unit]:
    """Unit k is shard k of the input `shards`. Raises UserError if the stage lacks it."""
    shards = single(stage, "shards", "the input shards")
    return chain.units_of(shards)


def one_training(stage: Stage[Any], chain: ChainView) -> list[Unit]:
    """The whole stage is one unit, whose product is a model. Raises UserError if it would learn from the same traces twice."""
    filters: dict[str, str] = {}  # collect stage -> the filter of its traces
    for name in stage.inputs.get("samples", ()):
        source = chain.stage(name)
        for traces in source.inputs.get("traces", ()) if source.spec.kind == "filter" else ():
            if first := filters.get(traces):
                raise UserError(
                    f"stage {stage.name} reads the samples of {first} and of {name}, which both keep traces of {traces}: a"
                    " trace that both keep would be learned twice. Give it one of them; `samples_weight` repeats samples"
                )
            filters[traces] = name
    return [Unit("model")]


def one_table(stage: Stage[Any], chain: ChainView, name: str) -> list[Unit]:
    """The one unit of a stage that makes a table of all predictions; its key, `name` and a digest, says of what and how.

    Raises UserError if the stage reads no predictions.
    """
    sources = stage.inputs.get("predictions", [])
    if not sources:
        raise UserError(f"stage {stage.name} needs the input predictions: the evaluation stages")
    read = [[source, *(unit.key for unit in chain.units_of(source))] for source in sources]
    chosen = own_files.moved(stage.settings.model_dump(), "own")  # wherever files of the user's own lie
    digest = hashlib.sha256(json.dumps([read, chosen]).encode()).hexdigest()
    return [Unit(f"{name}.{digest[:10]}")]


def distinct_collections(stage: Stage[Any], chain: ChainView, role: str, split: str) -> None:
    """Raises UserError if two stages of a role hold the same studies of `split`, whose ids would be the same."""
    known: dict[str, str] = {}  # a collection -> the first stage that holds it
    names = stage.inputs.get(role, [])
    for name in names if len(names) > 1 else ():
        shards = chain.stage(name)
        for source in shards.settings.sources if shards.spec.kind == "shard" else ():
            collection = json.dumps(
                [source.dataset.name, source.path or _written_by(shards, source.input or "", chain)]
            )
            if split not in source.splits:
                continue
            if (first := known.setdefault(collection, name)) != name:
                raise UserError(
                    f"stage {stage.name} reads the collection {source.dataset.name} from {first} and from {name}: every study"
                    " would be there twice under one id. Give it one of them, or other `splits`"
                )


def _written_by(shards: Stage[Any], role: str, chain: ChainView) -> list[Any]:
    """What decides the content of the collection that an input stage writes: its kind, settings and seed."""
    source = chain.stage(shards.inputs[role][0])
    return [source.spec.kind, source.settings.model_dump(mode="json"), source.spec.seed]
