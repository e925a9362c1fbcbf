"""Kind `questions`: an array of short tasks that write the question answering data of a shard."""

from collections.abc import Iterator

from diagcot.cot.settings import QuestionSettings
from diagcot.data.readers.registry import CollectionEntry
from launchers.inputs import NEEDS, SHARDS, one_per_shard, possible
from launchers.stage_kind import ChainView, Stage, StageKind


def notes(stage: Stage[QuestionSettings], chain: ChainView) -> list[str]:
    """Collections that give no question, or none of the tasks that need reports in English."""
    asked = [task for task, share in stage.settings.tasks.items() if share]
    return [
        f"{stage.name}: {line}"
        for name in stage.inputs.get("shards", [])
        if (shards := chain.stage(name)).spec.kind == "shard"
        for source in shards.settings.sources
        for line in _remarks(source.dataset, asked, drawn=source.input is not None or source.phantom_images)
    ]


def _remarks(entry: CollectionEntry, asked: list[str], *, drawn: bool) -> Iterator[str]:
    """drawn: the images are phantoms, whose boxes are known."""
    english = entry.language == "en"
    given = (entry.gives() | ({"boxes"} if drawn else set())) - (set() if english else {"reports"})
    if not any(possible(task, given) for task in asked):
        missing = sorted({need for task in asked for need in NEEDS[task]} - given)
        yield f"{entry.name} gives no question of any task that is asked; it lacks {', '.join(missing)}"
    elif not english and (refused := [task for task in asked if "reports" in NEEDS[task]]):
        yield f"{entry.name} is not asked {', '.join(refused)}: its reports are not in English ({entry.language})"


KIND = StageKind(
    work="diagcot.cot.synthetic.questions",
    former_work="diagcot.cot.questions",
    settings=QuestionSettings,
    resource_profile="cpu",
    product="data",
    startup_s=5,
    unit_s=120,
    units=one_per_shard,
    reads={"shards": SHARDS},
    notes=notes,
)
