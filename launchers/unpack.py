"""Opens the archive of a run that another person has packed, and trusts nothing that is in it."""

import gzip
import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

import yaml

from diagcot.jobs import UserError
from diagcot.jobs.execution import staging, unpacked
from diagcot.jobs.names import check_name, is_stage
from diagcot.jobs.plans import segments, stored
from diagcot.jobs.settings import Document
from diagcot.jobs.state import documents, json_text, reading
from diagcot.jobs.state.files import private_folder
from launchers import own_files, pack
from launchers.digests import BLOCK
from launchers.pack import INDEX, LOGS, MODELS, SHARDS

MOST_FILES = 100_000
MOST_HEADER = 1 << 14
"""Bytes that stand before the content of a file: three blocks, and a name of at most 4,096 bytes with its length."""
_INDEX = {"run": str, "files": {...: str}}
_LONGEST = 100  # characters of a name in a message
_AGAIN = "copy it again, or have it packed again"


class _Bounded:
    """The bytes of an archive, of which tarfile reads what stands before a file's content whole, however long it is."""

    def __init__(self, archive: Path, content: gzip.GzipFile) -> None:
        self._archive, self._content = archive, content
        self.left = MOST_HEADER
        """Bytes that may be read."""
        self.seek, self.tell = content.seek, content.tell

    def read(self, size: int) -> bytes:
        """Raises UserError for more than is left, before it is read."""
        if not 0 <= size <= self.left:
            raise UserError(
                f"{self._archive} has names or other headers that `diagcot pack` does not write: nothing was unpacked"
            )
        self.left -= size
        return self._content.read(size)


def unpack(archive: Path, into: Path, most_bytes: int) -> Path:
    """Unpack into `into`/logs, shards and models, closed to others; returns the run's folder.

    Raises UserError, and leaves nothing, if the archive holds anything but plain files with plain names, more than
    `most_bytes` or MOST_FILES, what `pack` does not write, a file that differs from its digest, or a run whose name is taken.
    """
    unpacked.require_folders(into)
    before = os.umask(0o077)
    try:
        with reading.opened(archive) as packed, gzip.GzipFile(fileobj=packed) as content:
            private_folder(into)
            with staging.staged(into, ".unpack.") as staged:
                run = _extract(archive, _Bounded(archive, content), staged, most_bytes)
                _place(staged / "run", into.resolve())
                return unpacked.publish(staged, run, into.resolve())
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, ValueError, RecursionError) as error:
        why = str(error)[:200] or type(error).__name__
        raise UserError(f"{archive} cannot be unpacked: it is no whole archive ({why}): {_AGAIN}") from error
    except IsADirectoryError as error:
        raise UserError(
            f"{archive} cannot be unpacked: {error.filename} is no regular file: name the archive itself"
        ) from error
    except OSError as error:
        raise UserError(f"{archive} cannot be unpacked: {staging.shown(reading.sentence(error))}") from error
    finally:
        os.umask(before)


def _extract(archive: Path, content: _Bounded, staged: Path, most_bytes: int) -> str:
    """Write the files of an archive to `staged`, all of them checked; returns the name of the run."""
    left, found = most_bytes, dict[str, str]()
    with tarfile.open(fileobj=content, mode="r:") as tar:  # type: ignore[call-overload]  # it reads, seeks and tells alone
        while (member := tar.next()) is not None:
            tar.members.clear()  # with their headers they would stay in memory
            name = _require_plain(archive, member)
            left -= member.size
            if left < 0 or len(found) >= MOST_FILES:
                raise UserError(
                    f"{archive} holds more than {most_bytes / 1e9:g} GB or {MOST_FILES:,} files: nothing was unpacked."
                    " If that is right, --most allows more GB"
                )
            if why := pack.fault(name, member.size):
                raise UserError(f"{archive}: {_shown(name)} {why}: nothing was unpacked")
            if name in found:
                raise UserError(f"{archive} holds {_shown(name)} twice: nothing was unpacked")
            file = tar.extractfile(member)
            assert file is not None
            content.left = member.size
            found[name] = _write(file, staged / name)
            content.left = MOST_HEADER
    run, expected = _index(archive, staged)
    found.pop(INDEX)
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        raise UserError(
            f"{archive} is damaged: {wrong[0][:_LONGEST]} is missing, added, or differs from its digest: {_AGAIN}"
        )
    _require_cluster(archive, staged / "run")
    _require_recipe(archive, staged)
    try:
        for path in _files_with_paths(staged / "run", run):
            raise UserError(
                f"{archive}: {path.relative_to(staged)} names paths outside of the run's folders: nothing was unpacked"
            )
    except documents.DamagedFile as error:
        fault = (
            str(error).replace(f"{staged}/", "").partition(". ")[0]
        )  # what follows is the remedy for a run that is here
        raise UserError(f"{archive}: {fault}: nothing was unpacked. Have the run packed again") from None
    return run


def _shown(name: str) -> str:
    return repr(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…")


def _require_plain(archive: Path, member: tarfile.TarInfo) -> str:
    """The name of a plain file inside the run's folders. Raises UserError for anything else."""
    if not member.isreg() or member.issparse() or member.size < 0:
        raise UserError(f"{archive}: {_shown(member.name)} is not a plain file: nothing was unpacked")
    name = PurePosixPath(member.name)
    first = name.parts[0] if name.parts else ""
    if name.is_absolute() or ".." in name.parts or (first not in unpacked.PLACES and str(name) != INDEX):
        raise UserError(f"{archive}: {_shown(member.name)} is outside of the run's folders: nothing was unpacked")
    return str(name)


def _index(archive: Path, staged: Path) -> tuple[str, dict[str, str]]:
    """The name of the run, and name of file -> digest."""
    try:
        row = reading.read_json(staged / INDEX)
        why = documents.fault(row, _INDEX)
    except FileNotFoundError:
        why = "it is missing"
    except (ValueError, RecursionError):
        why = "it is not JSON"
    if why:
        raise UserError(f"{archive} is no archive of `diagcot pack`, or only a part of one ({INDEX}: {why}): {_AGAIN}")
    check_name(row["run"])
    return row["run"], row["files"]


def _files_with_paths(run_dir: Path, run: str) -> Iterator[Path]:
    """Plans, growths and stages that name a path outside of the folders of the run. Raises DamagedFile for one with other content
    than `pack` writes, and for a name that is none of a stage.
    """
    names = stored.stages(run_dir)
    for number, growth in segments.growths(run_dir):
        if not all(pack.has_own_inputs(grown["inputs"], run) for grown in growth["stages"].values()):
            yield run_dir / "grown" / str(number) / "growth.json"
    for path in sorted(run_dir.glob("*/plan.json")):
        if not is_stage(path.parent.name) or path.parent.name not in names:
            raise documents.DamagedFile(f"{run_dir / 'stages'} is damaged: it lacks {path.parent.name[:_LONGEST]}")
        row = segments.first_header(path.parent)
        if not pack.has_own_folders(row, run, path.parent.name) or not _are_own_products(path.parent, row["output"]):
            yield path


def _are_own_products(stage_dir: Path, output: str) -> bool:
    """True if the manifests of a stage name files in its output alone."""
    for path in sorted(stage_dir.glob("done/*.json")):
        outputs = documents.read(path, documents.MANIFEST)["outputs"]
        for name in [*outputs, *(about["staged"] for about in outputs.values())]:
            if not name.startswith(f"{output}/") or ".." in PurePosixPath(name).parts or "\0" in name:
                return False
    return True


def _require_cluster(archive: Path, run_dir: Path) -> None:
    """Raise UserError unless cluster.yaml is what `pack` writes: variables, shell lines or a container in it would be used by
    verbs that only show the run. Nor may run.json name another cluster file.
    """
    try:
        text = reading.read_bytes(run_dir / "cluster.yaml")
        good = pack.cluster(json_text.parse_json(text)) == text
        good = good and "cluster_file" not in documents.read(run_dir / "run.json", documents.RUN)
    except (FileNotFoundError, UserError, ValueError, TypeError, AttributeError, RecursionError):
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
    private_folder(path.parent)
    total = hashlib.sha256()
    with path.open("xb") as out:
        path.chmod(0o600)
        while block := content.read(BLOCK):
            total.update(block)
            out.write(block)
    return total.hexdigest()


def _place(run_dir: Path, into: Path) -> None:
    """Replace the marks in the files of a run by the folders that it gets."""
    marks = {LOGS: str(into / "logs"), SHARDS: str(into / "shards"), MODELS: str(into / "models")}
    for path in run_dir.rglob("*"):
        if path.suffix in (*pack.FIGURES, ".yaml") and "code" not in path.relative_to(run_dir).parts:
            path.write_text(_placed(path, marks), encoding="utf-8")


def _placed(path: Path, marks: Mapping[str, str]) -> str:
    """The text of a file with folders in place of marks, written as the format of the file writes texts."""
    if path.name == "recipe.yaml":
        document = Document(path)
        first = document.text.partition("\n")[0]
        title = f"{first}\n" if first.startswith("#") else ""
        return title + yaml.safe_dump(_replaced(document.value, marks), sort_keys=False)
    text = reading.read_text(path)
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
