"""One archive of a run, to hand over: what decides it, its figures, and, where asked, its models and its texts.

The archive is a gzipped tar file with the folders of one run in it, and `pack.json` with the sha256 of every file. Paths of
this machine are replaced by marks, which `launchers.unpack` replaces by paths of the machine where it is opened.
"""

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from diagcot.jobs import UserError
from diagcot.jobs.environment.code import FOLDER as CODE
from diagcot.jobs.execution import staging
from diagcot.jobs.plans import reused, segments, stored
from diagcot.jobs.state import documents, json_text, ledger, reading
from launchers import digests, own_files
from launchers.reuse import continuation

LOGS, SHARDS, MODELS = "@LOGS@", "@SHARDS@", "@MODELS@"
"""Marks for the folders in which runs have their logs, shards and models."""
INDEX = "pack.json"
FIGURES = (".json", ".md")
"""Files in the run's folder that hold figures and no text of any study."""
LEFT_OUT = ("runner.json", "run.json", "estimates.json", "places.json", reused.FILE)
"""Files of the run's folder that are not copied as they are, or mean nothing elsewhere: `reused.json` names folders of other
runs, which whoever opens the archive would read on the word of whoever has written it."""
SIZES = ("nodes", "tasks_per_node", "cpus", "gpus", "minutes")
"""Keys of a resource profile that travel."""

_MB = 10**6
_STAGE = "[A-Za-z0-9][A-Za-z0-9._-]*"
_KNOWN: Mapping[str, int | None] = {
    re.escape(INDEX): 24 * _MB,
    r"run/(recipe\.yaml|cluster\.yaml|run\.json|stages)": 4 * _MB,
    r"run/code/[^/]+/.+": None,
    r"run/locks/[^/]+\.txt": None,
    r"run/grown/[0-9]+/growth\.json": 4 * _MB,
    r"run/grown/[0-9]+/[^/]+\.jsonl": None,
    rf"run/{_STAGE}/plan\.json": 4 * _MB,
    rf"run/{_STAGE}/units\.jsonl": None,
    rf"run/{_STAGE}/done/[^/]+\.json": 4 * _MB,
    rf"run/(?!({'|'.join(map(re.escape, LEFT_OUT))})$)[^/]+({'|'.join(map(re.escape, FIGURES))})": 64 * _MB,
    r"run/predictions\.parquet": None,
    rf"shards/{_STAGE}/(.+/)?[^/]+\.jsonl": None,
    rf"models/{_STAGE}/.+": None,
}
"""Names of files -> the most bytes of one, where it is read whole."""
WITH_TEXTS = (".jsonl",)
Files = Iterator[tuple[str, Path | bytes]]


def write(run_dir: Path, archive: Path, *, models: bool = False, texts: bool = False) -> dict[str, Any]:
    """Write the archive of a run; returns its index. Images are never in it.

    models: with all weights. texts: with predictions and samples, which hold reports of patients and answers about them.
    Raises UserError if the archive exists or cannot be written, or if a stage of the run has not ended.
    """
    _require_new(archive)
    if not archive.parent.is_dir():
        raise UserError(
            f"{archive} cannot be written: {archive.parent} is no folder. Make it, or name another file with --out"
        )
    found = digests.of_run(run_dir)
    if not found:
        raise UserError(f"run {run_dir.name} has no stage: there is nothing to pack")
    if unfinished := [stage.stage for stage in found if not stage.made]:
        raise UserError(
            f"stages of run {run_dir.name} are not complete: {', '.join(unfinished)}. Continue it first"
            f" (`{continuation(run_dir)}`)"
        )
    if damaged := [line for stage in found for line in stage.damaged]:
        raise UserError(f"run {run_dir.name} is damaged, so it was not packed: {damaged[0]}")
    index: dict[str, Any] = {
        "run": run_dir.name,
        "models": models,
        "texts": texts,
        "stages": [asdict(stage) for stage in found],
        "files": {},
    }
    try:
        _write(run_dir, archive, index)
    except OSError as error:
        raise UserError(f"run {run_dir.name} cannot be packed: {staging.shown(reading.sentence(error))}") from error
    return index


def _require_new(archive: Path) -> None:
    """Raise UserError if the archive exists."""
    if os.path.lexists(archive):
        raise UserError(f"{archive} exists: remove it, or name another file with --out")


def _write(run_dir: Path, archive: Path, index: dict[str, Any]) -> None:
    with staging.staged(archive.parent, ".pack.") as folder:
        staged = folder / archive.name
        with staged.open("xb") as out, gzip.GzipFile("", "wb", fileobj=out, mtime=0) as packed:
            staged.chmod(0o600)
            with tarfile.open(fileobj=packed, mode="w") as tar:
                for name, content in _files(run_dir, index["models"], index["texts"]):
                    _require_known(run_dir, name, content)
                    index["files"][name] = _add(tar, name, content)
                _add(tar, INDEX, json.dumps(index, indent=1).encode())
        _publish(staged, archive)


def _publish(staged: Path, archive: Path) -> None:
    """Give the archive its name, unless a file got that name while it was written. Raises UserError."""
    try:
        os.link(staged, archive)
    except FileExistsError:
        raise UserError(f"{archive} was made by another process meanwhile: name another file with --out") from None
    except OSError:  # a file system without hard links
        _require_new(archive)
        staged.rename(archive)


def _require_known(run_dir: Path, name: str, content: Path | bytes) -> None:
    """Raise UserError for what could not be unpacked."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if why := fault(name, size):
        raise UserError(
            f"{content if isinstance(content, Path) else name} {why}, so run {run_dir.name} cannot be packed"
        )


def _add(tar: tarfile.TarFile, name: str, content: Path | bytes) -> str:
    """Add a file with no owner, time or rights of this machine; returns its sha256."""
    about = tarfile.TarInfo(name)
    about.mode = 0o600
    total = hashlib.sha256()
    if isinstance(content, bytes):
        about.size = len(content)
        tar.addfile(about, io.BytesIO(content))
        total.update(content)
        return total.hexdigest()
    about.size = content.stat().st_size
    with reading.opened(content) as file:
        tar.addfile(about, file)
        file.seek(0)
        while block := file.read(digests.BLOCK):
            total.update(block)
    return total.hexdigest()


def _files(run_dir: Path, models: bool, texts: bool) -> Files:
    plans = list(stored.plans(run_dir))
    places = _places(run_dir, plans)
    code = dict.fromkeys(Path(plan["code"]).name for plan in plans)
    newest = list(code)[-1]
    yield "run/recipe.yaml", _recipe(run_dir, newest)
    for number, _ in segments.growths(run_dir):
        folder = run_dir / "grown" / str(number)
        for path in sorted(folder.glob("*.jsonl")):
            yield f"run/{path.relative_to(run_dir)}", _no_link(path)
        path = folder / "growth.json"
        yield f"run/{path.relative_to(run_dir)}", _portable(path, places)
    about = documents.read(run_dir / "run.json", documents.RUN)
    yield "run/run.json", json.dumps({key: value for key, value in about.items() if key != "cluster_file"}).encode()
    yield "run/cluster.yaml", cluster(documents.read(run_dir / "cluster.yaml", documents.CLUSTER))
    yield "run/stages", "".join(f"{name}\n" for name in stored.stages(run_dir)).encode()
    for name in code:
        for path in sorted((run_dir / CODE / name).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"run/{path.relative_to(run_dir)}", _no_link(path)
    lock = Path(__file__).resolve().parent.parent / "locks"
    for path in sorted(lock.glob("*.txt")):
        yield f"run/locks/{path.name}", path
    for path in sorted(run_dir.iterdir()):
        figures = path.suffix in FIGURES and path.name not in LEFT_OUT
        if path.is_file() and (figures or (texts and path.name == "predictions.parquet")):
            yield f"run/{path.name}", _portable(path, places) if figures else _no_link(path)
    for plan in plans:
        yield from _stage(run_dir, plan, places, models, texts)


def _stage(run_dir: Path, plan: Mapping[str, Any], places: Mapping[str, str], models: bool, texts: bool) -> Files:
    folder = run_dir / plan["stage"]
    segments.verify(folder, segments.of_plan(plan))
    yield f"run/{plan['stage']}/plan.json", _plan(run_dir, plan["stage"], places)
    yield f"run/{plan['stage']}/{segments.UNITS}", _no_link(folder / segments.UNITS)  # as it is: plans hold its digest
    weights = _mark(Path(plan["output"]), places).startswith(MODELS)
    if not (models if weights else texts) or Path(plan["output"]) == run_dir:
        return
    products = [path for path in _products(folder) if weights or path.suffix in WITH_TEXTS]
    for path in products:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                inside = f"{run_dir.name}/"
                name = (
                    _mark(file, places)
                    .replace(f"{MODELS}/{inside}", "models/")
                    .replace(f"{SHARDS}/{inside}", "shards/")
                )
                yield name, file
    if products and len(products) == len(list(_products(folder))):  # so that another run can use the stage
        for key in sorted(ledger.done_keys(folder)):
            manifest = ledger.manifest(folder, key) or {}
            kept = {name: manifest[name] for name in ("unit", "outputs", "time") if name in manifest}
            row = json.dumps(_moved(kept | {"counts": {}}, places))
            yield f"run/{plan['stage']}/done/{key}.json", row.encode()


def _no_link(path: Path) -> Path:
    """The path itself. Raises UserError for a link: what it leads to may be any file that this user can read.

    Products are covered by their digests, so theirs lead to what the stage has published (a model that was taken over).
    """
    if path.is_symlink():
        raise UserError(f"{path} is a link, which is not packed: remove it, or put a copy of the file in its place")
    return path


def _products(folder: Path) -> Iterator[Path]:
    for key in sorted(ledger.done_keys(folder)):
        yield from map(Path, (ledger.manifest(folder, key) or {"outputs": {}})["outputs"])


def _places(run_dir: Path, plans: list[dict[str, Any]]) -> dict[str, str]:
    """Whole folder of this machine -> its mark; the longest first, since one may lie in another.

    Files of a run that was moved name the folders of before.
    """
    places = {str(run_dir.absolute().parent): LOGS, str(run_dir.resolve().parent): LOGS}
    for plan in plans:
        for row in (segments.first_header(run_dir / plan["stage"]), plan):
            places.setdefault(str(Path(row["stage_dir"]).parents[1]), LOGS)
            places.setdefault(row["shards_root"], SHARDS)
            places.setdefault(str(Path(row["workspace"]).parents[2]), MODELS)  # <models>/<run>/.work/<stage>
    return dict(sorted(places.items(), key=lambda item: -len(item[0])))


def _mark(path: Path, places: Mapping[str, str]) -> str:
    inside = ((old, new) for old, new in places.items() if Path(old) in path.parents)
    return next((f"{new}{str(path).removeprefix(old)}" for old, new in inside), str(path))


def _plan(run_dir: Path, stage: str, places: Mapping[str, str]) -> bytes:
    """The plan of a stage with marks. Raises UserError if it names other folders than those that `unpack` makes."""
    row = _moved(segments.first_header(run_dir / stage), places)
    row = {key: value for key, value in row.items() if key != "grown"} | {"setup": []}
    if not has_own_folders(row, run_dir.name, stage):
        raise UserError(
            f"run {run_dir.name} cannot be packed: {run_dir / stage / 'plan.json'} names folders that an archive cannot tell"
            " apart. Use three different folders as `roots` of the cluster file (logs, shards, models), and make the run again"
        )
    return json.dumps(row, indent=1).encode()


def _portable(path: Path, places: Mapping[str, str]) -> bytes:
    """The text of a file with marks in place of folders. Raises UserError if it is damaged."""
    try:
        text = reading.read_text(_no_link(path))
        return (
            json.dumps(_moved(json_text.parse_json(text), places), indent=1)
            if path.suffix == ".json"
            else _moved(text, places)
        ).encode()
    except (ValueError, RecursionError):
        raise UserError(f"{path} is damaged: it is no text. Restore it from a copy, or make it again") from None


def _moved(value: Any, places: Mapping[str, str]) -> Any:
    """A value of JSON with marks in place of folders: of whole paths alone, wherever in a text they begin."""
    if isinstance(value, list | tuple):
        return [_moved(part, places) for part in value]
    if isinstance(value, dict):
        return {_moved(key, places): _moved(part, places) for key, part in value.items()}
    if isinstance(value, str):
        for old, new in places.items():
            value = re.sub(rf"(?<![^\s\"'`(\[=:,|]){re.escape(old)}(?=[/\s\"'`)\],;:|]|\.?$)", new, value)
    return value


def _recipe(run_dir: Path, code: str) -> bytes:
    """The whole recipe of the run as it is now, with the user's own files as they are in the run's copy of the code."""
    recipe = own_files.recipe_of(run_dir)
    moved = own_files.moved(recipe, f"{LOGS}/{run_dir.name}/{CODE}/{code}")
    return f"# {recipe['name']}, as it was submitted\n{yaml.safe_dump(moved, sort_keys=False)}".encode()


def fault(name: str, size: int) -> str:
    """What is wrong with a file of this name and of this many bytes; empty if an archive may hold it."""
    found = [most for known, most in _KNOWN.items() if re.fullmatch(known, name)]
    if not found:
        return "is no file that `diagcot pack` writes"
    return f"is larger than {found[0] // _MB} MB" if found[0] is not None and size > found[0] else ""


def cluster(row: Mapping[str, Any]) -> bytes:
    """The file of a machine without Slurm with the sizes of the run's tasks, and with nothing of the site."""
    found = row.get("resource_profiles") or row.get("sizes") or {}
    profiles = {
        name: {key: size[key] for key in SIZES if type(size.get(key)) in (int, float)} for name, size in found.items()
    }
    roots = {"logs": LOGS, "shards": SHARDS, "models": MODELS}
    written = {"name": "unpacked", "executor": "local", "resource_profiles": profiles, "roots": roots}
    return json.dumps(written, indent=1).encode()


def has_own_folders(plan: Mapping[str, Any], run: str, stage: str) -> bool:
    """True if a plan, with marks, names the folders of this stage alone for what it writes and for its code."""
    products = (f"{SHARDS}/{run}/{stage}", f"{MODELS}/{run}/{stage}", f"{LOGS}/{run}")
    own = (f"{LOGS}/{run}/{stage}", f"{MODELS}/{run}/.work/{stage}", SHARDS, stage)
    code = PurePosixPath(plan["code"])
    return (
        plan["output"] in products
        and (plan["stage_dir"], plan["workspace"], plan["shards_root"], plan["stage"]) == own
        and str(code.parent) == f"{LOGS}/{run}/{CODE}"
        and code.name != ".."
        and has_own_inputs(plan["inputs"], run)
    )


def has_own_inputs(inputs: Mapping[str, list[str]], run: str) -> bool:
    """True if all inputs of a stage, with marks, are products in the run's folders. Those of another run are links there."""
    paths = [PurePosixPath(path) for paths in inputs.values() for path in paths]
    roots = {PurePosixPath(root, run) for root in (LOGS, SHARDS, MODELS)}
    return all((path.parent in roots or path in roots) and path.name != ".." for path in paths)
