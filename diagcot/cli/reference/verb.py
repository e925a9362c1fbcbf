"""The verb `help`: explains one key of a recipe or cluster file."""

import argparse
import difflib
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from diagcot.cli.options import Verbs
from diagcot.jobs import UserError


@dataclass(frozen=True)
class Place:
    """Where a key stands: in the settings of a kind, in a recipe, or in a cluster file."""

    owner: str
    path: str  # such as deepspeed.global_batch


def add_verbs(verbs: Verbs) -> None:
    """Add help."""
    parser = verbs.add("help", "explain a kind of stage, or a key of a recipe or cluster file", _help)
    parser.add_argument("key", nargs="?", help="such as grpo, kl_coef or deepspeed.steps")
    parser.add_argument(
        "--write", type=Path, default=None, metavar="FOLDER", help="write the reference pages to a folder"
    )


def _help(args: argparse.Namespace) -> int:
    from diagcot.cli.reference import pages

    if args.write:
        print("\n".join(str(path) for path in pages.write(args.write)))
        return 0
    if not args.key:
        args.print_help()  # that of the whole command
        return 0
    print(explain_kind(args.key) or explain(args.key))
    return 0


def explain_kind(name: str) -> str:
    """What a kind of stage does and all keys of its settings; empty if there is no such kind."""
    from launchers import registry

    name = registry.RENAMED.get(name, name)
    kind = registry.find(name)
    if kind is None:
        return ""
    about = " ".join((kind.settings.__doc__ or "").split())
    keys = [f"{place.path}\n{textwrap.indent(text, '  ')}" for place, text, _ in _walk("", kind.settings, "")]
    return "\n\n".join([f"kind {name}\n{about}", *(keys or ["It has no settings."])])


def explain(name: str) -> str:
    """Values, default, meaning and owners of every key of that name. Raises UserError with near matches if there is none."""
    from launchers import registry

    texts: dict[str, list[Place]] = {}
    known: set[str] = set()
    for place, text, old_name in _keys():
        last = place.path.rpartition(".")[2]
        known |= {last, place.path}
        if name in (place.path, last, old_name):
            texts.setdefault(text, []).append(place)
    if not texts:
        near = difflib.get_close_matches(name, known | registry.modules().keys(), 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; docs/reference lists all keys"
        raise UserError(f"no kind and no key {name!r} in recipes or cluster files{hint}")
    return "\n\n".join(_entry(places, text) for text, places in texts.items())


def _entry(places: list[Place], text: str) -> str:
    owners: dict[str, list[str]] = {}
    for place in places:
        owners.setdefault(place.path, []).append(place.owner)
    lines = [f"{path}  ({', '.join(names)})" for path, names in owners.items()]
    return "\n".join([*lines, textwrap.indent(text, "  ")])


def _keys() -> Iterator[tuple[Place, str, str]]:
    """Every key: its place, what is printed about it, and its old name."""
    from diagcot.jobs import Cluster
    from diagcot.recipe import Extension, Recipe
    from launchers import registry

    yield from _walk("recipe", Recipe, "")
    yield from _walk("recipe that extends another", Extension, "")
    yield from _walk("cluster file", Cluster, "")
    for name in sorted(registry.modules()):
        kind = registry.find(name)
        assert kind is not None
        yield from _walk(f"kind {name}", kind.settings, "")


def _walk(owner: str, model: type[BaseModel], prefix: str) -> Iterator[tuple[Place, str, str]]:
    from diagcot.cli.reference.keys import keys, nested

    for key in keys(model):
        default = f"default: {key.default}" if key.default else "required"
        text = f"{key.description}\n{key.values.replace('`', '')}; {default}"
        if key.old_name:
            text += f"\nold name, accepted until the next release: {key.old_name}"
        yield Place(owner, prefix + key.name), text, key.old_name
    for name, found in nested(model):
        yield from _walk(owner, found, f"{prefix}{name}.")
