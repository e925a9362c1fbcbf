"""Opens the archive of a run that another person has packed, and trusts nothing that is in it."""

import hashlib
import json
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

import yaml

from diagcot.jobs import UserError
from diagcot.jobs.execution.staging import staged as staged_folder
from diagcot.jobs.names import check_name, check_stage
from diagcot.jobs.settings import Document
from diagcot.jobs.state import index as known_runs
from launchers import own_files, pack
from launchers.digests import BLOCK
from launchers.pack import INDEX, LOGS, MODELS, SHARDS

MOST_FILES = 100_000
PARTS = {"run": "logs", "shards": "shards", "models": "models"}
"""First folder of a name in the archive -> the folder of `into` that it goes to."""


def unpack(archive: Path, into: Path, most_bytes: int) -> Path:
    """Unpack into `into`/logs, shards and models; returns the run's folder.

    Raises UserError, and leaves nothing, if the archive holds anything but plain files with plain names, more than
    `most_bytes` or MOST_FILES, what `pack` does not write, a file that differs from its digest, or a run whose name is taken.
    """
    try:
        into.mkdir(parents=True, exist_ok=True)
        with staged_folder(into, ".unpack.") as staged:
            index = _extract(archive, staged, most_bytes)
            return _publish(staged, index["run"], into.resolve())
    except (tarfile.TarError, EOFError, OSError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{archive} cannot be unpacked: {error}") from error


def _extract(archive: Path, staged: Path, most_bytes: int) -> dict[str, Any]:
    left, found = most_bytes, dict[str, str]()
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if not member.isreg():
                raise UserError(f"{archive}: {member.name!r} is not a plain file: nothing was unpacked")
            name = PurePosixPath(member.name)
            first = name.parts[0] if name.parts else ""
            if name.is_absolute() or ".." in name.parts or (first not in PARTS and str(name) != INDEX):
                raise UserError(f"{archive}: {member.name!r} is outside of the run's folders: nothing was unpacked")
            left -= member.size
            if left < 0 or len(found) >= MOST_FILES:
                raise UserError(
                    f"{archive} holds more than {most_bytes / 1e9:g} GB or {MOST_FILES:,} files: nothing was unpacked."
                    " If that is right, --most allows more GB"
                )
            if why := pack.fault(str(name), member.size):
                raise UserError(f"{archive}: {member.name!r} {why}: nothing was unpacked")
            if str(name) in found:
                raise UserError(f"{archive} holds {member.name!r} twice: nothing was unpacked")
            content = tar.extractfile(member)
            assert content is not None
            found[str(name)] = _write(content, staged / name)
    try:
        index = json.loads((staged / INDEX).read_text(encoding="utf-8"))
        expected, run = dict(index["files"]), str(index["run"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{archive} is no archive of `diagcot pack` ({INDEX}: {error})") from error
    check_name(run)
    found.pop(INDEX)
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        raise UserError(f"{archive} is damaged: {wrong[0]} is missing, added, or differs from its digest")
    _require_own_paths(archive, staged / "run", run)
    _require_cluster(archive, staged / "run")
    _require_recipe(archive, staged)
    return {"run": run}


def _require_own_paths(archive: Path, run_dir: Path, run: str) -> None:
    """Raise UserError if a plan, a growth or a manifest names a path outside of the folders of the run."""
    for path in sorted([*run_dir.glob("*/plan.json"), *run_dir.glob("grown/*/growth.json")]):
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            if path.name == "growth.json":
                good = all(pack.has_own_inputs(grown["inputs"], run) for grown in row["stages"].values())
            else:
                good = _is_own_stage(path, row, run)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{archive}: {path.relative_to(run_dir.parent)} is damaged ({error!r})") from error
        if not good:
            raise UserError(
                f"{archive}: {path.relative_to(run_dir.parent)} names paths outside of the run's folders: nothing was unpacked"
            )


def _is_own_stage(path: Path, row: Mapping[str, Any], run: str) -> bool:
    """True if a plan and the manifests beside it name the stage's folders alone. Raises as reading JSON does, and UserError."""
    stage = path.parent.name
    check_stage(stage)
    good = pack.has_own_folders(row, run, stage)
    for manifest in path.parent.glob("done/*.json"):
        outputs = json.loads(manifest.read_text(encoding="utf-8"))["outputs"]
        for name in [*outputs, *(about["staged"] for about in outputs.values())]:
            good = good and name.startswith(f"{row['output']}/") and ".." not in PurePosixPath(name).parts
    return good


def _require_cluster(archive: Path, run_dir: Path) -> None:
    """Raise UserError unless cluster.yaml is what `pack` writes: variables, shell lines or a container in it would be used by
    verbs that only show the run. Nor may run.json name another cluster file.
    """
    try:
        text = (run_dir / "cluster.yaml").read_bytes()
        good = pack.cluster(json.loads(text)) == text
        about = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        good = good and "cluster_file" not in about
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        good = False
    if not good:
        raise UserError(
            f"{archive}: run/cluster.yaml or run/run.json is missing, or holds what `diagcot pack` does not write: nothing was"
            " unpacked"
        )


def _require_recipe(archive: Path, staged: Path) -> None:
    path = staged / "run" / "recipe.yaml"
    if not path.is_file():
        raise UserError(f"{archive} holds no recipe: nothing was unpacked")
    try:
        value = Document(path).value
    except UserError as error:
        raise UserError(f"{archive} cannot be unpacked: {str(error).replace(f'{staged}/', '')}") from None
    if not own_files.is_recipe(value):
        raise UserError(f"{archive} cannot be unpacked: run/recipe.yaml has no `name` and no list of `stages`")


def _write(content: IO[bytes], path: Path) -> str:
    """Write a new file; returns its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    total = hashlib.sha256()
    with path.open("xb") as out:
        path.chmod(0o600)
        while block := content.read(BLOCK):
            total.update(block)
            out.write(block)
    return total.hexdigest()


def _publish(staged: Path, run: str, into: Path) -> Path:
    targets = {part: into / folder / run for part, folder in PARTS.items()}
    if taken := [path for path in targets.values() if path.exists()]:
        raise UserError(f"{taken[0]} exists: unpack with --into another folder")
    marks = {LOGS: str(into / "logs"), SHARDS: str(into / "shards"), MODELS: str(into / "models")}
    for path in (staged / "run").rglob("*"):
        if path.suffix in (*pack.FIGURES, ".yaml") and "code" not in path.relative_to(staged / "run").parts:
            path.write_text(_placed(path, marks), encoding="utf-8")
    published = list[str]()
    try:
        for part in ("shards", "models", "run"):
            if (staged / part).exists():
                targets[part].parent.mkdir(parents=True, exist_ok=True)
                published.append(part)
                shutil.move(staged / part, targets[part])
    except BaseException:
        for part in published:
            if targets[part].exists():
                shutil.move(targets[part], staged / part)
        raise
    known_runs.add(targets["run"])
    return targets["run"]


def _placed(path: Path, marks: Mapping[str, str]) -> str:
    """The text of a file with folders in place of marks, written as the format of the file writes texts."""
    if path.name == "recipe.yaml":
        document = Document(path)
        first = document.text.partition("\n")[0]
        title = f"{first}\n" if first.startswith("#") else ""
        return title + yaml.safe_dump(_replaced(document.value, marks), sort_keys=False)
    text = path.read_text(encoding="utf-8")
    for mark, folder in marks.items():
        text = text.replace(mark, folder if path.suffix == ".md" else json.dumps(folder)[1:-1])
    return text


def _replaced(value: Any, marks: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_replaced(part, marks) for part in value]
    if isinstance(value, dict):
        return {_replaced(key, marks): _replaced(part, marks) for key, part in value.items()}
    if isinstance(value, str):
        for mark, folder in marks.items():
            value = value.replace(mark, folder)
    return value
