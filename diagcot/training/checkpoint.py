"""Checkpoints in a stage's workspace, written by all ranks; one counts only when its marker, written last, is there."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from diagcot.jobs.files import fsync_path
from diagcot.training import engine as ranks

MARKER = "complete.json"


def save(engine: Any, workspace: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write `step` with `state` (JSON, the same on all ranks) and this rank's random state; drop all but `keep`.

    A collective. Nothing of an earlier checkpoint is touched before the new one is complete.
    """
    folder = workspace / "checkpoints" / f"step-{step:08d}"
    if dist.get_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    ranks.wait()
    engine.save_checkpoint(str(folder), tag="state", save_latest=False, exclude_frozen_parameters=True)
    torch.save(_random_state(), folder / f"random-{dist.get_rank()}.pt")
    for path in folder.rglob("*"):
        if path.is_file():
            fsync_path(path)
    ranks.wait()
    if dist.get_rank() == 0:
        files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
        marker = {"step": step, "world_size": dist.get_world_size(), "files": files, "state": state}
        staged = folder / f".{MARKER}"
        staged.write_text(json.dumps(marker, indent=1))
        fsync_path(staged)
        staged.rename(folder / MARKER)
        fsync_path(folder)
        kept = valid(workspace)[-keep:]
        for old in sorted(folder.parent.glob("step-*")):
            if old not in kept and old < folder:  # one that a kill left half written or half removed goes, too
                (old / MARKER).unlink(missing_ok=True)
                shutil.rmtree(old, ignore_errors=True)
    ranks.wait()
    return folder


def valid(workspace: Path) -> list[Path]:
    """Complete checkpoints, oldest first. One whose files are not all there at their size does not count."""
    found = []
    for folder in sorted((workspace / "checkpoints").glob("step-*")):
        try:
            files = json.loads((folder / MARKER).read_text())["files"]
            if all((folder / name).stat().st_size == size for name, size in files.items()):
                found.append(folder)
        except (OSError, ValueError, KeyError):
            continue
    return found


def latest(workspace: Path) -> Path | None:
    """The newest valid checkpoint as rank 0 sees it, the same on all ranks. A collective."""
    found = valid(workspace) if dist.get_rank() == 0 else []
    newest = ranks.from_first(str(found[-1]) if found else None)
    return Path(newest) if newest else None


def load(engine: Any, folder: Path) -> tuple[int, dict[str, Any]]:
    """Bring engine and random state back to `folder`; returns its step and state. A collective.

    Raises ValueError if it was written by another number of ranks.
    """
    marker = json.loads((folder / MARKER).read_text())
    if marker["world_size"] != dist.get_world_size():
        raise ValueError(
            f"checkpoint {folder.name} was written by {marker['world_size']} ranks, not {dist.get_world_size()};"
            f" resume on as many, or delete {folder} to start the stage anew"
        )
    engine.load_checkpoint(str(folder), tag="state", load_module_strict=False)
    _restore(torch.load(folder / f"random-{dist.get_rank()}.pt", weights_only=False))
    return int(marker["step"]), marker["state"]


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def _restore(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
