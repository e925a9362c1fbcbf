"""What removes or replaces files: one function for folders, and a list of the modules that do it to single files."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from diagcot.jobs import UserError
from diagcot.jobs.state.files import remove

PACKAGE = Path(__file__).resolve().parents[3] / "diagcot"
FOLDERS = {
    "jobs/state/files.py": "`remove`",
    "jobs/execution/place.py": "temporary folders of nodes, under random names and locks",
}
"""Modules that call rmtree. All others call `remove`."""
FILES = {
    "cli/rewards.py": "a temporary file beside the file that the user names",
    "cot/review/traces.py": "pages of the stage, staged by its context",
    "data/readers/fetch.py": "the files of a list, in the folder of downloads",
    "evaluation/aggregate.py": "pages of the stage, staged by its context",
    "exchange/export.py": "the folder that the user names, which must not exist",
    "jobs/environment/code.py": "the snapshot, under its digest",
    "jobs/execution/copies.py": "a copy of a shard in a private folder of the node",
    "jobs/execution/local.py": "runner.json of the run and summary.json of its stages",
    "jobs/execution/place.py": "temporary folders of nodes",
    "jobs/execution/unpacked.py": "parts that it has put in their places, or marked there, and the mark in them",
    "jobs/execution/worker.py": "stuck/<task>.json of the stage",
    "jobs/lease.py": "numbered leases of the run",
    "jobs/pipeline.py": "a link of the run whose target is gone",
    "jobs/plans/plan.py": "units.jsonl of the stage",
    "jobs/plans/space.py": "the folder of a run that the caller may remove",
    "jobs/slurm/scripts.py": "scripts/*.sbatch of the run",
    "jobs/state/attempts.py": "attempts/<number>.intent and unsubmitted.json of the stage",
    "jobs/state/files.py": "what it has staged itself",
    "jobs/state/ledger.py": "manifests and records of the stage; outputs behind `owners.require_product`",
    "jobs/summary.py": "summary.json of the stage",
    "metrics/meteor/paraphrases.py": "the cache of the user",
    "preflight/checks.py": "a socket that it has made",
    "serving/server/process.py": "the socket in the server's own folder",
    "serving/server/warm.py": "server.json of the servers that it has ended",
    "shards/partial.py": "the unit's own images in the workspace, whose place the worker has checked",
    "shards/verify.py": "a shard behind `owners.require_product`",
    "training/checkpoint/checkpoint.py": "the folder of checkpoints in the workspace",
    "training/checkpoint/shard.py": "the files that it has just written",
    "training/checkpoint/universal.py": "what it has staged in the checkpoint",
    "training/data/dataset.py": "lengths of samples in the workspace",
    "training/distributed/ray_cluster.py": "the address of Ray in the workspace",
    "training/models/model.py": "a file of the staged model",
    "training/monitoring/curves.py": "the picture that it has staged",
    "training/small_model.py": "two folders of models that are missing",
}
"""Modules that remove, rename or replace single files, and which these are. Before you add one: is the file in a folder that the
function knows, under a name that was checked or made there? For a folder or an output of a unit call `remove`."""


def calls(names: set[str]) -> Iterator[tuple[str, str]]:
    """(module, call) of the functions and methods of these names that change a path."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            # Also a function that is handed on, such as `callback(shutil.rmtree, folder)`.
            if isinstance(node, ast.Attribute) and node.attr in names:
                yield str(path.relative_to(PACKAGE)), ast.unparse(node)


def renames() -> Iterator[tuple[str, str]]:
    """(module, call) of what renames a path: `path.replace(target)` has one argument, `text.replace(old, new)` has two."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value)
                of_os = owner in ("os", "shutil") and node.func.attr in ("rename", "replace", "renames", "move")
                of_path = node.func.attr in ("rename", "replace") and len(node.args) == 1 and not node.keywords
                if of_os or (of_path and owner not in ("self", "document")):
                    yield str(path.relative_to(PACKAGE)), ast.unparse(node)


OWN_ROOT = {
    "cli/cleaning.py": "checked by `space.leftovers`",
    "exchange/export.py": "beside the folder that the user names",
    "jobs/environment/code.py": "beside the snapshot, under its digest",
    "jobs/plans/space.py": "checked by `_paths`; the run's own folder",
    "jobs/summary.py": "checked by `require_own_folders`",
    "preflight/checks.py": "just made in the place of this process",
    "training/distributed/ray_cluster.py": "just made in the place of this process",
}
"""Modules that call `remove` with a root that follows from the path, so that it checks nothing, and why they may."""


def test_the_root_of_what_is_removed_is_known_and_not_told_by_the_path() -> None:
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(text)) if "remove(" in (text := path.read_text()) else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "remove" and len(node.args) == 2:
                what, root = map(ast.unparse, node.args)
                if ".parent" in root or root.startswith(what):
                    found.add(str(path.relative_to(PACKAGE)))
    assert found == set(OWN_ROOT)


def test_only_these_modules_remove_folders() -> None:
    assert {module for module, _ in calls({"rmtree", "removedirs"})} == set(FOLDERS)


def test_only_these_modules_remove_or_rename_files() -> None:
    found: dict[str, list[str]] = {}
    for module, call in (*calls({"unlink"}), *renames()):
        found.setdefault(module, []).append(call)
    assert {module: found[module] for module in found if module not in FILES} == {}
    assert set(FILES) <= set(found), "these modules change no file any more"
    assert [call for call in calls({"remove"}) if call[1].startswith("os.")] == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "folder").mkdir(parents=True)
    (tmp_path / "root" / "folder" / "file").touch()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    return tmp_path / "root"


def test_a_link_is_removed_and_not_what_it_leads_to(root: Path) -> None:
    (root / "link").symlink_to(root.parent / "kept")
    (root / "folder" / "inside").symlink_to(root.parent / "kept")
    for name in ("link", "folder", "folder", "not there"):
        remove(root / name, root)
    assert list(root.iterdir()) == [] and (root.parent / "kept" / "file").exists()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../kept", "folder/..", "folder/../..", "link/file", "../root", "/", "link/.."]
)
def test_nothing_outside_of_the_root_is_removed(root: Path, name: str) -> None:
    (root / "link").symlink_to(root.parent / "kept")
    with pytest.raises(UserError, match="is not inside"):
        remove(root / name, root)
    assert (root / "folder" / "file").exists() and (root.parent / "kept" / "file").exists()


def test_what_cannot_be_removed_is_an_error_if_it_must_go(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, *rest: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "unlink", refuse)
    remove(root / "folder", root)
    remove(root / "folder" / "file", root)
    for name in ("folder", "folder/file"):
        with pytest.raises(PermissionError):
            remove(root / name, root, strict=True)
