"""Opens the archive of a run that another person has packed, and trusts nothing that is in it."""

import hashlib
import json
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Any

from diagcot.jobs import UserError
from diagcot.jobs.names import check_name, check_stage
from diagcot.jobs.state import index as known_runs
from launchers.digests import BLOCK
from launchers.pack import INDEX, LOGS, MODELS, SHARDS

MOST_FILES = 100_000
MARKED = (".json", ".jsonl", ".yaml", ".md")
"""Files in which marks are replaced by paths."""
PARTS = {"run": "logs", "shards": "shards", "models": "models"}
"""First folder of a name in the archive -> the folder of `into` that it goes to."""


def unpack(archive: Path, into: Path, most_bytes: int) -> Path:
    """Unpack into `into`/logs, shards and models; returns the run's folder.

    Raises UserError, and leaves nothing, if the archive holds anything but plain files with plain names, more than
    `most_bytes` or MOST_FILES, a file that differs from its digest, or a run whose name is taken.
    """
    try:
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpack.", dir=into) as staged:
            index = _extract(archive, Path(staged), most_bytes)
            return _publish(Path(staged), index["run"], into.resolve())
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
    return {"run": run}


def _require_own_paths(archive: Path, run_dir: Path, run: str) -> None:
    """Raise UserError if a plan or a manifest names a path outside of the folders of the run."""
    if not (run_dir / "recipe.yaml").is_file():
        raise UserError(f"{archive} holds no recipe: nothing was unpacked")
    for path in sorted(run_dir.glob("*/plan.json")):
        stage = path.parent.name
        check_stage(stage)
        products = (f"{SHARDS}/{run}/{stage}", f"{MODELS}/{run}/{stage}", f"{LOGS}/{run}")
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            good = row["output"] in products and row["shards_root"] == SHARDS and row["stage"] == stage
            good = good and (row["stage_dir"], row["workspace"]) == (
                f"{LOGS}/{run}/{stage}",
                f"{MODELS}/{run}/.work/{stage}",
            )
            for manifest in path.parent.glob("done/*.json"):
                outputs = json.loads(manifest.read_text(encoding="utf-8"))["outputs"]
                for name in [*outputs, *(about["staged"] for about in outputs.values())]:
                    good = good and name.startswith(f"{row['output']}/") and ".." not in PurePosixPath(name).parts
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{archive}: {path.relative_to(run_dir.parent)} is damaged ({error!r})") from error
        if not good:
            raise UserError(
                f"{archive}: {path.relative_to(run_dir.parent)} names paths outside of the run's folders: nothing was unpacked"
            )


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
    marks = {LOGS: into / "logs", SHARDS: into / "shards", MODELS: into / "models"}
    for path in (staged / "run").rglob("*"):
        if path.suffix in MARKED and "code" not in path.relative_to(staged / "run").parts:
            text = path.read_text(encoding="utf-8")
            for mark, target in marks.items():
                text = text.replace(mark, str(target))
            path.write_text(text, encoding="utf-8")
    for part in ("shards", "models", "run"):
        if (staged / part).exists():
            targets[part].parent.mkdir(parents=True, exist_ok=True)
            shutil.move(staged / part, targets[part])
    known_runs.add(targets["run"])
    return targets["run"]
