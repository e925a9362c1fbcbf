"""The verb that lists prompt sets and imports one from a copy of a published release."""

import argparse
from pathlib import Path

from diagcot.cli.options import Verbs


def add_verbs(verbs: Verbs) -> None:
    """Add prompts."""
    parser = verbs.add("prompts", "list prompt sets, or import one from a copy of a published release", _prompts)
    parser.add_argument(
        "action",
        choices=["list", "import"],
        help="list: sets of the repository and of the given folders, with digests; import: write a set with the wording of a"
        " copy of DiagCoT or CX-Mind",
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, help="list: folders of other sets; import: the copy of the release"
    )
    parser.add_argument("--to", default=None, type=Path, help="import: folder of the set (default: prompts/<release>)")
    parser.add_argument("--force", action="store_true", help="import: replace files that exist")


def _prompts(args: argparse.Namespace) -> int:
    return _import(args) if args.action == "import" else _list(args.folders)


def _list(folders: list[Path]) -> int:
    from diagcot.tasks.prompt_set import FOLDER, PromptSet

    names = sorted(path.parent.name for path in FOLDER.glob("*/set.yaml"))
    for texts in (*map(PromptSet, names), *(PromptSet(str(folder.resolve())) for folder in folders)):
        about = texts.about
        print(f"{texts.name:<12} version {about.version}  {texts.digest}  {about.description}")
    return 0


def _import(args: argparse.Namespace) -> int:
    from diagcot.jobs import UserError
    from diagcot.tasks.prompt_import import read_release, write_set
    from diagcot.tasks.prompt_set import FOLDER, PromptSet

    if len(args.folders) != 1:
        raise UserError("name the folder of one copy of a release: diagcot prompts import FOLDER")
    found = read_release(args.folders[0])
    folder = args.to or FOLDER / found.release
    files = write_set(found, folder, args.force)
    for line in found.lines:
        print(f"found    {line}")
    for line in found.missing:
        print(f"missing  {line} (the text of the default set stays)")
    name = folder.name if folder.parent == FOLDER else str(folder.resolve())
    print(f"{folder}: {len(files)} files, digest {PromptSet(name).digest}; in a recipe: `prompt_set: {name}`")
    return 0
