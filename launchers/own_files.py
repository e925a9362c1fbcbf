"""Files of the user that a stage and its settings name and that decide its result. Jobs run a copy of them."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from diagcot.jobs import UserError
from diagcot.jobs.environment import own_code
from diagcot.jobs.plans import segments
from diagcot.jobs.settings import Document
from diagcot.jobs.state import documents


def recipe_of(run_dir: Path) -> dict[str, Any]:
    """The recipe of a run as it is now. Raises UserError if the file is damaged or gone."""
    path = segments.current(run_dir, "recipe.yaml")
    remedy = f"Restore it from a copy, or from the recipe that run {run_dir.name} was submitted with"
    try:
        recipe = Document(path).value
    except UserError as error:
        raise documents.DamagedFile(f"{error}. {remedy}") from error
    if not is_recipe(recipe):
        raise documents.DamagedFile(f"{path} is damaged: it has no `name` and no list of `stages`. {remedy}")
    return dict(recipe)


def is_recipe(value: Any) -> bool:
    """True if it has a name and a list of stages; only whoever plans it reads them."""
    stages = value.get("stages") if isinstance(value, dict) and isinstance(value.get("name"), str) else None
    return isinstance(stages, list) and all(isinstance(stage, dict) for stage in stages)


def named(value: Any, key: str = "") -> Iterator[Path]:
    """Files of code and folders of prompts that a stage or its settings name, at every depth. key: that of the value."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from (*named(name), *named(part, str(name)))
    elif isinstance(value, list):
        for part in value:
            yield from named(part)
    elif isinstance(value, str) and (file := _file(value, key)):
        yield Path(file).resolve()


def _file(value: str, key: str) -> str:
    """The file or folder of the user's own that a text of a recipe names; empty if it names none."""
    found = own_code.NAME.fullmatch(value)
    return found[1] if found else value if key == "prompt_set" and "/" in value else ""


def of_stages(settings: Iterable[Mapping[str, Any]]) -> list[Path]:
    """Files and folders that the stages of a run name, each once; those that are not there are left out.

    Raises UserError if two have the same name, since the copies of a run stand side by side.
    """
    found = sorted({path for given in settings for path in named(given) if path.exists()})
    known: dict[str, Path] = {}
    for path in found:
        if (other := known.setdefault(path.name, path)) != path:
            raise UserError(
                f"{other} and {path} have the same name: rename one, since a run keeps a copy of both side by side"
            )
    return found


def moved(value: Any, folder: str, key: str = "") -> Any:
    """A recipe's settings with the user's code and prompts in `folder`, by their names."""
    if isinstance(value, list):
        return [moved(part, folder) for part in value]
    if isinstance(value, dict):
        return {moved(name, folder): moved(part, folder, name) for name, part in value.items()}
    own = isinstance(value, str) and _file(value, key)
    return f"{folder}/{value.rpartition('/')[2]}" if own else value
