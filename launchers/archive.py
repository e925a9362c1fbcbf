"""What the archive of a run may hold, and how long its files may be: `pack` writes, and `unpack` takes, nothing else."""

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

LOGS, SHARDS, MODELS = "@LOGS@", "@SHARDS@", "@MODELS@"
"""Marks for the folders in which runs have their logs, shards and models."""
INDEX = "pack.json"
FIGURES = (".json", ".md")
"""Files in the run's folder that hold figures and no text of any study."""
LEFT_OUT = ("runner.json", "run.json", "estimates.json", "places.json")
"""Files of the run's folder that are not copied as they are, or mean nothing elsewhere."""
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
        and str(code.parent) == f"{LOGS}/{run}/code"
        and code.name != ".."
    )
