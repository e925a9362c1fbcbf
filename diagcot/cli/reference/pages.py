"""The pages of docs/reference, written from the settings models and the code."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from diagcot.cli.reference import run_files
from diagcot.cli.reference.keys import keys, nested
from diagcot.data.readers.registry import CollectionEntry
from diagcot.jobs import Cluster
from diagcot.recipe import Extension, Recipe
from launchers import registry
from launchers.stage_kind import StageKind

NOTE = "<!-- Written by `diagcot help --write docs/reference`; do not edit. -->\n"
ELSEWHERE: dict[type[BaseModel], str] = {CollectionEntry: "collections.md"}
"""Models with a page of their own."""


def pages() -> dict[str, str]:
    """File name -> text."""
    return {
        "recipes.md": _page("Recipes", _recipes()),
        "clusters.md": _page("Cluster files", _models([Cluster])),
        "kinds.md": _page("Kinds of stages", _kinds()),
        "collections.md": _page("Entries of the registry of collections", _models([CollectionEntry])),
        "events.md": _page("Events", _events()),
        "run-files.md": _page("Files of a run", _files()),
    }


def write(folder: Path) -> list[Path]:
    """Write all pages; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in pages()]


def _page(title: str, lines: Iterable[str]) -> str:
    return f"{NOTE}# {title}\n\n" + "\n".join(lines).strip() + "\n"


def _recipes() -> Iterator[str]:
    yield "A YAML file in `recipes/`: the stages of a chain, without anything that belongs to a cluster.\n"
    yield from _models([Recipe])
    yield "A recipe may extend another one:\n"
    yield from _models([Extension])


def _kinds() -> Iterator[str]:
    yield "The `settings` of a stage, by its `kind`. Groups of keys that several kinds share follow after the kinds.\n"
    groups: dict[type[BaseModel], None] = {}
    for name in sorted(registry.modules()):
        kind = registry.find(name)
        assert kind is not None
        yield f"## {name}\n"
        yield f"{_text(kind.settings)}\n"
        yield f"Resource profile `{kind.resource_profile}`; product: {kind.product}.\n"
        yield f"Inputs: {_inputs(kind)}.\n"
        yield from _table(kind.settings)
        groups |= dict.fromkeys(model for _, model in nested(kind.settings))
    yield from _models(groups)


def _inputs(kind: StageKind[Any]) -> str:
    """Each role, and the kinds that may provide it."""
    if kind.reads is None:
        return "a role for each `input` of its settings, with any name"
    return "; ".join(f"`{role}`, made by {', '.join(made_by)}" for role, made_by in kind.reads.items()) or "none"


def _models(models: Iterable[type[BaseModel]]) -> Iterator[str]:
    """A section for each model and, after them, for the models of their keys."""
    queue = list(models)
    seen: set[type[BaseModel]] = set()
    while queue:
        model = queue.pop(0)
        if model in seen or (model in ELSEWHERE and seen):
            continue
        seen.add(model)
        yield f"## {model.__name__}\n"
        yield f"{_text(model)}\n"
        yield from _table(model)
        queue += [found for _, found in nested(model)]


def _table(model: type[BaseModel]) -> Iterator[str]:
    if not model.model_fields:
        yield "No keys.\n"
        return
    yield "| key | values | default | meaning |"
    yield "|---|---|---|---|"
    links = {found.__name__: found for _, found in nested(model)}
    for key in keys(model):
        values = key.values
        for name, found in links.items():
            values = values.replace(name, f"[{name}]({ELSEWHERE.get(found, '')}#{name.lower()})")
        default = f"`{key.default}`" if key.default not in ("", "its own defaults") else key.default or "required"
        old_name = f" Old name: `{key.old_name}`." if key.old_name else ""
        yield f"| `{key.name}` | {values} | {default} | {key.description}{old_name} |"
    yield ""


def _text(model: type[BaseModel]) -> str:
    """The docstring of a model, its paragraphs unwrapped."""
    paragraphs = (model.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs).strip()


def _events() -> Iterator[str]:
    yield "Lines of `logs/<run>/<stage>/events.jsonl`. Each has `time` (seconds since the epoch) and `event`; those that a"
    yield "task writes also have `task` and `attempt`.\n"
    yield "| event | meaning | fields |"
    yield "|---|---|---|"
    for name, names in sorted(run_files.events().items()):
        yield f"| `{name}` | {run_files.EVENTS.get(name, '')} | {', '.join(f'`{field}`' for field in sorted(names))} |"


def _files() -> Iterator[str]:
    for title, column, entries in (
        ("logs/<run>/", "file", run_files.RUN_FILES),
        ("logs/<run>/<stage>/", "file", run_files.STAGE_FILES),
        ("plan.json", "key", run_files.PLAN_KEYS),
        ("attempts/<n>.json", "key", run_files.ATTEMPT_KEYS),
    ):
        yield f"## {title}\n"
        yield f"| {column} | content |"
        yield "|---|---|"
        yield from (f"| `{name}` | {text} |" for name, text in entries.items())
        yield ""
