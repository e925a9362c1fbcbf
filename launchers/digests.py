"""Digests of a run: of what decides the result of each stage, and of what the stage made.

They are of tensors, texts and numbers. Names of runs, places of files, times and speeds are no part of them, so that a run
that was made again bit by bit has the same digests, whatever its name, folder and machine are.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagcot.jobs import UserError
from diagcot.jobs.plans import reused, segments, stored
from diagcot.jobs.plans.growth import as_planned
from diagcot.jobs.state import json_text, ledger, reading
from diagcot.jobs.state.files import digest
from diagcot.shards import Shard
from diagcot.training.models.weight_files import tensors_of

MEASURED = (
    "time",
    "seconds",
    "run",
    "memory_gb",
    "gpu_memory_gb",
    "data_wait",
    "mfu",
    "started",
    "ended",
    "cached_tokens",
)
"""Keys whose values are measured again each time, or name the run; so do those that end in `_s`."""
PAGES = (".html", ".md", ".png", ".parquet")
"""Files that are drawn from others, with the time and the name of the run on them."""
BLOCK = 1 << 22
Shown = dict[str, Any]


@dataclass(frozen=True)
class StageDigest:
    """The digests of a stage, and what is wrong with its files. An unfinished stage has no `made`."""

    stage: str
    decided_by: str
    made: str
    damaged: tuple[str, ...] = ()


def of_run(run_dir: Path, *, check: bool = True) -> list[StageDigest]:
    """The digests of every stage that the run makes. check: compare the files with what they were when they were published."""
    taken = reused.read(run_dir)
    made, found = dict[str, str](), list[StageDigest]()
    for name, row in taken.items():
        source = Path(row["folder"]) / row["stage"]
        try:
            made[name] = _made(stored.plan(source), row["stage"])
        except FileNotFoundError:
            made[name] = ""
            found.append(StageDigest(name, "", "", (f"{source}, from which it was taken, is gone: restore it",)))
    for plan in stored.plans(run_dir):
        name = plan["stage"]
        damaged = tuple(_damaged(plan)) if check else ()
        made[name] = _made(plan, name)
        found.append(StageDigest(name, _decided_by(plan, made), made[name], damaged))
    return found


def _decided_by(plan: Mapping[str, Any], made: Mapping[str, str]) -> str:
    """Of kind, settings, seed, units and code, and of what its inputs hold."""
    inputs = {role: [made.get(Path(root).name, "") for root in roots] for role, roots in plan["inputs"].items()}
    code = Path(plan.get("code", "")).name
    decides = [plan["kind"], _without_places(plan["settings"]), plan["seed"], _units(plan), code, inputs]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _units(plan: Mapping[str, Any]) -> str:
    """Digest of the list of units; of those that made the product last, where a stage has made it again."""
    cut = segments.of_plan(plan)
    if plan.get("grows") != "anew" or len(cut) == 1:
        return str(plan.get("units_sha256", ""))
    lines = segments.lines(Path(plan["stage_dir"]), cut, plan["units"] - cut[-1].units, plan["units"])
    return hashlib.sha256(b"".join(_as_planned(line) for line in lines)).hexdigest()


def _as_planned(line: bytes) -> bytes:
    key = line.decode().split('"', 4)[3]
    return line.replace(key.encode(), as_planned(key).encode(), 1)


def _without_places(value: Any) -> Any:
    """Settings with the last part of each path alone: what a path leads to is in the digest of a product."""
    if isinstance(value, Mapping):
        return {key: _without_places(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_places(part) for part in value]
    return _name(value) if isinstance(value, str) else value


def _name(text: str) -> str:
    """The last part of a path, which is one word; any other text as it is."""
    return text.rpartition("/")[2] if text.startswith(("/", "$")) and len(text.split()) == 1 else text


def _manifests(plan: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    folder = Path(plan["stage_dir"])
    for key in sorted(ledger.done_keys(folder)):
        yield key, ledger.manifest(folder, key) or {"outputs": {}}


def _damaged(plan: Mapping[str, Any]) -> Iterator[str]:
    """A list of units that is not what was planned, and files that are gone or differ from what was published."""
    if why := stored.damage(Path(plan["stage_dir"]), plan):
        yield why
    for key, manifest in _manifests(plan):
        for name, row in manifest["outputs"].items():
            if not Path(name).exists():
                yield f"{name} (unit {key}) is gone"
            elif digest(Path(name)) != row["sha256"]:
                yield f"{name} (unit {key}) was changed after it was published"


def _made(plan: Mapping[str, Any], stage: str) -> str:
    """Of the content of everything that the stage has published; empty while units are missing."""
    total, units = hashlib.sha256(), 0
    for key, manifest in _manifests(plan):
        units += 1
        for name in sorted(manifest["outputs"]):
            for file in _files(Path(name)):
                place = file.relative_to(Path(name).parent)
                total.update(f"{as_planned(key)} {place} {content(file)}\n".encode())
    return total.hexdigest() if units >= plan["units"] else ""


def _files(product: Path) -> Iterator[Path]:
    found = sorted(product.rglob("*")) if product.is_dir() else [product]
    yield from (path for path in found if path.is_file() and path.suffix not in PAGES)


def content(path: Path) -> str:
    """Digest of what a file says: of the tensors of weights, the columns of shards, the values of JSON, else of its bytes.

    A damaged file counts by its bytes.
    """
    try:
        return _said(path)
    except (ValueError, RecursionError, UserError):
        return digest(path)


def _said(path: Path) -> str:
    total = hashlib.sha256()
    if path.suffix == ".safetensors":
        with reading.opened(path) as file:
            for name, tensor in sorted(tensors_of(path).items()):
                total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
                file.seek(tensor.start)
                for at in range(tensor.start, tensor.end, BLOCK):
                    total.update(file.read(min(BLOCK, tensor.end - at)))
    elif path.suffix == ".h5":
        total.update(Shard(path).fingerprint.encode())
    elif path.suffix in (".json", ".jsonl"):
        texts = reading.text_lines(path) if path.suffix == ".jsonl" else [reading.read_text(path)]
        for value in map(json_text.parse_json, texts):
            total.update(json.dumps(_lasting(value), sort_keys=True).encode() + b"\n")
    else:
        return digest(path)
    return total.hexdigest()


def _lasting(value: Any) -> Any:
    """A JSON value without what is measured again each time and without places: of a path the last part alone, of a shard
    its name in the run that has made it.
    """
    if isinstance(value, list):
        return [_lasting(part) for part in value]
    if not isinstance(value, dict):
        return _name(value) if isinstance(value, str) else value
    return {
        key: part.partition("/")[2] if key == "shard" and isinstance(part, str) else _lasting(part)
        for key, part in value.items()
        if key not in MEASURED and not key.endswith("_s")
    }
