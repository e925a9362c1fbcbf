"""Checkpoints in a stage's workspace, written by all ranks behind the training; one counts when all parts are whole."""

import contextlib
import random
import shutil
import threading
import time
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from diagcot.jobs import Context
from diagcot.training.checkpoint import shard as part
from diagcot.training.checkpoint import universal
from diagcot.training.checkpoint.shard import Part
from diagcot.training.distributed import process_group

TAG = "state"


class Checkpoints:
    """The checkpoints of a stage: the newest whole one at the start, and new ones, at most one of them being written.

    A context manager: its end waits for the one being written. That one cannot be written is no reason to end: it is
    told, the checkpoints before it stay, and training goes on.

    keep: how many stay; behind: write in a thread from a copy in host memory, else while training waits.
    """

    def __init__(self, ctx: Context, engine: Any, keep: int, behind: bool = True) -> None:
        self._ctx, self._engine, self._keep, self._behind = ctx, engine, keep, behind
        self._root = ctx.workspace / "checkpoints"
        self._writing: tuple[Part, threading.Thread, float] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.settle()
        elif self._writing is not None:  # the other ranks may be gone: what is written here must not wait for them
            self._writing[1].join()

    def resume(self) -> tuple[int, dict[str, Any]] | None:
        """Bring engine and random state back to the newest whole checkpoint; its step and state. A collective.

        One that is not whole, or whose bytes are not those that were written, is passed over, and that is told. On
        another number of ranks rank r takes the random state of the old rank r modulo the old number.
        """
        newest = self._newest()
        if newest is None:
            return None
        folder, marks = newest
        before = len(marks)
        if before == self._ctx.world_size:
            self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
        else:
            universal.load(self._ctx, self._engine, folder, TAG)
        _restore(torch.load(folder / f"random-{self._ctx.rank % before}.pt", weights_only=False))
        self._ctx.event("resumed", step=marks[0]["step"], ranks=self._ctx.world_size, written_by=before)
        return int(marks[0]["step"]), marks[0]["state"]

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write `step` with `state` (JSON, the same on all ranks) and every rank's random state. A collective.

        Nothing of an earlier checkpoint is touched before this one is whole.
        """
        self.settle()
        began = time.monotonic()
        folder = self._root / f"step-{step:08d}"
        problem, token = process_group.broadcast((_empty(folder), self._ctx.attempt) if self._ctx.rank == 0 else None)
        if problem:
            self._failed(step, problem)
            return
        about = {"step": step, "attempt": token, "world_size": self._ctx.world_size, "state": state}
        mine = Part(folder, self._ctx.rank, about)
        mine.take(self._engine, TAG)
        mine.add(f"random-{self._ctx.rank}.pt", _random_state())
        thread = threading.Thread(target=mine.write, name="checkpoint")
        thread.start()
        self._writing = mine, thread, time.monotonic() - began
        if not self._behind:
            self.settle()

    def settle(self) -> None:
        """Wait until the checkpoint being written is whole, on all ranks; then drop all but the newest. A collective."""
        if self._writing is None:
            return
        (mine, thread, stall), self._writing = self._writing, None
        began = time.monotonic()
        thread.join()
        step = int(mine.about["step"])
        errors = [error for error in process_group.all_gather(mine.error) if error]
        if errors:
            self._failed(step, errors[0])
            if self._ctx.rank == 0:
                shutil.rmtree(mine.folder, ignore_errors=True)
        else:
            stall += time.monotonic() - began
            self._ctx.event("checkpoint", step=step, stall_s=round(stall, 4), write_s=round(mine.seconds, 4))
            if self._ctx.rank == 0:
                self._drop(mine.folder)
        process_group.barrier()

    def _failed(self, step: int, why: str) -> None:
        with contextlib.suppress(OSError):  # the disk of the logs may be the one that is full
            print(f"no checkpoint of step {step}: {why}; the one before stays, training goes on", flush=True)
            self._ctx.event("checkpoint_failed", step=step, why=why)

    def _newest(self) -> tuple[Path, list[dict[str, Any]]] | None:
        found = sorted(self._root.glob("step-*"), reverse=True) if self._ctx.rank == 0 else []
        for folder in map(Path, process_group.broadcast([str(path) for path in found])):
            marks = process_group.broadcast(part.read(folder) if self._ctx.rank == 0 else None)
            why = "it is not whole"
            if marks is not None:
                mine = list(part.damaged(folder, marks, self._ctx.rank, self._ctx.world_size))
                if not (bad := sorted(chain.from_iterable(process_group.all_gather(mine)))):
                    return folder, marks
                why = f"{', '.join(bad)}: other bytes than were written"
            if self._ctx.rank == 0:
                print(f"checkpoint {folder.name} is passed over: {why}", flush=True)
            self._ctx.event("checkpoint_passed_over", checkpoint=folder.name, why=why)
        return None

    def _drop(self, newest: Path) -> None:
        """Remove whole ones over `keep`, what a kill left half written or half removed, and what was passed over.

        The newest stays even where this node does not see yet what the others have written.
        """
        folders = sorted(self._root.glob("step-*"), reverse=True)
        kept = [newest, *(folder for folder in folders if folder < newest and part.read(folder))][: self._keep]
        for folder in folders:
            if folder not in kept:
                for mark in folder.glob("part-*.json"):
                    mark.unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)


def _empty(folder: Path) -> str:
    """Make an empty place for a checkpoint; what the disk said against it."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / TAG).mkdir(parents=True)
    except OSError as error:
        return str(error)
    return ""


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def _restore(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
